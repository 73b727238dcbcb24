"""Features of images: computed once by a backbone, kept on disk, read in batches."""

from keras_showattend.features.extractor import FeatureExtractor
from keras_showattend.features.images import read_image
from keras_showattend.features.store import FeatureStore

__all__ = ["FeatureExtractor", "FeatureStore", "read_image"]
