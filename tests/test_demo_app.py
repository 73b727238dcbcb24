"""The demo: from the bytes that a visitor sends to captions or a sentence; then the app, where Gradio is installed."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from example_scripts import example_script
from PIL import Image
from test_visualization_browser import open_browser

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

demo = example_script("demo_app")


@pytest.fixture(scope="module")
def captioner():
    tokenizer = CaptionTokenizer.fit(["a red dog", "the blue cat sits"])
    captioner = Captioner(
        FeatureEncoder(4),
        AttentionGRUDecoder(tokenizer.vocabulary_size, 4, 8),
        tokenizer=tokenizer,
        feature_extractor=FeatureExtractor("patches", image_size=32),
        max_length=5,
    )
    captioner.build([(None, 32, 32, 3), (None, None)])
    return captioner


def file_of(kind, size=(60, 40), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def of_size(width, height):
    """A short PNG file whose header promises so many pixels."""
    data = file_of("PNG", (1, 1), "L")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


# ----------------------------------------------------------------------------- photographs


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photographs_are_read(demo, captioner, kind):
    data = file_of(kind)
    photograph = demo.read_photograph(captioner, data)
    np.testing.assert_array_equal(photograph.inputs, captioner.feature_extractor.load_image(data))
    assert photograph.shown.shape == (40, 60, 3)


def test_little_is_kept_of_a_large_photograph(demo, captioner):
    photograph = demo.read_photograph(captioner, file_of("JPEG", (1000, 700)))
    assert photograph.shown.shape == (358, 512, 3)
    assert photograph.inputs.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no photograph yet: drop a JPEG"),
        (None, "no photograph yet: drop a JPEG"),
        (b"<html>not a picture</html>", "not a photograph that can be read"),
        # Pillow would read it, but it is none of the formats that visitors may send.
        (file_of("BMP"), "not a photograph that can be read"),
        (file_of("GIF", mode="L"), "not a photograph that can be read"),
        (file_of("JPEG")[:300], "damaged"),
        (file_of("PNG")[:-40], "damaged"),
        (bytes(10 * 2**20 + 1), "larger than 10 MB"),
        (of_size(8_000, 8_000), "more than 50 million pixels"),
        (of_size(60_000, 60_000), "more than 50 million pixels"),
    ],
    ids=["empty", "none", "text", "bmp", "gif", "cut jpeg", "cut png", "long", "large", "bomb"],
)
def test_what_is_refused(demo, captioner, data, sentence):
    with pytest.raises(demo.RefusedError, match=sentence):
        demo.read_photograph(captioner, data)


def test_as_many_pixels_as_may_be(demo, captioner, monkeypatch):
    monkeypatch.setattr(demo, "MAX_PIXELS", 2_000_000)
    assert demo.read_photograph(captioner, file_of("PNG", (2000, 1000), "L")).inputs.shape == (32, 32, 3)
    with pytest.raises(demo.RefusedError, match="more than 2 million pixels"):
        demo.read_photograph(captioner, file_of("PNG", (2000, 1001), "L"))


# ----------------------------------------------------------------------------- captions


@pytest.mark.parametrize(("width", "alternatives", "count"), [(1, 3, 1), (3, 2, 2), (2, 9, 2)])
def test_captions_of_a_photograph(demo, captioner, width, alternatives, count):
    photograph = demo.read_photograph(captioner, file_of("PNG"))
    captions = demo.write_captions(captioner, photograph, width, alternatives)
    assert len(captions.texts) == len(captions.scores) == count
    assert captions.scores == sorted(captions.scores, reverse=True)
    assert captions.page.count('class="caption"') == count
    assert captions.page.count('class="word"') == sum(len(text.split()) for text in captions.texts)


def test_missing_captions_are_not_shown(demo, captioner, monkeypatch):
    photograph = demo.read_photograph(captioner, file_of("PNG"))
    generate = captioner.generate

    def with_gaps(*arguments):
        generation = generate(*arguments)
        scores = generation.scores.copy()
        scores[:, 2:] = -np.inf
        return generation._replace(scores=scores)

    monkeypatch.setattr(captioner, "generate", with_gaps)
    assert len(demo.write_captions(captioner, photograph, 3, 3).texts) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0, 3), "beam width must be a whole number from 1 to 10"),
        ((10_000, 3), "beam width must be"),
        ((2.5, 3), "beam width must be"),
        ((3, 0), "number of captions must be"),
        ((3, None), "number of captions must be"),
    ],
)
def test_settings_out_of_range(demo, captioner, arguments, sentence):
    photograph = demo.read_photograph(captioner, file_of("PNG"))
    with pytest.raises(demo.RefusedError, match=sentence):
        demo.write_captions(captioner, photograph, *arguments)


def test_captions_without_a_photograph(demo, captioner):
    with pytest.raises(demo.RefusedError, match="no photograph yet"):
        demo.write_captions(captioner, None)


def test_arguments(demo):
    options = demo.parse_arguments(["a.keras", "--host", "0.0.0.0", "--port", "80"])
    assert (options.model, options.host, options.port) == (Path("a.keras"), "0.0.0.0", 80)
    assert demo.parse_arguments(["a.keras"]).host == "127.0.0.1"


def test_a_file_that_is_no_model(demo, tmp_path):
    with pytest.raises(SystemExit, match="There is no file"):
        demo.main([str(tmp_path / "missing.keras")])


# ----------------------------------------------------------------------------- the app


@pytest.fixture(scope="module")
def served(demo, captioner, tmp_path_factory):
    """Address of the running app, and the folder where its uploads go."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        app = demo.make_app(captioner)
        _, address, _ = demo.launch(app, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
        with contextlib.closing(app):
            yield address, folder


@pytest.fixture
def client(served):
    client = pytest.importorskip("gradio_client").Client(served[0], verbose=False, max_workers=100)
    with contextlib.closing(client):
        yield client


def write_file(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    return pytest.importorskip("gradio_client").handle_file(path)


def kept_bytes(folder):
    """What lies in the files of a folder, empty ones aside."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_upload_is_captioned_and_its_file_deleted(served, client, tmp_path):
    _, frame = client.predict(write_file(tmp_path, "a.png", file_of("PNG")), 3, 1, api_name="/upload")
    assert kept_bytes(served[1]) == 0
    assert 'sandbox="allow-scripts"' in frame
    assert frame.count("class=&quot;caption&quot;") == 1
    assert client.predict(2, 2, api_name="/again").count("class=&quot;caption&quot;") == 2


@pytest.mark.parametrize(("data", "sentence"), [(b"text", "not a photograph"), (b"", "no photograph yet")])
def test_the_visitor_is_told(served, client, tmp_path, data, sentence):
    file, answer = client.predict(write_file(tmp_path, "a.jpg", data), 3, 3, api_name="/upload")
    assert file is None
    assert answer.startswith('<p role="alert">')
    assert sentence in answer
    assert kept_bytes(served[1]) == 0
    assert "no photograph yet" in client.predict(2, 2, api_name="/again")


def test_a_hundred_at_once_leave_the_app_alive(served, client, tmp_path):
    files = [write_file(tmp_path, f"{index}.png", file_of("PNG", (30 + index, 40))) for index in range(100)]
    jobs = [client.submit(file, 1, 1, api_name="/upload") for file in files]
    answers = [job.result(timeout=120)[1] for job in jobs]
    assert all(answer.startswith("<iframe") for answer in answers)
    assert client.predict(2, 1, api_name="/again").startswith("<iframe")
    assert kept_bytes(served[1]) == 0


def test_in_a_browser(served, tmp_path):
    address, folder = served
    (tmp_path / "a.png").write_bytes(file_of("PNG"))
    (tmp_path / "a.txt").write_bytes(b"text")
    with open_browser() as browser:
        page = browser.new_page()
        hosts = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        page.locator("input[type=file]").set_input_files(tmp_path / "a.txt")
        page.get_by_text("This file is not a photograph").wait_for()
        page.locator("input[type=file]").set_input_files(tmp_path / "a.png")
        frame = page.frame_locator("iframe")
        frame.locator(".caption:visible").wait_for()
        for word in frame.locator(".word:visible").all():
            word.hover()
            assert frame.locator(".picture canvas").is_visible()
            assert frame.get_by_role("status").text_content().startswith(f"{word.text_content()}: largest weight")
        page.get_by_role("button", name="Caption again").click()
        assert kept_bytes(folder) == 0
        page.close()
    # What a page loads from elsewhere fails offline, and tells others of the visit.
    assert hosts == {address.split("/")[2]}
