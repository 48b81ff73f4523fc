"""The server's page in a real browser: a picture is dropped on it, and what was found is drawn."""

import time

import cv2
import numpy as np
import pytest
from browser import Browser, chromium
from served import CLASSIFICATION, DETECTION, SEGMENTATION, listening, picture, predictor

from lightning_automl_vision.samples import ScoredLabels

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed: apt-get install chromium")

KEY = "0123456789abcdef0123456789abcdef"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "bright.png"
    path.write_bytes(picture())
    return path


def status(browser):
    return browser.run("document.getElementById('status').textContent")


def pixel(browser, x, y):
    """Red, green, blue at shares of the canvas."""
    return browser.run(
        f"(() => {{ const c = document.getElementById('canvas');"
        f" return [...c.getContext('2d').getImageData({x} * c.width, {y} * c.height, 1, 1).data].slice(0, 3) }})()"
    )


def rows(browser):
    return browser.run(
        "[...document.querySelectorAll('#answers li')].map((row) => row.innerText.split('\\n').join(' '))"
    )


def test_a_dropped_picture_is_drawn_with_its_boxes(browser, file):
    browser.messages.clear()
    with listening(predictor(DETECTION)) as server:
        browser.open(server.url)
        browser.until("document.getElementById('about').textContent.includes('2 classes')")
        assert browser.run("document.getElementById('canvas').hidden")
        browser.drop_file(file, 400, 400)
        browser.until("document.getElementById('status').textContent.startsWith('1 object in ')")
        assert rows(browser) == ["bright 0.750"]
        assert browser.run("canvas.width / canvas.height") == pytest.approx(4 / 3, abs=0.01)
        border, inside, outside = (pixel(browser, x, y) for x, y in ((20 / 160, 0.6), (0.3, 0.5), (0.8, 0.8)))
        assert border == [0xF8, 0x71, 0x03]  # the second class has the second colour
        assert (inside, outside) == ([255, 255, 255], [0, 0, 0])
        assert '"bottomX"' in browser.run("document.getElementById('json').textContent")
    assert browser.messages == []


def test_a_long_name_does_not_cover_the_picture(browser, file):
    with listening(predictor(DETECTION, labels=("dark", "a name without an end " * 6))) as server:
        browser.open(server.url)
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').textContent.startsWith('1 object in ')")
        tag, beside = (pixel(browser, x, 27 / 120) for x in (0.15, 0.7))
        assert (tag != [0, 0, 0], beside) == (True, [0, 0, 0])
        assert rows(browser)[0].startswith("a name without an end a name")


def test_an_answer_without_numbers_is_shown(browser, file):
    browser.messages.clear()

    def network(pictures):
        return [ScoredLabels(scores=np.full(2, np.nan, np.float32)) for _ in pictures]

    with listening(predictor(CLASSIFICATION, network)) as server:
        browser.open(server.url)
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').textContent.startsWith('None of the classes in ')")
        assert rows(browser) == ["dark none", "bright none"]
    assert browser.messages == []


