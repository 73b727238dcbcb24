"""Medians over interleaved repetitions."""

import time
from typing import NamedTuple

import numpy as np


class Contender(NamedTuple):
    """One way of doing the work, as the parts whose weighted sum is its cost."""

    name: str
    steps: list  # functions without arguments; each returns when its work is done
    seconds_weights: list  # what a second of each step counts in the seconds of one caption
    note: str = ""


class Timing(NamedTuple):
    """What one contender took."""

    name: str
    captions_per_second: float  # the median over repetitions
    slowest: float
    fastest: float
    step_seconds: list  # medians, by step
    first_call_seconds: list  # by step: tracing and compiling included
    note: str


def measure(contenders, repetitions, say=print):
    """Time every contender in turn, `repetitions` times, after each step has run twice.

    Interleaved, a change in the machine's speed meets all contenders alike. A contender that raises is left out
    with its message; the others go on.

    Returns:
        `(timings, failures)`: a list of `Timing`, and a dict of messages by name.
    """
    failures, first_calls, ready = {}, {}, []
    for contender in contenders:
        say(f"  burning in: {contender.name}")
        try:
            first_calls[contender.name] = [_seconds(step) for step in contender.steps]
            for step in contender.steps:
                step()
            ready.append(contender)
        # Whatever a comparator does, the others are measured.
        except Exception as error:
            failures[contender.name] = first_line(error)
            say(f"  failed: {contender.name}: {failures[contender.name]}")
    seconds = {contender.name: [] for contender in ready}
    for repetition in range(repetitions):
        say(f"  repetition {repetition + 1} of {repetitions}")
        for contender in ready:
            seconds[contender.name].append([_seconds(step) for step in contender.steps])
    timings = []
    for contender in ready:
        found = np.array(seconds[contender.name])
        rates = 1 / (found @ np.array(contender.seconds_weights))
        timings.append(
            Timing(
                name=contender.name,
                captions_per_second=float(np.median(rates)),
                slowest=float(rates.min()),
                fastest=float(rates.max()),
                step_seconds=np.median(found, axis=0).tolist(),
                first_call_seconds=first_calls[contender.name],
                note=contender.note,
            )
        )
    return timings, failures


def _seconds(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def first_line(error):
    """An error as one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
