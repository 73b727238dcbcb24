"""The version, readable without importing Keras, and what is said of files that a newer one wrote."""

import contextlib

__version__ = "0.1.0"


@contextlib.contextmanager
def naming_a_newer_version(version):
    """Says of an error in reading a file that a newer version of the package wrote the file.

    Args:
        version: Str, the version that wrote it; None where the file does not tell.

    Raises:
        ValueError: In place of a TypeError or ValueError, if the version is newer than this one.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if version is None or _numbers(version) <= _numbers(__version__):
            raise
        raise ValueError(
            f"This was saved by keras_showattend {version}. This is keras_showattend {__version__}, which does not "
            f"know all that is in it: install {version} or newer. {error}"
        ) from error


def _numbers(version):
    return [int(part) for part in version.split(".") if part.isdecimal()]
