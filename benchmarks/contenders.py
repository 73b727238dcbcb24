"""The trainings that the benchmarks compare, each as functions that run one step on a fixed batch.

A step is forward, backward and Adam; it returns when its work is done. Weights, optimizer and batches exist when
the functions here return, so that a first call traces and compiles and does nothing else beside its step.
"""

import importlib.util

import keras
from harness.batches import features_of
from harness.timing import Contender
from keras import ops

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

EAGER, GRAPH = "notebook, eager", "notebook, tf.function"
COMPOSITION, HOISTED = "Keras RNN of a cell", "Keras RNN, keys hoisted"
SINGLE, GROUPED, BFLOAT16 = "ours, one caption", "ours, an image's captions", "ours, the same in bfloat16"
# Of our own step, as a flag says it.
JIT = {"auto": "auto", "on": True, "off": False}


def contender(name, buckets, sizes, jit_compile="auto"):
    """The `Contender` of one of the names above, weighted by the shares of its buckets.

    Args:
        name: One of the names of this module.
        buckets: List of `Bucket`; `(N, G, T)` tokens suit ours only.
        sizes: `Sizes`.
        jit_compile: Bool, of our own step; `"auto"` compiles with XLA where there is one.
    """
    if name in (EAGER, GRAPH):
        steps = notebook_steps(sizes, buckets, graph=name == GRAPH)
    elif name in (COMPOSITION, HOISTED):
        steps = composition_steps(sizes, buckets, project_once=name == HOISTED)
    else:
        dtype = "mixed_bfloat16" if name == BFLOAT16 else "float32"
        steps = captioner_steps(sizes, buckets, dtype=dtype, jit_compile=jit_compile)
    return Contender(name, steps, seconds_weights(buckets))


def seconds_weights(buckets):
    """The seconds of a caption: those of a batch of its bucket, divided among the batch's captions."""
    return [bucket.share / bucket.tokens[..., 0].size for bucket in buckets]


def compiled_captioner(sizes, dtype="float32", jit_compile="auto"):
    """Our model, compiled; its arguments are those of `captioner_steps`."""
    model = Captioner(
        FeatureEncoder(sizes.embed_dim, dtype=dtype),
        AttentionGRUDecoder(sizes.vocabulary, sizes.embed_dim, sizes.units, dtype=dtype),
        dtype=dtype,
    )
    if jit_compile == "auto":
        jit_compile = keras.backend.backend() != "torch"
    model.compile("adam", jit_compile=jit_compile)
    return model


def captioner_steps(sizes, buckets, dtype="float32", jit_compile="auto"):
    """Steps of `keras_showattend.Captioner`, one for each bucket.

    Args:
        sizes: `Sizes`.
        buckets: List of `Bucket`, tokens `(N, T)`, or `(N, G, T)` for the captions of an image together.
        dtype: Name of the dtype policy, such as `"mixed_bfloat16"`.
        jit_compile: Bool; `"auto"` compiles with XLA where there is one.
    """
    model = compiled_captioner(sizes, dtype, jit_compile)
    _build(model, sizes)

    def step_of(bucket):
        features = ops.convert_to_tensor(features_of(sizes, len(bucket.tokens)))
        tokens = ops.convert_to_tensor(bucket.tokens)
        return lambda: model.train_on_batch(features, tokens)

    return [step_of(bucket) for bucket in buckets]


def composition_steps(sizes, buckets, project_once=False, jit_compile=None):
    """Steps of `keras.layers.RNN` around a cell that attends, one for each bucket.

    Args:
        sizes: `Sizes`.
        buckets: List of `Bucket`, tokens `(N, T)`.
        project_once: Whether the keys are projected before the loop instead of at every step.
        jit_compile: Bool; None compiles with XLA where there is one.
    """
    from comparators.keras_rnn import compiled_composition

    if jit_compile is None:
        jit_compile = keras.backend.backend() != "torch"
    model = compiled_composition(sizes, project_once, jit_compile=jit_compile)
    _build(model, sizes)

    def step_of(bucket):
        features = ops.convert_to_tensor(features_of(sizes, len(bucket.tokens)))
        inputs, targets = (ops.convert_to_tensor(x) for x in (bucket.tokens[:, :-1], bucket.tokens[:, 1:]))
        real = ops.cast(targets != 0, "float32")
        return lambda: model.train_on_batch((features, inputs), targets, sample_weight=real)

    return [step_of(bucket) for bucket in buckets]


def notebook_steps(sizes, buckets, graph):
    """Steps of the 2018 notebook's loop, one for each bucket.

    Args:
        sizes: `Sizes`.
        buckets: List of `Bucket`, tokens `(N, T)`.
        graph: Whether the step is one `tf.function`; else it runs eagerly.

    Raises:
        ImportError: If the backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow" or not importlib.util.find_spec("tensorflow"):
        raise ImportError("the notebook's loop needs KERAS_BACKEND=tensorflow")
    import tensorflow as tf
    from comparators.notebook import NotebookTrainer

    trainer = NotebookTrainer(sizes.vocabulary, sizes.embed_dim, sizes.units)
    # Weights and optimizer are made outside `tf.function`.
    trainer.loss(tf.zeros((2, sizes.locations, sizes.feature_width)), tf.zeros((2, 2), "int32"))
    trainer.optimizer.build(trainer.encoder.trainable_variables + trainer.decoder.trainable_variables)
    train_step = tf.function(trainer.train_step) if graph else trainer.train_step

    def step_of(bucket):
        features, tokens = tf.constant(features_of(sizes, len(bucket.tokens))), tf.constant(bucket.tokens)
        return lambda: train_step(features, tokens).numpy()

    return [step_of(bucket) for bucket in buckets]


def _build(model, sizes):
    # Called, as a model without a `build` of its own needs; on a batch that costs next to nothing.
    model((ops.zeros((1, sizes.locations, sizes.feature_width)), ops.zeros((1, 1), "int32")))
    model.optimizer.build(model.trainable_variables)
