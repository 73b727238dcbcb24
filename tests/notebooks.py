"""Runs a notebook from top to bottom: for its test, and to renew the outputs that are kept in it.

    python tests/notebooks.py examples/image_captioning_with_attention.ipynb

does the latter.
"""

import re
import sys
import tempfile

# What TensorFlow and XLA log while they start, past any setting: about the machine, not about the notebook.
_MACHINE_LOG = re.compile(r"(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d\d).*\n")


def execute(path, folder, **parameters):
    """Executes a notebook; the file stays as it is.

    Args:
        path: Path of the notebook.
        folder: Path of the working folder, where the notebook leaves what it writes.
        **parameters: Values for names that the cell with the tag `parameters` sets, in place of its own.

    Returns:
        The notebook with its outputs, an `nbformat.NotebookNode`.

    Raises:
        ValueError: If that cell does not set one of the names.
        nbclient.exceptions.CellExecutionError: If a cell fails; the message shows it.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source = _with_values(cell.source, parameters)
    # A run would add the version of Python that happened to be there.
    language = notebook.metadata.language_info
    nbclient.NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(folder)}},
        # Neither the times of one run nor the hundreds of steps of a progress bar belong into the file.
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    notebook.metadata.language_info = language
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _without_machine_log(cell.outputs)
    return notebook


def _with_values(source, parameters):
    for name, value in parameters.items():
        # In each branch that sets it, if there are several.
        source, count = re.subn(rf"(?m)^( *{name} = ).*", lambda line, value=value: line[1] + repr(value), source)
        if not count:
            raise ValueError(f"`parameters` must be names that the cell sets. Received: {name!r}.")
    return source


def _without_machine_log(outputs):
    for output in outputs:
        if output.get("name") == "stderr":
            output["text"] = _MACHINE_LOG.sub("", output["text"])
    return [output for output in outputs if output.get("text") != ""]


def main(path):
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(path, folder), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
