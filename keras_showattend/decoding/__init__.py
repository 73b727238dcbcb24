"""Turning a model's next-token logits into whole sequences; knows no model."""

from keras_showattend.decoding.greedy import Decoded as Decoded
from keras_showattend.decoding.greedy import greedy_search as greedy_search
