"""Apache Beam prepares the same data set as the plain generator, where the user asks for it."""

import pytest

beam = pytest.importorskip("apache_beam")
tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from coco_archives import DUMMY, SIZES, WITHOUT_CAPTIONS, copy_dummy, prepare, write_archives  # noqa: E402

from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder  # noqa: E402


def read(builder, split):
    data = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return [
        (
            int(example["image_id"]),
            example["file_name"],
            example["image"],
            *(example["captions"][name].tolist() for name in ("id", "text", "position")),
        )
        for example in tfds.as_numpy(data)
    ]


def beam_arguments(kind):
    options = beam.options.pipeline_options.PipelineOptions(["--runner=DirectRunner"])
    return {"runner": {"beam_runner": "DirectRunner"}, "options": {"beam_options": options}}[kind]


@pytest.mark.parametrize(
    ("config", "kind", "files"), [("2014", "options", "folders"), ("karpathy", "runner", "archives")]
)
def test_equals_the_plain_generator(tmp_path, monkeypatch, config, kind, files):
    manual_dir = DUMMY if files == "folders" else write_archives(tmp_path / "manual")
    plain = prepare(config, tmp_path / "plain", manual_dir)
    transforms = []
    generate = Builder._generate_examples

    def watched(*arguments):
        transforms.append(generate(*arguments))
        return transforms[-1]

    monkeypatch.setattr(Builder, "_generate_examples", watched)
    by_beam = prepare(config, tmp_path / "beam", manual_dir, **beam_arguments(kind))
    assert len(transforms) == len(SIZES[config])
    assert all(isinstance(transform, beam.PTransform) for transform in transforms)
    for split, size in SIZES[config].items():
        examples = read(by_beam, split)
        assert len(examples) == size
        # In the same order, too.
        assert examples == read(plain, split)
    assert by_beam.info.metadata["images_without_captions"] == WITHOUT_CAPTIONS[config]
    assert dict(by_beam.info.metadata) == dict(plain.info.metadata)


def test_what_is_missing_shows_before_the_pipeline_runs(tmp_path):
    folder = copy_dummy(tmp_path / "manual")
    (folder / "val2014" / "COCO_val2014_000000000074.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 5, the first one .*74\.jpg"):
        prepare("2014", tmp_path / "data", folder, beam_runner="DirectRunner")
