"""What `gpu_throughput.py` measures of one backend under one dtype policy, in a process of its own."""

import gc
import time

import keras
import numpy as np
from contenders import captioner_steps, compiled_captioner, composition_steps, seconds_weights
from fit_batches import DEVICE, MEMORY, EpochClock, epoch_in_memory, order_of_buckets
from harness.batches import epoch_buckets, lost_to_padding
from harness.floor import matmul_step, multiply_adds_of_caption
from harness.sizes import available_bytes
from harness.timing import Contender, first_line, measure

from keras_showattend.features import FeatureExtractor

OURS, COMPOSITION = "ours", "Keras RNN of a cell"
_EPOCHS = 3  # of `fit`; the first compiles
_EPOCH_SECONDS, _FEWEST_STEPS = 5, 20  # of an epoch of `fit`, where its steps are long
_NUMBERS_A_PIXEL = 10  # what the widest layers of a convolutional network hold for each number of an image


class Measurements:
    """All measurements; each figure is written down as soon as it is there.

    Args:
        policy: Str, the dtype policy of the models.
        sizes: `Sizes`; its batch size is the first of the sweep.
        arguments: The parsed flags of `gpu_throughput.py`.
        on_gpu: Whether the backend computes on one.
        record: Function `(section, value)` that writes a figure down.
        seconds: How long new measurements may start.
    """

    def __init__(self, policy, sizes, arguments, on_gpu, record, seconds):
        self.policy = policy
        self.sizes = sizes
        self.arguments = arguments
        self.on_gpu = on_gpu
        self.record = record
        self.start = time.monotonic()
        self.seconds = seconds
        self.matmul_rate = None

    def run(self):
        """Measure everything, what matters most first."""
        # The comparator takes no dtype of its own.
        keras.config.set_dtype_policy(self.policy)
        self.matmul_rate = self.attempt("the matmul rate", self._matmul)
        rows = self._sweep()
        if rows:
            best = max(rows, key=lambda row: row["captions_per_second"])
            self._fit_everywhere(best)
            if self.on_gpu or self.arguments.whole_run:
                self.attempt("the notebook's whole run", self._whole_run, best)
            if best is not rows[0]:
                self.attempt(f"{COMPOSITION} at batch size {best['batch_size']}", self._train, best["batch_size"], True)
        self.attempt("features of images", self._extract_everywhere)
        if rows and best is not rows[0]:
            self._fit_everywhere(rows[0])

    def attempt(self, what, measurement, *arguments):
        """What the measurement gives, or None where there is no time or it fails: the results then say why."""
        if self._seconds_left() <= 0:
            return self._leave_out(what, "the time was up")
        gc.collect()  # models are cyclic: what the last one held may still lie on the device
        try:
            return measurement(*arguments)
        except Exception as error:  # out of memory has another type on every backend
            return self._leave_out(what, first_line(error))

    def _leave_out(self, what, why):
        print(f"  not measured: {what}: {why}")
        self.record("not_measured", {"what": what, "why": why})

    def _seconds_left(self):
        return self.start + self.seconds - time.monotonic()

    def _matmul(self):
        size = self.arguments.matmul_size
        self._check_memory(3 * 4 * size**2)
        step, operations = matmul_step(size, keras.dtype_policies.get(self.policy).compute_dtype)
        (timing,), _ = measure([Contender("matmul", [step], [1 / operations])], self.arguments.repetitions)
        self.record("matmul_flops_per_second", timing.captions_per_second)
        return timing.captions_per_second

    # Training, one step at a time

    def _sweep(self):
        """The rows of ours by batch size, doubled until it does not fit any more."""
        rows, batch_size = [], self.sizes.batch_size
        while not rows or batch_size <= self.arguments.largest_batch:
            what = f"training from batch size {batch_size} on"
            if rows and self._seconds_left() < self.seconds / 2:
                self._leave_out(what, "half of the time was up, and the rest is for the other measurements")
                break
            row = self.attempt(what, self._train, batch_size, not rows)
            if row is None:
                break
            self.record("training", row)
            rows.append(row)
            batch_size *= 2
        return rows

    def _train(self, batch_size, compare):
        """A row of ours; where asked for, Keras's own layers are measured in turn with it."""
        print(f"  training at batch size {batch_size}{f', in turn with {COMPOSITION}' if compare else ''}")
        sizes, buckets = self._batches(batch_size)
        contenders = [Contender(OURS, captioner_steps(sizes, buckets, dtype=self.policy), seconds_weights(buckets))]
        if compare:
            what = f"{COMPOSITION} at batch size {batch_size}"
            contenders += self.attempt(what, self._composition, batch_size) or []
        timings, failures = measure(contenders, self.arguments.repetitions, say=lambda _: None)
        if OURS in failures:
            raise RuntimeError(failures[OURS])
        ours, *others = timings
        for name, message in failures.items():
            self._leave_out(f"{name} at batch size {batch_size}", message)
        for other in others:
            rates = {"ours": ours.captions_per_second, "composition": other.captions_per_second}
            ratio = rates["ours"] / rates["composition"]
            self.record("composition", {"batch_size": batch_size, "captions_per_second": rates, "ratio": ratio})
        return {
            "batch_size": batch_size,
            "captions_per_second": ours.captions_per_second,
            "slowest": ours.slowest,
            "fastest": ours.fastest,
            "step_seconds": sum(b.share * s for b, s in zip(buckets, ours.step_seconds, strict=True)),
            "first_call_seconds": ours.first_call_seconds,
            "share_of_matmul_rate": self._utilisation(buckets, ours.captions_per_second),
            "steps_lost_to_padding": lost_to_padding(buckets),
            "buckets": [
                {"share": bucket.share, "shape": list(bucket.tokens.shape), "step_seconds": seconds}
                for bucket, seconds in zip(buckets, ours.step_seconds, strict=True)
            ],
        }

    def _composition(self, batch_size):
        sizes, buckets = self._batches(batch_size, together=False)
        return [Contender(COMPOSITION, composition_steps(sizes, buckets), seconds_weights(buckets))]

    def _batches(self, batch_size, together=True):
        """Sizes and buckets of this batch size; raises before anything large is allocated that can't fit."""
        sizes = self.sizes._replace(batch_size=batch_size)
        group = sizes.captions_per_image if together else 1
        images = -(-batch_size // group)
        buckets = epoch_buckets(sizes, group if together else None)
        # All buckets' features lie ready on the device, beside what the longest one's step needs.
        waiting = 4 * (len(buckets) - 1) * images * sizes.locations * sizes.feature_width
        step = sizes.bytes_of_step(images, images * group, sizes.longest, keeps_hidden=not together)
        self._check_memory(waiting + step)
        return sizes, buckets

    def _check_memory(self, needed):
        free = free_bytes() if self.on_gpu else available_bytes()
        if free is not None and needed > free:
            raise MemoryError(f"would need about {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free")

    def _utilisation(self, buckets, captions_per_second):
        """The share of the matmul rate that the products of the steps took."""
        if not self.matmul_rate:
            return None
        return multiply_adds_of_caption(self.sizes, buckets) * captions_per_second / self.matmul_rate

    # Training as users do it

    def _fit_everywhere(self, row):
        # On TensorFlow a data set lies in the host's memory whatever it is made of.
        places = [MEMORY] if keras.backend.backend() == "tensorflow" else [DEVICE, MEMORY]
        for place in places:
            self.attempt(f"fit at batch size {row['batch_size']}, features {place}", self._fit, row, place)

    def _fit(self, row, place):
        """Epochs of `fit` over data that is in memory, in the proportions of an epoch's buckets."""
        print(f"  fit at batch size {row['batch_size']}, features {place}")
        sizes, buckets = self._batches(row["batch_size"])
        steps = max(_FEWEST_STEPS, int(_EPOCH_SECONDS / row["step_seconds"]))
        steps = min(steps, self.arguments.fit_steps)
        clock = EpochClock()
        dataset = epoch_in_memory(sizes, buckets, steps, place)
        compiled_captioner(sizes, self.policy).fit(dataset, epochs=_EPOCHS, verbose=0, callbacks=[clock])
        first, *later = clock.seconds
        seconds = float(np.median(later))
        rate = steps * buckets[0].tokens[..., 0].size / seconds
        self.record(
            "fit",
            {
                "batch_size": row["batch_size"],
                "features": place,
                "steps": steps,
                "first_epoch_seconds": first,
                "epoch_seconds": seconds,
                "captions_per_second": rate,
                "share_of_matmul_rate": self._utilisation(buckets, rate),
                "steps_lost_to_padding": lost_to_padding(buckets),
            },
        )

    def _whole_run(self, row):
        """As many captions as the notebook trains on, through a model that has never run."""
        captions = self.arguments.epochs * self.arguments.epoch_captions
        expected, left = captions / row["captions_per_second"], self._seconds_left()
        if expected > left:
            raise TimeoutError(f"would take about {expected:.0f} s, and {left:.0f} s are left")
        print(f"  the notebook's {captions} captions at batch size {row['batch_size']}")
        sizes, buckets = self._batches(row["batch_size"])
        steps = captioner_steps(sizes, buckets, dtype=self.policy)
        in_batch = buckets[0].tokens[..., 0].size
        order = order_of_buckets(buckets, -(-captions // in_batch))
        start = time.perf_counter()
        for bucket in order:
            steps[bucket]()
        self.record(
            "whole_run",
            {
                "batch_size": row["batch_size"],
                "steps": len(order),
                "captions": len(order) * in_batch,
                "seconds": time.perf_counter() - start,
            },
        )

    # Features of images

    def _extract_everywhere(self):
        name, side = self.arguments.backbone, self.arguments.image_size
        extractor = FeatureExtractor(name, weights=None, image_size=side, dtype=self.policy)
        # Integers: a model would round pixels to its compute dtype, before the preprocessing.
        model = keras.Sequential([keras.Input((side, side, 3), dtype="uint8"), extractor])
        for batch_size in self.arguments.image_batches:
            self.attempt(f"features of {batch_size} images", self._extract, model, batch_size)

    def _extract(self, model, batch_size):
        side = self.arguments.image_size
        print(f"  features of {batch_size} images of {side} x {side}")
        self._check_memory(4 * _NUMBERS_A_PIXEL * batch_size * side * side * 3)
        images = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype="uint8")
        # The features come back to the host, as a store on disk wants them.
        step = Contender("images", [lambda: model.predict_on_batch(images)], [1 / batch_size])
        timings, failures = measure([step], self.arguments.repetitions, say=lambda _: None)
        if failures:
            raise RuntimeError(failures["images"])
        (timing,) = timings
        self.record(
            "images",
            {
                "batch_size": batch_size,
                "images_per_second": timing.captions_per_second,
                "slowest": timing.slowest,
                "fastest": timing.fastest,
                "first_call_seconds": timing.first_call_seconds,
            },
        )


def free_bytes():
    """Free memory of the first GPU, or None where the backend doesn't tell."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        found = jax.local_devices()[0].memory_stats() or {}
        return found["bytes_limit"] - found["bytes_in_use"] if "bytes_limit" in found else None
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            # What torch keeps for itself and nobody uses is as good as free.
            kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return torch.cuda.mem_get_info()[0] + kept
    return None
