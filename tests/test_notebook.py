"""The notebook in `examples/`: what is kept in its file, and that it runs from top to bottom on this backend."""

import base64
import json
import re
from pathlib import Path

import pytest
from example_scripts import EXAMPLES
from notebooks import execute

NOTEBOOK = EXAMPLES / "image_captioning_with_attention.ipynb"
PICTURES = ["data-look", "loss", "captions-plot", "own-plot", "beam"]
# One compilation for training, one for validation.
SHORT = {"BACKBONE": "patches", "EPOCHS": 1, "BATCH_SIZE": 9, "UNITS": 16, "BUCKET_LENGTHS": [21]}


@pytest.fixture(scope="module")
def kept():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """IPython's own files away from the home of whoever runs the tests."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(notebook, cell_id):
    """All that a cell shows as text."""
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == cell_id)
    return "".join(text for output in cell["outputs"] for text in texts(output))


def texts(output):
    shown = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
    return ["".join(text) for text in shown]


def pictures(notebook):
    """The ids of the cells that show a picture."""
    return [
        cell["id"]
        for cell in code_cells(notebook)
        if any("image/png" in output.get("data", {}) for output in cell["outputs"])
    ]


def test_the_kept_cells_were_executed_in_order(kept):
    cells = code_cells(kept)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_the_kept_outputs_have_no_errors_or_warnings(kept):
    outputs = [output for cell in code_cells(kept) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_the_kept_outputs_are_of_no_particular_machine(kept):
    for cell in kept["cells"]:
        # Neither when a cell was run nor a reader's folds.
        assert set(cell["metadata"]) <= {"tags"}
        for text in [text for output in cell.get("outputs", ()) for text in texts(output)]:
            assert not re.search(r"(?<![\w.:/])/\w+/|[A-Z]:\\", text), text
    assert set(kept["metadata"]["language_info"]) == {"name"}


def test_the_kept_pictures_are_there_and_small(kept):
    assert pictures(kept) == PICTURES
    for cell in code_cells(kept):
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                picture = base64.b64decode("".join(output["data"]["image/png"]), validate=False)
                assert picture.startswith(b"\x89PNG\r\n")
    assert NOTEBOOK.stat().st_size < 1_200_000


def test_the_kept_captions_are_right(kept):
    shares = {
        label.strip(): float(share) for label, share in re.findall(r"(.+?) +([\d.]+)%", printed(kept, "pointing"))
    }
    assert shares["colour and shape are right"] > 90
    assert shares["of these, attention in the box"] > 5 * shares["by chance"]
    # The image of one's own shows just these.
    assert {"red circle", "blue triangle"} <= set(
        re.findall(r"\w+ (?:circle|square|triangle|star)", printed(kept, "own"))
    )
    assert printed(kept, "save") == "True"


def test_it_runs_from_top_to_bottom(settings, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    notebook = execute(NOTEBOOK, tmp_path, **SHORT, SCENES=20)
    assert pictures(notebook) == PICTURES
    assert printed(notebook, "split") == "18 images to train on, 2 to validate on\n"
    assert re.fullmatch(r"\['[a-z ]*'\]", printed(notebook, "own"))
    assert printed(notebook, "save") == "True"
    assert len(re.findall(r"(?m)^ *-[\d.]+  ", printed(notebook, "beam"))) == 3
    assert not [output for cell in code_cells(notebook) for output in cell["outputs"] if output.get("name") == "stderr"]
    folder = tmp_path / "runs" / "notebook-shape_scenes"
    assert (folder / "captioner.keras").is_file()
    assert (folder / "features" / "manifest.json").is_file()


def test_it_runs_on_coco(settings, tmp_path, monkeypatch):
    """On files of COCO's layout: the data set is prepared and the photograph fetched, as after the downloads."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    from keras_showattend.datasets import coco_showattend

    dummy = Path(coco_showattend.__file__).parent / "dummy_data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    config = tfds.download.DownloadConfig(manual_dir=dummy)
    coco_showattend.notebook_subset(data_dir=tmp_path / "data", download_config=config)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    photograph = next((dummy / "val2014").iterdir())
    (tmp_path / "keras" / "datasets" / "surf.jpg").write_bytes(photograph.read_bytes())

    notebook = execute(NOTEBOOK, tmp_path, **SHORT, DATA="coco")
    # TFDS adds a warning of its own.
    assert printed(notebook, "data").startswith("3 images\n")
    assert pictures(notebook) == PICTURES
    assert printed(notebook, "pointing") == ""
    assert (tmp_path / "runs" / "notebook-coco" / "captioner.keras").is_file()


def test_a_name_that_the_settings_do_not_have_is_refused(tmp_path):
    pytest.importorskip("nbclient")
    with pytest.raises(ValueError, match=r"names that the cell sets. Received: 'SZENES'"):
        execute(NOTEBOOK, tmp_path, SZENES=20)
