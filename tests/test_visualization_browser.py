"""The page of attention maps in a browser: what a reader's pointer, keyboard and choices do."""

import contextlib
import shutil

import numpy as np
import pytest

from keras_showattend.visualization import attention_page

IMAGE = np.full((40, 60, 3), 200, "uint8")
# A map for each of "left right" and of the alternative "all": the left half, the right half, everywhere.
ATTENTION = np.array([[[[0.5, 0.0], [0.5, 0.0]], [[0.0, 0.5], [0.0, 0.5]]], [[[0.25, 0.25]] * 2, [[0.0, 0.0]] * 2]])


@contextlib.contextmanager
def open_browser():
    """Headless Chromium, where it and playwright are installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        try:
            # Its sandbox needs rights that containers often lack; only pages made here are opened.
            browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {error.message.splitlines()[0]}")
        with contextlib.closing(browser):
            yield browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, tmp_path):
    attention_page(tmp_path / "page.html", [IMAGE], [["left right", "all"]], [ATTENTION], scores=[[-1.0, -2.0]])
    page = browser.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error.message))
    # Warnings are about these tests: Chromium would read pixels faster elsewhere.
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    page.close()
    assert not errors
    # Chromium counts inline images as requests.
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "page.html").as_uri()]


def opacities(page):
    """Of the map that is seen: opacity 0 to 255 in the middle of the left and of the right half; None without one."""
    return page.evaluate(
        """() => {
            const canvas = document.querySelector(".picture canvas"), context = canvas.getContext("2d");
            if (canvas.hidden) return null;
            return [5, 55].map((x) => context.getImageData(x, 20, 1, 1).data[3]);
        }"""
    )


def test_the_pointer(page):
    assert opacities(page) is None
    page.get_by_role("button", name="left").hover()
    left, right = opacities(page)
    assert left > 200
    assert right < 20
    page.get_by_role("button", name="right").hover()
    left, right = opacities(page)
    assert left < 20
    assert right > 200
    assert page.get_by_role("status").text_content() == "right: largest weight 0.5 of 1, in row 1 of 2, column 2 of 2"
    page.mouse.move(0, 0)
    assert opacities(page) is None
    assert page.get_by_role("status").text_content() == ""


def test_the_map_covers_the_photograph(page):
    page.get_by_role("button", name="left").hover()
    assert page.locator(".picture canvas").bounding_box() == page.locator(".picture img").bounding_box()


def test_a_click_keeps_the_map(page):
    word = page.get_by_role("button", name="left")
    word.click()
    page.mouse.move(0, 0)
    assert opacities(page)[0] > 200
    assert word.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="right").hover()
    assert opacities(page)[1] > 200
    page.mouse.move(0, 0)
    assert opacities(page)[0] > 200
    word.click()
    page.mouse.move(0, 0)
    assert word.get_attribute("aria-pressed") == "false"


def test_the_keyboard(page):
    page.keyboard.press("Tab")
    assert opacities(page)[0] > 200
    page.keyboard.press("Tab")
    assert opacities(page)[1] > 200
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert opacities(page)[1] > 200
    page.keyboard.press("Escape")
    assert opacities(page) is None


def test_another_caption(page):
    assert page.locator(".word:visible").all_text_contents() == ["left", "right"]
    page.get_by_role("radio").nth(1).check()
    assert page.locator(".word:visible").all_text_contents() == ["all"]
    assert page.get_by_role("img", name="all", exact=True).is_visible()
    page.get_by_role("button", name="all").hover()
    left, right = opacities(page)
    # Half of the largest weight: one colour in all places, fainter than that of the largest.
    assert left == right
    assert 100 < left < 200


def test_dark_mode_and_print(page):
    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = ground()
    page.emulate_media(color_scheme="dark")
    assert ground() != light
    page.emulate_media(media="print", color_scheme="dark")
    assert ground() == light
    assert not page.locator(".help").is_visible()


def test_without_javascript_the_captions_are_there(browser, tmp_path):
    attention_page(tmp_path / "page.html", [IMAGE], [["left right", "all"]], [ATTENTION])
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator(".word:visible").all_text_contents() == ["left", "right", "all"]
    context.close()


def test_on_a_telephone_nothing_is_wider_than_the_screen(browser, tmp_path):
    words = "counterrevolutionaries " * 6 + "W" * 60
    attention_page(tmp_path / "page.html", [IMAGE], [[words, "all"]], np.full((1, 2, 7, 4), 0.25))
    page = browser.new_page(viewport={"width": 320, "height": 640})
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.close()