def test_a_narrow_window_has_all_of_it(browser, file):
    models = {"a-deployment-with-quite-a-name-1": predictor(DETECTION), "b": predictor()}
    browser.tell("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=True)
    try:
        with listening(models, traffic={"b": 0, "a-deployment-with-quite-a-name-1": 100}) as server:
            browser.open(server.url)
            browser.until("!document.getElementById('deployment-field').hidden")
            browser.choose_file("#file", file)
            browser.until("document.getElementById('status').textContent.startsWith('1 object in ')")
            assert browser.run("document.documentElement.scrollWidth") <= 360
            stage, side = (
                browser.run(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")
                for name in ("stage", "side")
            )
            assert 0 < side["top"] - stage["bottom"] < 40
    finally:
        browser.tell("Emulation.clearDeviceMetricsOverride")


def test_masks_are_filled(browser, file):
    with listening(predictor(SEGMENTATION)) as server:
        browser.open(server.url)
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').textContent.startsWith('1 object in ')")
        inside = pixel(browser, 0.3, 0.5)
        assert inside != [255, 255, 255]
        assert inside[0] > inside[1] > inside[2]


def test_scores_are_listed_and_names_are_never_html(browser, file):
    browser.messages.clear()

    def network(pictures):
        return [ScoredLabels(scores=np.array([0.2, 0.7, 0.1], np.float32)) for _ in pictures]

    model = predictor(CLASSIFICATION, network, labels=("cat", EVIL, "dog"))
    with listening(model) as server:
        browser.open(server.url)
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').textContent.includes(' in ')")
        assert status(browser).startswith(f"{EVIL} in ")
        assert rows(browser) == [f"{EVIL} 0.700", "cat 0.200", "dog 0.100"]
        assert browser.run("document.querySelectorAll('#side img').length") == 0
    assert browser.messages == []


def test_a_key_is_typed_in_when_it_is_asked_for(browser, file):
    with listening(predictor(), keys=(KEY,)) as server:
        browser.open(server.url)
        browser.run("sessionStorage.clear()")
        browser.open(server.url)
        browser.until("!document.getElementById('key-field').hidden")
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').className === 'bad'")
        assert status(browser) == "The server asks for a key: type it in at the top."
        browser.type_into("#key", KEY)
        browser.until("document.getElementById('status').textContent.startsWith('dark in ')")
        browser.run("sessionStorage.clear()")


def test_a_deployment_is_chosen(browser, file):
    models = {"blue": predictor(), "green": predictor(DETECTION)}
    with listening(models, traffic={"blue": 100, "green": 0}) as server:
        browser.open(server.url)
        browser.until("!document.getElementById('deployment-field').hidden")
        names = "[...document.getElementById('deployment').options].map((option) => option.text)"
        assert browser.run(names) == ["by traffic", "blue (100 %)", "green (0 %)"]
        browser.choose_file("#file", file)
        browser.until("document.getElementById('status').textContent.endsWith(' s by blue')")
        choose = "(() => { const s = document.getElementById('deployment'); s.value = 'green';"
        browser.run(choose + " s.dispatchEvent(new Event('change')); })()")
        browser.until("document.getElementById('status').textContent.endsWith(' s by green')")


def test_what_is_no_picture_is_said(browser, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with listening(predictor()) as server:
        browser.open(server.url)
        browser.choose_file("#file", tmp_path / "notes.txt")
        browser.until("document.getElementById('status').className === 'bad'")
        assert status(browser).startswith("The picture is not an image in a known format")


def test_a_picture_that_browsers_cannot_show_is_answered_with_a_note(browser, file, tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((8, 8, 3), 255, np.uint8))
    with listening(predictor()) as server:
        browser.open(server.url)
        for picture_file, hidden in ((tmp_path / "a.tif", False), (file, True)):
            browser.choose_file("#file", picture_file)
            browser.until("document.querySelectorAll('#answers li').length === 2")
            assert browser.run("document.getElementById('unseen').hidden") is hidden
            assert browser.run("document.getElementById('canvas').hidden") is not hidden
            browser.run("document.getElementById('answers').replaceChildren()")


def test_nothing_from_elsewhere_can_run(browser):
    with listening(predictor()) as server:
        browser.open(server.url)
        browser.run(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
            " document.head.append(s); })()"
        )
        time.sleep(0.2)
        assert browser.run("window.evil === undefined")
        assert browser.run("fetch('https://example.org/').then(() => 'reached', () => 'refused')") == "refused"
        browser.messages.clear()


def test_the_picture_is_magnified_but_its_lines_are_not(browser, tmp_path):
    """What is drawn is as thick on a large photograph as on a small one, as it is seen."""
    large = tmp_path / "large.jpg"
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    pixels[600:2000, 800:2000] = 255
    cv2.imwrite(str(large), pixels)
    with listening(predictor(DETECTION)) as server:
        browser.open(server.url)
        browser.choose_file("#file", large)
        browser.until("document.getElementById('status').textContent.startsWith('1 object in ')")
        width = browser.run("canvas.getBoundingClientRect().width")
        assert width <= browser.run("document.getElementById('stage').clientWidth")
        reddish = [pixel(browser, 0.2 + step / width, 0.5) == [0xF8, 0x71, 0x03] for step in range(-6, 7)]
        assert 2 <= sum(reddish) <= 4
