"""Files of another version: an older one is read, of a newer one that can't be read the message names both versions."""

import hashlib
import json
import zipfile

import keras
import numpy as np
import pytest

from keras_showattend import Captioner, CaptionTokenizer, __version__
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

FEATURES = np.ones((2, 4, 5), "float32")


def saved(path, change):
    """A captioner, and the path of its file after `change` of what the file says."""
    captioner = Captioner(
        FeatureEncoder(3), AttentionGRUDecoder(9, 4, 6), tokenizer=CaptionTokenizer.fit(["a b c d e"]), max_length=5
    )
    captioner.build([(None, 4, 5), (None, None)])
    captioner.save(path / "c.keras")
    with zipfile.ZipFile(path / "c.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    change(config["config"])
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path / "changed.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return captioner, path / "changed.keras"


def without_version(config):
    del config["library_version"]


def without_what_came_later(config):
    del config["library_version"], config["scheduled_sampling"]


def of_a_newer_version(config):
    config["library_version"] = "12.4.0rc1"


@pytest.mark.parametrize("change", [lambda config: None, without_version, without_what_came_later, of_a_newer_version])
def test_a_file_that_holds_nothing_unknown_is_read(tmp_path, change):
    captioner, path = saved(tmp_path, change)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(loaded.generate(FEATURES).tokens, captioner.generate(FEATURES).tokens)
    assert loaded.get_config()["library_version"] == __version__


def unknown_argument(config):
    config["telepathy"] = 3


def unknown_argument_of_a_part(config):
    config["decoder"]["config"]["telepathy"] = 3


def unknown_argument_of_the_tokenizer(config):
    config["tokenizer"]["config"]["telepathy"] = 3


@pytest.mark.parametrize("change", [unknown_argument, unknown_argument_of_a_part, unknown_argument_of_the_tokenizer])
def test_what_a_newer_version_wrote_is_said_to_be_so(tmp_path, change):
    def newer(config):
        of_a_newer_version(config)
        change(config)

    message = rf"saved by keras_showattend 12\.4\.0rc1\. This is keras_showattend {__version__}, (.|\n)*telepathy"
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(saved(tmp_path, newer)[1])


def test_an_unknown_argument_of_this_version_is_no_matter_of_versions(tmp_path):
    with pytest.raises(ValueError, match=r"^Unrecognized keyword arguments passed to Captioner: \{'telepathy': 3\}"):
        keras.models.load_model(saved(tmp_path, unknown_argument)[1])


@pytest.fixture
def build(tmp_path):
    examples = [{"image_id": i, "image": np.full((8, 8, 3), i, "uint8"), "captions": ["a dog"]} for i in range(2)]
    return lambda: FeatureStore.build(tmp_path / "store", examples, FeatureExtractor("patches"), verbose=0)


def test_a_store_of_a_newer_version(tmp_path, build):
    build()
    for name in ("manifest.json", "manifest-copy.json"):
        path = tmp_path / "store" / name
        manifest = json.loads(path.read_bytes())
        del manifest["sha256"]
        manifest |= {"format": "keras_showattend feature store 2", "library_version": "12.4.0"}
        # Whole, as its checksum says: not damaged, only new.
        body = json.dumps(manifest, indent=1, sort_keys=True)
        manifest["sha256"] = hashlib.sha256(body.encode()).hexdigest()
        path.write_text(json.dumps(manifest, indent=1, sort_keys=True))
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    message = rf"keras_showattend 12\.4\.0, .*format 2\. This is keras_showattend {__version__}, .*up to 1: install"
    for read in (build, lambda: FeatureStore.open(tmp_path / "store")):
        with pytest.raises(ValueError, match=message):
            read()
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
