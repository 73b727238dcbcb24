"""An epoch of `Captioner.fit` from the store, beside the same batches held in memory."""

import numpy as np
from contenders import compiled_captioner
from fit_batches import EpochClock, batches_in_memory
from harness.sweeps import batch_shape

from pipeline.measuring import part_result
from pipeline.reading import one_epoch

FROM_STORE, FROM_MEMORY = "fit from the store", "fit from batches in memory"
_BURN_IN = 2  # epochs; the first compiles


def measure_training(synthetic, images, jit_compile, repetitions):
    """Seconds of an epoch, one model taking its batches from the store and from memory in turn.

    Args:
        synthetic: `SyntheticFeatures`.
        images: Int, how many of its images are trained on.
        jit_compile: Bool, of the training step; `"auto"` compiles with XLA where there is one.
        repetitions: Int.

    Returns:
        `(result, failures)`: a dict of `part_result`, and an empty dict.
    """
    store = synthetic.store.subset(synthetic.store.image_ids[:images])
    # A data set made anew begins with its first epoch: the lengths come in the same order each time.
    makers = {FROM_STORE: lambda: batches_of_store(synthetic, store)}
    held = held_in_memory(makers[FROM_STORE]())
    makers[FROM_MEMORY] = lambda: batches_in_memory(held, range(len(held)))
    model = compiled_captioner(synthetic.sizes, jit_compile=jit_compile)
    seconds = {name: [] for name in makers}
    for repetition in range(_BURN_IN + repetitions):
        burns_in = repetition < _BURN_IN
        print("  burning in" if burns_in else f"  repetition {repetition - _BURN_IN + 1} of {repetitions}")
        for name, make in makers.items():
            clock = EpochClock()
            # The order is the data set's own.
            model.fit(make(), shuffle=False, verbose=0, callbacks=[clock])
            seconds[name] += clock.seconds
    rows = [
        {
            "name": name,
            "figure": float(np.median(found[_BURN_IN:])),
            "lowest": min(found[_BURN_IN:]),
            "highest": max(found[_BURN_IN:]),
            "first_epoch_seconds": found[0],
        }
        for name, found in seconds.items()
    ]
    captions = images * synthetic.sizes.captions_per_image
    lengths = [tokens.shape[-1] for _, tokens in held]
    return part_result(
        "s/epoch", FROM_MEMORY, rows, images=images, captions=captions, dtype=synthetic.dtype, batch_lengths=lengths
    ), {}


def batches_of_store(synthetic, store):
    """What `fit` takes: the captions of an image together."""
    images = batch_shape(synthetic.sizes, synthetic.sizes.captions_per_image)[0]
    return store.batches(synthetic.tokenizer, images)


def held_in_memory(dataset):
    """The batches of an epoch as a list of NumPy arrays."""
    return [(np.asarray(features), np.asarray(tokens)) for features, tokens in one_epoch(dataset)]
