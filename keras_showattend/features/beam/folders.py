"""Folders that several machines write to: on a disk that all of them see, or in a bucket that Apache Beam opens."""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor

from keras_showattend.atomic_writing import replacing

# As many requests at a time where each is a round trip through the network.
_REQUESTS = 16

# The folder inside a store's folder that holds what is not finished.
WORK = "beam"


def is_url(path):
    """Whether a path is for Beam's file systems, as in "gs://bucket/folder"."""
    return re.match("[a-zA-Z][-a-zA-Z0-9+.]*://", path) is not None


def open_folder(path):
    """The folder at a path or URL, which need not exist yet."""
    return RemoteFolder(path) if is_url(path) else LocalFolder(path)


class LocalFolder:
    """A folder on a disk that every worker sees under the same path.

    Args:
        path: Path of the folder.
    """

    is_remote = False

    def __init__(self, path):
        self.path = os.path.abspath(path)

    def subfolder(self, name):
        """The folder inside this one."""
        return LocalFolder(os.path.join(self.path, name))

    def sizes(self):
        """Returns `{name: bytes}` of the files; of none where there is no folder."""
        if not os.path.isdir(self.path):
            return {}
        with os.scandir(self.path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    def read(self, names):
        """Yields the content of each file."""
        for name in names:
            with open(os.path.join(self.path, name), "rb") as file:
                yield file.read()

    def write(self, name, content):
        """Writes a file: it is whole or not there, whatever happens."""
        os.makedirs(self.path, exist_ok=True)
        with replacing(os.path.join(self.path, name)) as file:
            file.write(content)

    @contextlib.contextmanager
    def scratch(self):
        """Makes a folder on this machine, for the files that `move` takes from there."""
        os.makedirs(self.path, exist_ok=True)
        # On the same disk, so that a move is one step. Another name for each worker: a runner may start the same
        # work twice.
        with tempfile.TemporaryDirectory(dir=self.path, prefix="scratch-") as folder:
            yield folder

    def move(self, path, name):
        """Moves a whole file from a scratch folder into this one."""
        os.replace(path, os.path.join(self.path, name))

    def remove(self):
        """Removes the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


class RemoteFolder:
    """A folder behind a URL that one of Beam's file systems opens; its methods are those of `LocalFolder`.

    Args:
        path: URL of the folder.
        work: URL of the folder for files that are being written. Default: `WORK` inside of this one.

    Raises:
        ValueError: If the URL holds a wildcard, for which Beam has no quoting.
    """

    is_remote = True

    def __init__(self, path, work=None):
        if set(path) & set("*?[]"):
            raise ValueError(f"`path` must not hold wildcards where it is a URL. Received: path={path!r}.")
        self.path = path.rstrip("/")
        self._work = work or self._join(WORK)

    def subfolder(self, name):
        return RemoteFolder(self._join(name), self._work)

    def sizes(self):
        files = _file_systems()
        system = files.get_filesystem(self.path)
        # In a bucket there are no folders, and nothing that could be missing.
        if system.has_dirs() and not system.exists(self.path):
            return {}
        (match,) = files.match([f"{self.path}/*"])
        return {file.path.rpartition("/")[2]: file.size_in_bytes for file in match.metadata_list}

    def read(self, names):
        with ThreadPoolExecutor(_REQUESTS) as pool:
            yield from pool.map(lambda name: read_url(self._join(name)), names)

    def write(self, name, content):
        with self._replacing(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def scratch(self):
        with tempfile.TemporaryDirectory() as folder:
            yield folder

    def move(self, path, name):
        with open(path, "rb") as source, self._replacing(name) as file:
            shutil.copyfileobj(source, file, 2**20)
        os.remove(path)

    def remove(self):
        files = _file_systems()
        names = self.sizes()
        if names:
            files.delete([self._join(name) for name in names])
        # What is left of it is an empty folder, or nothing.
        with contextlib.suppress(OSError):
            files.delete([self.path])

    @contextlib.contextmanager
    def _replacing(self, name):
        files = _file_systems()
        target, partial = self._join(name), f"{self._work}/partial-{uuid.uuid4().hex}"
        with files.create(partial, compression_type=_uncompressed()) as file:
            yield file
        if files.exists(target):
            # HDFS gives a file no name that another one has.
            files.delete([target])
        files.rename([partial], [target])

    def _join(self, name):
        return f"{self.path}/{name}"


def read_url(url):
    """The content of the file at a URL."""
    with _file_systems().open(url, compression_type=_uncompressed()) as file:
        return file.read()


def _file_systems():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _uncompressed():
    from apache_beam.io.filesystem import CompressionTypes

    # Else Beam would take ".gz" at the end of a name as an order to unpack.
    return CompressionTypes.UNCOMPRESSED
