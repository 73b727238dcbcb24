"""Turning a model's next-token logits into whole sequences; knows no model."""

from keras_showattend.decoding.beam import BeamSearch as BeamSearch
from keras_showattend.decoding.beam import beam_search as beam_search
from keras_showattend.decoding.compiling import compile_decoding as compile_decoding
from keras_showattend.decoding.decoded import Decoded as Decoded
from keras_showattend.decoding.ensembles import ensemble as ensemble
from keras_showattend.decoding.greedy import Greedy as Greedy
from keras_showattend.decoding.greedy import greedy_search as greedy_search
from keras_showattend.decoding.options import Decoding as Decoding
from keras_showattend.decoding.sampling import Sampling as Sampling
from keras_showattend.decoding.sampling import sample as sample
