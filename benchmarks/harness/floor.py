"""The least that a training step can cost: its matrix products at the machine's matmul rate."""

import keras
import numpy as np
from keras import ops


def multiply_adds(sizes, images, captions, length, tokens):
    """Floating-point operations of one training step with every product counted once.

    The vocabulary layer's are counted for the `tokens` to predict alone, since padding has no loss; all others for
    every step of every caption. A product of the forward pass has two in the backward pass, one for each factor's
    gradient; the encoder's has one, as nobody asks for the gradient of the features. tanh, softmax, the optimizer and
    all else count as nothing.
    """
    s = sizes
    steps = captions * (length - 1)
    encoder = 2 * s.locations * s.feature_width * s.embed_dim
    keys = 3 * s.locations * s.embed_dim * s.units
    scores = 3 * s.locations * s.units
    contexts = 3 * s.locations * s.embed_dim
    gates = 3 * 3 * s.units * (s.embed_dim + s.embed_dim + s.units)  # token, context and state
    queries = 3 * s.units * s.units
    hidden = 3 * s.units * s.units
    vocabulary = 3 * s.units * s.vocabulary
    per_step = scores + contexts + gates + queries + hidden
    return 2 * (images * (encoder + keys) + steps * per_step + tokens * vocabulary)


def multiply_adds_of_caption(sizes, buckets):
    """`multiply_adds` for each caption, the mean over an epoch's buckets."""
    total = 0.0
    for bucket in buckets:
        captions = bucket.tokens[..., 0].size
        tokens = np.count_nonzero(bucket.tokens[..., 1:])
        total += bucket.share * multiply_adds(sizes, len(bucket.tokens), captions, bucket.length, tokens) / captions
    return total


def matmul_step(size, dtype="float32"):
    """A function that multiplies two square matrices on the backend and waits, and its operations."""
    generator = np.random.default_rng(0)
    a, b = (ops.cast(generator.standard_normal((size, size), dtype="float32"), dtype) for _ in range(2))
    repeats = 4
    product = compiled(ops.matmul)

    def step():
        result = a
        for _ in range(repeats):
            result = product(a, b)
        wait(result)

    return step, 2 * size**3 * repeats


def compiled(function):
    """`function` compiled by the backend, where it compiles."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def wait(tensor):
    """Wait until `tensor` is computed."""
    backend = keras.backend.backend()
    if backend == "jax":
        tensor.block_until_ready()
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        # The only wait that every version of TensorFlow has: fetch one number.
        ops.convert_to_numpy(tensor[:1, :1])
