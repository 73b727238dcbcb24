"""What the parts share: contenders that may not run everywhere, and results of one form."""

import keras
from harness.timing import first_line, measure


def require_tensorflow():
    """Raise where Keras doesn't compute on TensorFlow.

    Raises:
        ImportError: On another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise ImportError("needs KERAS_BACKEND=tensorflow")


def measure_those_that_run(makers, repetitions):
    """`measure` the contenders that can be made here.

    Args:
        makers: Dict from a name to a function that makes its `Contender`; one that raises is left out.
        repetitions: Int.

    Returns:
        `(timings, failures)`: a dict of `Timing` and one of messages, by name.
    """
    contenders, failures = [], {}
    for name, make in makers.items():
        try:
            contenders.append(make())
        # Whatever a comparator does, the others are measured.
        except Exception as error:
            failures[name] = str(error) if isinstance(error, ImportError) else first_line(error)
            print(f"  left out: {name}: {failures[name]}")
    timings, failed = measure(contenders, repetitions)
    return {timing.name: timing for timing in timings}, {**failures, **failed}


def timing_row(timing):
    """A row of a part's results from a `Timing`."""
    return {
        "name": timing.name,
        "figure": timing.captions_per_second,
        "lowest": timing.slowest,
        "highest": timing.fastest,
        "first_call_seconds": timing.first_call_seconds,
    }


def part_result(unit, reference, rows, **details):
    """The results of a part.

    Args:
        unit: Str, of the rows' figures.
        reference: Name of the row that `ratio` is to.
        rows: List of dicts with `name`, `figure`, `lowest` and `highest`; figures None where they are of no
            repetition.
        **details: What else is to be in the JSON.

    Returns:
        A dict; each row has its `ratio`, None where the reference was not measured.
    """
    by_name = {row["name"]: row["figure"] for row in rows}
    base = by_name.get(reference)
    rows = [{**row, "ratio": row["figure"] / base if base else None} for row in rows]
    return {"unit": unit, "reference": reference, "contenders": rows, **details}
