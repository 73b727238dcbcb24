"""Keras layers: attention, the feature encoder and the attentive decoder."""

from keras_showattend.layers.attention_gru_decoder import AttentionGRUDecoder as AttentionGRUDecoder
from keras_showattend.layers.bahdanau_attention import BahdanauAttention as BahdanauAttention
from keras_showattend.layers.feature_encoder import FeatureEncoder as FeatureEncoder
