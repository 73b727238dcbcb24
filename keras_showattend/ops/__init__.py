"""Pure functions of tensors, the mathematics under the layers."""

from keras_showattend.ops.additive_attention import additive_attention as additive_attention
from keras_showattend.ops.attention_gru import (
    AttentionGRUWeights as AttentionGRUWeights,
)
from keras_showattend.ops.attention_gru import (
    ContextGate as ContextGate,
)
from keras_showattend.ops.attention_gru import attention_gru as attention_gru
from keras_showattend.ops.attention_gru import attention_gru_step as attention_gru_step
from keras_showattend.ops.crossentropy import softmax_crossentropy as softmax_crossentropy
from keras_showattend.ops.gradients import without_gradients as without_gradients
from keras_showattend.ops.lookup import lookup as lookup
from keras_showattend.ops.masking import masked_mean as masked_mean
from keras_showattend.ops.masking import masked_softmax as masked_softmax
from keras_showattend.ops.precision import at_least_float32 as at_least_float32
from keras_showattend.ops.precision import at_least_float32_dtype as at_least_float32_dtype
from keras_showattend.ops.vocabulary_crossentropy import vocabulary_crossentropy as vocabulary_crossentropy
