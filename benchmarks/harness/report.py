"""What a benchmark leaves: a table on the screen, JSON and a picture in a folder."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import keras

_PACKAGES = ("keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "keras_showattend")


def prepare_output(parser, path):
    """The folder for the results, made and proven writable before anything is measured."""
    if path is None:
        return None
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        parser.error(f"--output must be a folder that can be written to. Received: {path} ({error.strerror}).")
    return folder


def machine():
    """Where and with what the figures were measured."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "devices": _devices(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "date": datetime.date.today().isoformat(),
    }


def describe(found):
    """One line for a table's heading."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    devices = ", ".join(found["devices"])
    return (
        f"{devices}; {found['processors']} cores of {found['processor']}; backend {found['backend']}; "
        f"Python {found['python']}, {versions}; {found['date']}"
    )


def table(header, rows):
    """A Markdown table, columns aligned for the screen; the first is text, the others numbers."""
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    # Markdown wants a dash beside the colon of a column's rule.
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row):
        padded = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def write_json(folder, name, result):
    """Write `result` beside and rename, so that a file is whole or not there."""
    path = folder / name
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(path)
    return path


def draw_bars(path, names, values, unit, title):
    """Horizontal bars on a logarithmic scale, the value at each end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, values, color="#4477aa")
    axes.bar_label(bars, [f"{value:,.4g}" for value in values], padding=4)
    axes.invert_yaxis()
    axes.set_xscale("log")
    # Between two powers of ten they would overlap, and the bars say their values.
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def draw_lines(path, panels, unit, title):
    """Lines on logarithmic scales, one panel for each quantity.

    Args:
        path: File to write.
        panels: Dict from the label of a horizontal axis to a dict from a line's name to `(xs, ys)`.
        unit: Str, the label of the vertical axis.
        title: Str.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, lines) in zip(grid, panels.items(), strict=True):
        for name, (xs, ys) in lines.items():
            axes.plot(xs, ys, marker="o", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(unit)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    figure.savefig(path, dpi=150)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _devices():
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return sorted({device.device_kind for device in jax.devices()})
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return [torch.cuda.get_device_name()]
        return ["cpu"]
    import tensorflow as tf

    found = [
        tf.config.experimental.get_device_details(d).get("device_name", d.name)
        for d in tf.config.list_physical_devices("GPU")
    ]
    return found or ["cpu"]
