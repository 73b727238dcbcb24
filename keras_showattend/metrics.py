"""Metrics of predicted tokens, over real tokens only."""

import threading

import keras
from keras import ops

from keras_showattend.losses import check_predictions, token_crossentropy, token_weights


@keras.saving.register_keras_serializable(package="keras_showattend")
class MaskedAccuracy(keras.metrics.Mean):
    """Share of real tokens whose most probable prediction is right.

    Args:
        name: Name of the metric.
        dtype: Dtype of the sums.

    Call arguments (`update_state`):
        y_true: Int, `(..., T)`, 0 is padding.
        y_pred: Float, `(..., T, V)`, logits or probabilities.
        sample_weight: Optional float, of the leading axes of `y_true`, as in the loss.

    Returns (`result`):
        A scalar in [0, 1]; 0 before any real token.

    Raises:
        ValueError: If `y_pred` does not fit `y_true` or holds no floats, or `sample_weight` does not fit `y_true`.

    Example:
    >>> import keras_showattend, numpy as np
    >>> accuracy = keras_showattend.metrics.MaskedAccuracy()
    >>> accuracy.update_state(np.array([[1, 2, 0]]), np.eye(3)[[[1, 1, 1]]])
    >>> float(accuracy.result())
    0.5
    """

    def __init__(self, name="masked_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        check_predictions(y_true, y_pred)
        right = ops.cast(y_true, "int32") == ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        return _update_by_tokens(super(), right, y_true, sample_weight)


@keras.saving.register_keras_serializable(package="keras_showattend")
class Perplexity(keras.metrics.Mean):
    """How many tokens the model hesitates between: exp of the mean cross-entropy of real tokens.

        perplexity = exp(sum_t w_t m_t (-log p_t[y_t]) / sum_t w_t m_t)

    Args:
        name: Name of the metric.
        dtype: Dtype of the sums.

    Call arguments (`update_state`):
        y_true: Int, `(..., T)`, 0 is padding.
        y_pred: Float, `(..., T, V)`, logits.
        sample_weight: Optional float, of the leading axes of `y_true`, as in the loss.

    Returns (`result`):
        A scalar of at least 1; 1 before any real token.

    Raises:
        ValueError: As `MaskedAccuracy`.

    Example:
    >>> import keras_showattend, numpy as np
    >>> perplexity = keras_showattend.metrics.Perplexity()
    >>> perplexity.update_state(np.array([[1, 2, 0]]), np.zeros((1, 3, 4)))
    >>> round(float(perplexity.result()), 3)
    4.0
    """

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        return _update_by_tokens(super(), token_crossentropy(y_true, y_pred), y_true, sample_weight)

    def result(self):
        return ops.exp(super().result())


def _update_by_tokens(mean, values, tokens, sample_weight):
    # In one row: of more axes Keras takes the mean over all but the first, and a batch of long captions, or of many an
    # image, would count as much as any other.
    weights = ops.reshape(token_weights(tokens, sample_weight), (-1,))
    return mean.update_state(ops.reshape(values, (-1,)), sample_weight=weights)


class TokenWeightedMean(keras.metrics.Mean):
    """The mean loss of an epoch in which a batch counts by its real tokens, not by its rows.

    Keras's training steps report a batch's loss with its number of rows, and only then call `compute_metrics`,
    which knows the tokens. So the loss waits here until `weigh` says what it counts.

    Args:
        name: Name of the metric.
        dtype: Dtype of the sums.

    Example:
    >>> import keras_showattend
    >>> mean = keras_showattend.metrics.TokenWeightedMean()
    >>> for loss, tokens in ((4.0, 10), (1.0, 30)):
    ...     mean.update_state(loss)
    ...     mean.weigh(tokens)
    >>> float(mean.result())
    1.75
    """

    def __init__(self, name="loss", dtype=None):
        super().__init__(name=name, dtype=dtype)
        # By thread: with several devices, TensorFlow traces the step of each in a thread of its own, by turns.
        self._waiting = {}

    def update_state(self, values, sample_weight=None):
        self._waiting[threading.get_ident()] = values

    def weigh(self, weight):
        """Count the loss reported last, if any, by this weight.

        Args:
            weight: Float or scalar tensor, such as the number of real tokens of the batch.
        """
        values = self._waiting.pop(threading.get_ident(), None)
        if values is not None:
            super().update_state(values, sample_weight=weight)
