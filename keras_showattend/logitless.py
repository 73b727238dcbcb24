"""Training without logits: the loss straight from what the vocabulary layer would get.

Logits of padding are a quarter of those of a batch with an image's captions together, and all logits the largest
arrays of a training step. Where a loss and metrics of this package are all that reads them, nobody makes them.
"""

import contextlib
import contextvars
from typing import NamedTuple

import keras
from keras import ops

from keras_showattend.layers import AttentionGRUDecoder
from keras_showattend.layers.vocabulary_layer import VocabularyLayer
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy, token_weights
from keras_showattend.metrics import MaskedAccuracy, Perplexity
from keras_showattend.ops import vocabulary_crossentropy
from keras_showattend.ops.accelerator import on_jax_accelerator

_active = contextvars.ContextVar("logitless", default=False)
# Of which sum over tokens a metric is the mean.
_SUMS = {MaskedAccuracy: "right", Perplexity: "crossentropy"}


@contextlib.contextmanager
def logitless(active):
    """A context in which captioners return hidden states `(..., T, U)` in place of logits, if `active`."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def is_logitless():
    """Whether this runs inside an active `logitless`."""
    return _active.get()


def can_be_logitless(captioner):
    """Whether this captioner's decoder is one whose loss needs no logits, where that has been found to be faster.

    On a GPU, JAX has other products to choose from, and on several devices the rows of one would have to go to others.
    """
    decoder = captioner.decoder
    return (
        type(decoder).call is AttentionGRUDecoder.call
        and type(decoder.vocabulary) is VocabularyLayer
        and decoder.vocabulary.quantization_mode is None
        # These regularize what a layer returns.
        and not any(x.activity_regularizer for x in (captioner, decoder, decoder.vocabulary))
        and keras.distribution.distribution() is None
        and not on_jax_accelerator()
    )


class LogitlessTraining(NamedTuple):
    """A loss and metrics that are made of `TokenSums`."""

    loss: MaskedSparseCategoricalCrossentropy
    metrics: list  # of `MaskedAccuracy` and `Perplexity`

    def count(self, captioner, hidden, targets, sample_weight):
        """Count a batch in the metrics, and return its loss.

        Args:
            captioner: `Captioner` for which `can_be_logitless` is True.
            hidden: Float, `(..., T, U)`, what it returned.
            targets: Int, `(..., T)`.
            sample_weight: As the loss takes it.
        """
        weights = token_weights(targets, sample_weight)
        total = ops.sum(weights)
        count_right = any(type(metric) is MaskedAccuracy for metric in self.metrics)
        sums = token_sums(
            captioner, hidden, targets, weights, label_smoothing=self.loss.label_smoothing, count_right=count_right
        )
        for metric in self.metrics:
            mean = ops.divide_no_nan(getattr(sums, _SUMS[type(metric)]), total)
            keras.metrics.Mean.update_state(metric, mean, sample_weight=total)
        return ops.divide_no_nan(sums.loss, total)


def logitless_training(loss, metrics=None, weighted_metrics=None, loss_weights=None, **others):
    """The `LogitlessTraining` of these arguments of `compile`, or None where they need logits."""
    weighted_metrics = weighted_metrics or []
    if type(loss) is not MaskedSparseCategoricalCrossentropy or metrics or loss_weights is not None:
        return None
    if not isinstance(weighted_metrics, list) or any(type(metric) not in _SUMS for metric in weighted_metrics):
        return None
    return LogitlessTraining(loss, weighted_metrics)


def token_sums(captioner, hidden, targets, weights, bias=0.0, **options):
    """`TokenSums` of hidden states.

    Args:
        captioner: `Captioner` for which `can_be_logitless` is True.
        hidden: Float, `(..., T, U)`, what it returned.
        targets: Int, `(..., T)`.
        weights: Float, `(..., T)`, what each token counts.
        bias: Float, `(V,)`, added to the logits.
        **options: Of `vocabulary_crossentropy`.
    """
    layer = captioner.decoder.vocabulary
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
    targets, weights = ops.reshape(targets, (-1,)), ops.reshape(weights, (-1,))
    return vocabulary_crossentropy(hidden, layer.kernel, layer.bias + bias, targets, weights, **options)


def add_losses(model, loss):
    """A model's loss and those that its layers have added, as Keras adds them: divided among devices."""
    return sum(model._aggregate_additional_loss(part) for part in (loss, *model.losses))
