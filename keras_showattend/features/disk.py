"""The disk that a feature store lies on: one builder at a time, room enough, files described."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile

_LOCK = ".lock"


def describe(path):
    """Size and checksum of a file, as a manifest keeps them."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": digest}


@contextlib.contextmanager
def locked(folder):
    """Keeps other builders out of a folder.

    The system gives the lock back when the process ends, however it ends; the empty file of the lock stays.

    Raises:
        OSError: If another build holds it.
    """
    with open(os.path.join(folder, _LOCK), "ab") as file:
        try:
            _lock(file)
        except OSError as error:
            raise OSError(
                f"There is another build at work in {str(folder)!r}: wait until it has ended, or build in another "
                "folder."
            ) from error
        yield


def _lock(file):
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def prepare_folder(folder):
    """Makes the folder, and proves that files can be written there.

    Raises:
        OSError: If they can't.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"The feature store can't be written at {folder!r}: {error}") from error


def check_room(folder, needed):
    """Checks that a number of bytes fits on the disk of a folder.

    Raises:
        OSError: If it does not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"The features need {needed / 1e9:,.2f} GB at {folder!r}, where {free / 1e9:,.2f} GB are free.")


@contextlib.contextmanager
def naming_a_full_disk(folder):
    """Says of an error that the disk of a folder is full, and what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"The disk of {folder!r} is full. The finished shards are kept: make room and build again. {error}",
        ) from error
