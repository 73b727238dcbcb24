"""Real photographs through a real backbone, where both are at hand."""

import pathlib

import keras
import numpy as np
import pytest

from keras_showattend.features import FeatureExtractor, FeatureStore

SHARED = pathlib.Path(__file__).parents[3] / "shared"
PHOTOGRAPHS = SHARED / "flickr8k" / "images"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"

pytestmark = [
    pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="Flickr8k is not beside the repository"),
    pytest.mark.skipif(not WEIGHTS.is_file(), reason="the backbone's weights are not beside the repository"),
]

SIZE = 96


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor("mobilenet_v2", weights=WEIGHTS, image_size=SIZE)


@pytest.fixture(scope="module")
def paths():
    return sorted(PHOTOGRAPHS.glob("*.jpg"))[:24]


@pytest.fixture(scope="module")
def expected(extractor, paths):
    """The backbone's own output, all photographs at once and nothing of ours between but resizing."""
    pixels = np.stack([extractor.load_image(path) for path in paths])
    images = keras.applications.mobilenet_v2.preprocess_input(pixels.copy())
    features = np.asarray(extractor.backbone.predict_on_batch(images))
    return features.reshape(len(paths), -1, features.shape[-1])


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 1e-5)])
def test_features_are_the_backbones_own(tmp_path, extractor, paths, expected, dtype, rounding):
    examples = [{"image_id": path.name, "image": path, "captions": [path.stem]} for path in paths]
    FeatureStore.build(tmp_path, examples, extractor, batch_size=5, shard_size=9, dtype=dtype, verbose=0)
    store = FeatureStore.open(tmp_path)
    store.verify()
    assert store.image_ids == [path.name for path in paths]
    features = store.features(store.image_ids)
    assert features.dtype.name == dtype
    # Sums in another order, in batches of another size, differ in the last bits of the largest terms.
    np.testing.assert_allclose(features.astype("float32"), expected, rtol=rounding, atol=1e-5 * np.abs(expected).max())
    # Photographs that differ have features that do.
    assert len(np.unique(expected.reshape(len(paths), -1), axis=0)) == len(paths)
    assert not store.skipped
