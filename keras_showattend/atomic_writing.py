"""Files and folders that are whole or not there: written beside, then renamed."""

import contextlib
import os
import pathlib
import shutil
import uuid

_PARTIAL = ".partial"


@contextlib.contextmanager
def replacing(path):
    """Opens a binary file that takes the place of `path` when all of it is on the disk.

    Whoever reads `path` sees the old file or the whole new one, whatever happens in between.

    Args:
        path: Str or path-like, in a folder that exists.

    Raises:
        OSError: If the file can't be written.
    """
    path = os.fspath(path)
    # A name of its own: several processes and threads may write one file.
    partial = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    if os.name == "posix":  # Elsewhere a folder can't be opened, and need not be.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_partial(folder):
    """Removes what `replacing` left in a folder when its process was killed."""
    for path in pathlib.Path(folder).glob(f"*{_PARTIAL}"):
        path.unlink()


@contextlib.contextmanager
def replacing_folder(path):
    """Makes a new folder that takes the place of `path` once all is written into it.

    A folder that stands at `path` is removed then, with all that is in it: check before what that is.

    Args:
        path: Str or path-like; folders above it are made.

    Raises:
        OSError: If the folder can't be written.
    """
    path = pathlib.Path(path)
    beside, old = (path.with_name(f"{path.name}.{uuid.uuid4().hex}.{kind}") for kind in ("tmp", "old"))
    beside.mkdir(parents=True)
    try:
        yield beside
        # A folder can't be renamed onto another that is not empty.
        if path.exists():
            path.rename(old)
        beside.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
