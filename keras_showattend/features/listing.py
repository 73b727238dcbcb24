"""What a build makes of its store's manifest: shards join, images are skipped or read after all."""

from keras_showattend.features.manifest import FORMAT, recover_manifest, write_manifest
from keras_showattend.version import __version__


class Listing:
    """The manifest of a store that is being built.

    Args:
        folder: Path of the folder that holds the manifest, or none yet.
        extractor: `FeatureExtractor`.
        fingerprint: What `extractor.fingerprint()` returned.
        dtype: Name of the dtype on the disk.
        place: Path or URL of the store, for messages; default `folder`.

    Attributes:
        manifest: Dict.
        shards: List of the shards' entries in the manifest.
        skipped: `{image_id: reason}`.

    Raises:
        ValueError: If the store holds features of another extractor or dtype, or can't be read.
    """

    def __init__(self, folder, extractor, fingerprint, dtype, place=None):
        self._folder = folder
        self.manifest = recover_manifest(folder) or {
            "format": FORMAT,
            "library_version": __version__,
            "extractor": fingerprint,
            "dtype": dtype,
            "grid": list(extractor.grid),
            "locations": extractor.locations,
            "width": extractor.width,
            "shards": [],
            "skipped": [],
        }
        place = folder if place is None else place
        if self.manifest["extractor"] != fingerprint:
            raise ValueError(
                f"The store at {place!r} holds features of another extractor: build in another folder, "
                f"or delete that one.\nReceived: {fingerprint}\nStored:   {self.manifest['extractor']}"
            )
        if self.manifest["dtype"] != dtype:
            raise ValueError(
                f"The store at {place!r} has another dtype: build in another folder, or delete that "
                f"one. Received: dtype={dtype!r}, stored: {self.manifest['dtype']!r}."
            )
        self.shards = self.manifest["shards"]
        self.skipped = {entry["image_id"]: entry["reason"] for entry in self.manifest["skipped"]}

    def put(self, number, entry, image_ids=(), skipped=None):
        """Makes a shard part of the store, in place of the one that has its number.

        Args:
            number: Int, at most the number of shards.
            entry: The shard's entry in the manifest.
            image_ids: Ids of the images in it, skipped no more.
            skipped: `{image_id: reason}` of images that were meant for it.
        """
        for image_id in image_ids:
            self.skipped.pop(image_id, None)
        self.skipped.update(skipped or {})
        self.shards[number : number + 1] = [entry]

    def write(self):
        """Puts the manifest and its copy on the disk."""
        self.manifest["skipped"] = [{"image_id": key, "reason": reason} for key, reason in self.skipped.items()]
        write_manifest(self._folder, self.manifest)
