"""The cross-entropy of a vocabulary layer, without logits where there is no token."""

from typing import NamedTuple

from keras import backend, ops

from keras_showattend.ops.gradients import custom_gradient

# XLA wants to know shapes: what is computed is the smallest of these shares of the rows that holds all that count, once
# they stand first. Each is a piece of code to compile. In the lengths that `FeatureStore.batches` chooses, eight of ten
# batches of images with all their captions are real tokens to 0.64 to 0.78 (Flickr8k) or 0.69 to 0.87 (lengths like
# COCO's), of captions one by one to 0.88 and more.
_SHARES = (0.7, 0.78, 0.88, 1.0)


class TokenSums(NamedTuple):
    """Sums over tokens, of each as much as it counts; scalars."""

    loss: object
    crossentropy: object  # the loss without label smoothing
    right: object  # 1 where the target has the largest logit; None where nobody asked


def vocabulary_crossentropy(hidden, kernel, bias, targets, weights, label_smoothing=0.0, count_right=False):
    """Cross-entropy of softmax(h K + b), summed over the rows that count.

        loss = sum_r w_r (-sum_v q_rv log p_rv),   q_r = (1 - e) onehot(y_r) + e / V,   p_r = softmax(h_r K + b)

    Rows of weight 0, padding, stay out of the products with K, the largest of a training step: on torch all of them, on
    other backends, where XLA wants to know shapes, all but those that fill up the next of a few sizes. The gradient is
    formed while the logits are there, in a forward pass that is meant for training: no array `(R, V)` outlives it.

    Args:
        hidden: Float h, `(R, U)`, at least one row.
        kernel: Float K, `(U, V)`.
        bias: Float b, `(V,)`.
        targets: Int y, `(R,)`, from 0 to V - 1.
        weights: Float w, `(R,)`, constants: they get no gradient.
        label_smoothing: Float e in [0, 1).
        count_right: Bool, whether to make the sum `right`.

    Returns:
        `TokenSums` in the dtype of `kernel`. The loss alone has a gradient; on JAX none in forward
        mode (`jax.jvp`), on torch no second one.

    Example:
    >>> import numpy as np
    >>> from keras_showattend.ops import vocabulary_crossentropy
    >>> hidden, kernel, bias = np.zeros((3, 2), "float32"), np.ones((2, 4), "float32"), np.zeros(4, "float32")
    >>> sums = vocabulary_crossentropy(hidden, kernel, bias, targets=[1, 2, 0], weights=[1.0, 1.0, 0.0])
    >>> round(float(sums.loss), 4)  # twice log 4
    2.7726
    """
    dtype, targets = backend.standardize_dtype(kernel.dtype), ops.cast(targets, "int32")
    # Variables too, of which TensorFlow's gradients by hand know nothing.
    hidden, kernel, bias, weights = (ops.cast(x, dtype) for x in (hidden, kernel, bias, weights))

    @custom_gradient
    def run(hidden, kernel, bias, targets, weights):
        compute = _where_it_counts if backend.backend() == "torch" else _in_shares
        sums, gradients = compute(hidden, targets, weights, kernel, bias, label_smoothing, count_right)

        def gradient(upstream):
            parts = zip(gradients, (hidden, kernel, bias), strict=True)
            return *(ops.cast(upstream[0] * gradient, x.dtype) for gradient, x in parts), None, None

        return sums, gradient

    sums = run(hidden, kernel, bias, targets, weights)
    return TokenSums(sums[0], sums[1], sums[2] if count_right else None)


def _where_it_counts(hidden, targets, weights, kernel, bias, *options):
    """The sums, and the gradients of `hidden`, `kernel` and `bias`; on torch, where any number of rows will do."""
    rows = ops.nonzero(weights)[0]
    if not len(rows):
        # Keras knows no largest logit of no row; this one counts nothing.
        rows = ops.zeros_like(targets[:1])
    part = hidden[rows], targets[rows], weights[rows]
    sums, (d_hidden, *others) = _sums_and_gradients(*part, kernel, bias, *options)
    # Keras makes float32 of much that is float64.
    d_rows = ops.zeros_like(hidden, dtype=d_hidden.dtype)
    d_rows[rows] = d_hidden
    return sums, (d_rows, *others)


def _in_shares(hidden, targets, weights, kernel, bias, *options):
    """The same, of one of `_SHARES` of the rows."""
    rows = ops.shape(hidden)[0]
    # Rounded up, so that there is a row always.
    sizes = [rows - rows * round(100 * (1 - share)) // 100 for share in _SHARES]

    def of_first(size):
        def compute(hidden, targets, weights, kernel, bias):
            part = hidden[:size], targets[:size], weights[:size]
            sums, (d_hidden, *others) = _sums_and_gradients(*part, kernel, bias, *options)
            return sums, ops.concatenate([d_hidden, ops.zeros_like(hidden[size:])]), *others

        return compute

    order = ops.argsort(ops.cast(weights == 0, "int32"))
    rows_that_count_first = [ops.take(x, order, axis=0) for x in (hidden, targets, weights)]
    count = ops.sum(ops.cast(weights != 0, "int32"))
    branch = sum(ops.cast(count > size, "int32") for size in sizes[:-1])
    branches = [of_first(size) for size in sizes]
    sums, d_rows, *others = ops.switch(branch, branches, *rows_that_count_first, kernel, bias)
    return sums, (ops.take(d_rows, ops.argsort(order), axis=0), *others)


def _sums_and_gradients(hidden, targets, weights, kernel, bias, label_smoothing, count_right):
    classes = kernel.shape[-1]
    logits = ops.matmul(hidden, kernel) + bias
    largest = ops.max(logits, axis=-1)
    # XLA on a processor writes out whatever it reduces: this array, of the size of the logits, serves the gradient too,
    # where logsumexp, argmax and a masked sum would each write one more.
    exponentials = ops.exp(logits - largest[:, None])
    total = ops.sum(exponentials, axis=-1)
    target = ops.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    crossentropy = loss = largest + ops.log(total) - target
    if label_smoothing:
        loss = crossentropy + label_smoothing * (target - ops.mean(logits, axis=-1))
    counted = [loss, crossentropy]
    class_ids = ops.arange(classes, dtype="int32")
    if count_right:
        first = ops.min(ops.where(logits == largest[:, None], class_ids, classes), axis=-1)
        counted.append(ops.cast(first == targets, logits.dtype))
    wanted = ops.where(class_ids == targets[:, None], (1 - label_smoothing) * weights[:, None], 0.0)
    d_logits = exponentials * (weights / total)[:, None] - wanted
    if label_smoothing:
        d_logits = d_logits - (label_smoothing / classes * weights)[:, None]
    gradients = (
        ops.matmul(d_logits, ops.transpose(kernel)),
        ops.matmul(ops.transpose(hidden), d_logits),
        ops.sum(d_logits, axis=0),
    )
    return ops.stack([ops.sum(weights * part) for part in counted]), gradients
