"""COCO's files, wherever they are: in archives or in the folders extracted from them."""

import functools
import zipfile
import zlib

from etils import epath

# Where the archives are.
URLS = {
    "train2014": "http://images.cocodataset.org/zips/train2014.zip",
    "val2014": "http://images.cocodataset.org/zips/val2014.zip",
    "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "karpathy": "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
}

# What stands for an extracted archive. Not the folder `annotations` as such: other data sets have
# one, and TFDS's default `manual_dir` is shared by all.
_EXTRACTED = {
    "train2014": ("train2014",),
    "val2014": ("val2014",),
    "annotations": ("annotations/captions_train2014.json", "annotations/captions_val2014.json"),
    "karpathy": ("dataset_coco.json",),
}


class SourceFiles:
    """Reads single files of a zip archive, or of the folder that it was extracted to.

    Nothing is extracted to the disk. Pickled, it is the path alone: a worker of Beam opens the
    archive itself.

    Args:
        path: The archive or the folder.
    """

    def __init__(self, path):
        self.path = epath.Path(path)

    def where(self, name):
        """The path of a file as messages show it, a str."""
        return str(self.path / name)

    def names(self, folder):
        """The names of the files in a folder, a set of str."""
        if self._archive is None:
            return {path.name for path in (self.path / folder).iterdir()}
        prefix = f"{folder}/"
        return {name.removeprefix(prefix) for name in self._archive.namelist() if name.startswith(prefix)}

    def read(self, name):
        """The bytes of a file.

        Raises:
            ValueError: If there is no such file, or the archive is damaged.
        """
        try:
            if self._archive is None:
                return (self.path / name).read_bytes()
            return self._archive.read(name)
        except (KeyError, FileNotFoundError) as error:
            raise ValueError(f"The file {name!r} is needed. Received: {str(self.path)!r}, which lacks it.") from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.where(name)!r} can't be read: {error}.") from error

    def __getstate__(self):
        return {"path": self.path}

    @functools.cached_property
    def _archive(self):
        """The open archive, or None for a folder."""
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path.open("rb"))
        except zipfile.BadZipFile as error:
            raise ValueError(f"A zip archive is needed. Received: {str(self.path)!r}, which isn't: {error}.") from error


def find_files(dl_manager, wanted):
    """Finds the user's own archives or folders, and downloads what is missing.

    An archive in `manual_dir` is taken first, then what was extracted from it; only their existence
    counts. It is printed, beside TFDS's own words on what it downloads, where each is from.

    Args:
        dl_manager: TFDS's download manager.
        wanted: Keys of `URLS`.

    Returns:
        dict from each key to its `SourceFiles`.
    """
    found = {name: path for name in wanted if (path := _find(_manual_dir(dl_manager), name))}
    for name in wanted:
        print(f"coco_showattend: {name} from {found.get(name, URLS[name])}")
    missing = {name: URLS[name] for name in wanted if name not in found}
    if missing:
        found |= dl_manager.download(missing)
    return {name: SourceFiles(found[name]) for name in wanted}


def _manual_dir(dl_manager):
    """The folder of the user's own files, or None."""
    try:
        return dl_manager.manual_dir
    except AssertionError:
        # TFDS's answer where the folder doesn't exist or is empty. Its default is such a folder,
        # so this is the usual case.
        return None


def _find(manual_dir, name):
    if manual_dir is None:
        return None
    archive = manual_dir / URLS[name].rpartition("/")[2]
    if archive.exists():
        return archive
    return manual_dir if all((manual_dir / path).exists() for path in _EXTRACTED[name]) else None
