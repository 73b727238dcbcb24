"""The loop over the steps of a search, and how sequences that have ended leave it."""

import keras
import numpy as np
from keras import ops, tree

# How many sequences are left when some have left: few numbers, as XLA compiles anew for each.
_SIZES = 2 ** np.arange(3, 31, dtype="int32")


def loop(advance, kept, state, max_length, constants=(), beams=1, leave=False):
    """The steps after the first, until all sequences have stopped.

    With `leave`, sequences that have stopped leave, with all their rows, as soon as those that go on are no more than
    the next smaller power of two, down to 8: a step then costs what these need. It takes a backend whose arrays may
    change their sizes within a loop: TensorFlow, but for XLA, and torch. On JAX they stay.

    Args:
        advance: Function `(t, kept, state, constants) -> (kept, state)`, for the number of the step, int32, and any
            number n of sequences.
        kept: NamedTuple of tensors with n x `beams` rows, those of one sequence together, what the first step made.
            Its `stopped`, bool, tells which have: no step changes the rows of a sequence all of whose rows have.
        state: Nest of tensors with as many rows.
        max_length: Positive int T, the number of steps, the first counted.
        constants: Nest of tensors that no step changes; with `leave`, of n rows.
        beams: Int.
        leave: Bool.

    Returns:
        `kept` after the last step, with its rows in the order of the first.

    Raises:
        ValueError: With `leave`, if one of `constants` or of `state` has another number of rows.
    """
    t = ops.ones((), dtype="int32")
    if max_length == 1:
        return kept
    if not leave or keras.backend.backend() == "jax":
        _, kept, _ = _steps(advance, t, kept, state, constants, max_length, beams, 0)
        return kept
    count = ops.shape(kept.stopped)[0]
    _check_rows("memory", constants, count // beams)
    _check_rows("state", state, count)
    structure = state, constants

    def body(t, everything, places, kept, leaves):
        state, constants = tree.pack_sequence_as(structure, leaves)
        count, sizes = ops.shape(places)[0], ops.convert_to_tensor(_SIZES)
        enough = ops.max(ops.where(count > sizes, sizes, 0))
        t, kept, state = _steps(advance, t, kept, state, constants, max_length, beams, enough)
        everything = _put(everything, kept, places, beams)
        running = _running(kept, beams)
        left = ops.sum(ops.cast(running, "int32"))
        size = ops.min(ops.where(left <= sizes, sizes, count))
        # Those that go on, and some that have stopped where they are fewer than `size`.
        stay = ops.cast(ops.argsort(ops.cast(ops.logical_not(running), "int32")), "int32")[:size]
        rows = _rows(stay, beams)
        kept, state = tree.map_structure(lambda x: ops.take(x, rows, axis=0), (kept, state))
        places, constants = tree.map_structure(lambda x: ops.take(x, stay, axis=0), (places, constants))
        return t, everything, places, kept, tree.flatten((state, constants))

    places = ops.arange(count // beams, dtype="int32")
    start = tree.map_structure(_of_any_rows, (kept, places, kept, tree.flatten(structure)))
    _, everything, *_ = ops.while_loop(
        lambda t, everything, places, kept, leaves: (t < max_length) & ops.any(ops.logical_not(kept.stopped)),
        body,
        (t, *start),
    )
    return everything


def _steps(advance, t, kept, state, constants, max_length, beams, enough):
    """Steps until no more than `enough` sequences go on: `(t, kept, state)`."""
    structure = state

    def body(t, kept, leaves):
        kept, state = advance(t, kept, tree.pack_sequence_as(structure, leaves), constants)
        return t + 1, kept, tree.flatten(state)

    t, kept, leaves = ops.while_loop(
        lambda t, kept, leaves: (t < max_length) & (ops.sum(ops.cast(_running(kept, beams), "int32")) > enough),
        body,
        (t, kept, tree.flatten(state)),
    )
    return t, kept, tree.pack_sequence_as(structure, leaves)


def _running(kept, beams):
    """Which sequences go on, bool `(n,)`."""
    return ops.any(ops.logical_not(ops.reshape(kept.stopped, (-1, beams))), axis=1)


def _check_rows(name, nest, count):
    # A number of rows that is not known while a graph is made may be the right one.
    right = (None, count) if isinstance(count, int) else (None,)
    for leaf in tree.flatten(nest):
        shape = tuple(getattr(leaf, "shape", ()))
        if not shape or shape[0] not in right:
            raise ValueError(
                f"`{name}` must consist of tensors with a row for every sequence, as those that have ended leave: give "
                f"what is the same for all a row each. Received: a leaf of the shape {shape}."
            )


def _rows(places, beams):
    """The rows of sequences, `(n x beams,)`."""
    return ops.reshape(places[:, None] * beams + ops.arange(beams, dtype="int32"), (-1,))


def _put(everything, kept, places, beams):
    indices = _rows(places, beams)[:, None]
    return tree.map_structure(lambda whole, part: ops.scatter_update(whole, indices, part), everything, kept)


def _of_any_rows(x):
    """The tensor, for TensorFlow's loops one whose number of rows may change."""
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    return tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, *x.shape[1:]))
