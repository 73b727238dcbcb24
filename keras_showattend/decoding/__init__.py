"""Turning a model's next-token logits into whole sequences; knows no model."""

from keras_showattend.decoding.compiling import compile_decoding as compile_decoding
from keras_showattend.decoding.greedy import Decoded as Decoded
from keras_showattend.decoding.greedy import greedy_search as greedy_search
