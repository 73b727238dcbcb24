"""The pipeline itself: numbers of shards in, nothing out; the workers write files."""

import itertools
import json


def run_pipeline(numbers, job, options):
    """Runs `worker.compute_shard` for some shards, and waits for the end.

    Args:
        numbers: The shards' numbers, ascending.
        job: The dict that `compute_shard` takes.
        options: Beam's `PipelineOptions`.

    Raises:
        Exception: What the runner makes of a worker's error.
    """
    import apache_beam as beam

    pipeline = beam.Pipeline(options=options)
    _ = (
        pipeline
        # Ranges, since all the elements of a Create are part of the pipeline, and runners limit its size.
        | "Ranges" >> beam.Create(_ranges(numbers))
        | "Shards" >> beam.FlatMap(lambda bounds: range(*bounds))
        # Else one worker would compute all shards of a range.
        | "Spread" >> beam.Reshuffle()
        | "Features" >> beam.Map(_worker_function(json.dumps(job), job["backend"]))
    )
    pipeline.run().wait_until_finish()


def _worker_function(job, backend):
    """The function that is sent to the workers.

    Beam sends a function inside a function with its code, not by the name of its module, and JSON instead of objects:
    a worker that unpacks it imports nothing of this package, and so not yet Keras.
    """

    def compute(number):
        import os

        os.environ.setdefault("KERAS_BACKEND", backend)
        from keras_showattend.features.beam.worker import compute_shard

        compute_shard(number, job)

    return compute


def _ranges(numbers):
    """Ascending numbers as a list of pairs, of a first one and the one after the last."""
    # In a run of consecutive numbers, the distance to the index does not change.
    runs = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    runs = ([number for _, number in run] for _, run in runs)
    return [(run[0], run[-1] + 1) for run in runs]
