"""A file system of Beam's with a scheme of its own: "shelf://NAME" is a file in a folder on the disk."""

import os

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem


class Shelf(LocalFileSystem):
    """As strict as any of the real ones: lists no folder that isn't there, gives no file the name of another one."""

    root = None

    def __init__(self, pipeline_options):
        super().__init__(pipeline_options)
        self._disk = LocalFileSystem(pipeline_options)

    @classmethod
    def scheme(cls):
        return "shelf"

    def exists(self, path):
        return self._disk.exists(self._path(path))

    def create(self, path, *args, **kwargs):
        return self._disk.create(self._path(path), *args, **kwargs)

    def open(self, path, *args, **kwargs):
        return self._disk.open(self._path(path), *args, **kwargs)

    def metadata(self, path):
        return FileMetadata(path, self._disk.metadata(self._path(path)).size_in_bytes)

    def rename(self, source_file_names, destination_file_names):
        taken = [name for name in destination_file_names if self.exists(name)]
        if taken:
            raise BeamIOError("Rename operation failed", dict.fromkeys(taken, "exists"))
        self._disk.rename(
            [self._path(name) for name in source_file_names], [self._path(name) for name in destination_file_names]
        )

    def delete(self, paths):
        self._disk.delete([self._path(path) for path in paths])

    def _list(self, dir_or_prefix):
        folder = self._path(dir_or_prefix)
        if self.has_dirs() and not os.path.isdir(folder):
            raise BeamIOError("List operation failed", {dir_or_prefix: "is not there"})
        for here, _, names in os.walk(folder):
            for path in (os.path.join(here, name) for name in names):
                yield FileMetadata(f"shelf://{os.path.relpath(path, self.root)}", os.path.getsize(path))

    def _path(self, url):
        assert url.startswith("shelf://"), url
        return os.path.join(self.root, url.removeprefix("shelf://"))
