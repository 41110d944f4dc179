"""The Space in a real headless Chromium, as a person uses it. Skipped where there is none.

CHROMIUM names the browser where it is not on the path; JOG3R_SCREENSHOTS a folder that gets a picture of every tab.
"""

import io
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from PIL import Image  # noqa: E402
from space_server import Running, running_space  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
VIEWPORT = {"width": 1280, "height": 900}
PATIENCE_MS = 300_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_space(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, running: Running) -> Iterator["sync_api.Page"]:
    context = browser.new_context(viewport=VIEWPORT, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked, errors = [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(running.url)
    page.get_by_role("button", name="Generate").wait_for()
    yield page
    elsewhere = [url for url in asked if url.startswith(("http", "ws")) and not url.startswith(running.url)]
    context.close()
    assert not elsewhere and not errors


def _picture(page, name: str) -> None:
    folder = os.environ.get("JOG3R_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/space_{name}.png", full_page=True)


def _panel(page, name: str):
    """The open tab's panel."""
    page.get_by_role("tab", name=name).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.first.wait_for()
    return panel.first


def _fits_the_width(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


def _shows_points(panel) -> None:
    """The canvas of the 3D viewer holds more than its background, and turns by the keyboard."""
    panel.locator("point-view[data-drawn]").wait_for()
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    before = _pixels(canvas)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 20
    canvas.focus()
    for _ in range(4):
        canvas.page.keyboard.press("ArrowLeft")
    canvas.page.wait_for_timeout(500)
    assert np.abs(_pixels(canvas) - before).mean() > 0.1


def _pixels(canvas) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)


def _download(page, panel, name: str) -> bytes:
    with page.expect_download() as event:
        panel.get_by_role("link", name=name).or_(panel.locator(f'a[download="{name}"]')).first.click()
    return Path(event.value.path()).read_bytes()


def test_text_to_video_and_cameras(page, running: Running):
    panel = _panel(page, "Text to video")
    panel.get_by_role("button", name="a living space").click()
    sync_api.expect(panel.get_by_label("Prompt")).to_have_value(re.compile("^a living space"))
    panel.get_by_text("Settings", exact=True).click()
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".progress progress").wait_for()
    panel.get_by_text("Done in").wait_for()
    page.wait_for_function("element => element.duration > 0", arg=panel.locator("video").first.element_handle())
    assert panel.locator('img[alt*="cameras in their scene"]').evaluate("image => image.naturalWidth") > 300
    assert panel.locator('img[alt*="depth"]').evaluate("image => image.naturalWidth") > 300
    _shows_points(panel)
    glb = _download(page, panel, "pointcloud.glb")
    assert struct.unpack("<4sII", glb[:12]) == (b"glTF", 2, len(glb))
    assert len(json.loads(_download(page, panel, "cameras.json"))["frames"]) == running.space.model.max_frames
    panel.get_by_text("Code that reproduces this").click()
    panel.get_by_text("manual_seed(").first.wait_for()
    _fits_the_width(page)
    _picture(page, "generate")


def test_video_to_cameras(page):
    panel = _panel(page, "Video to cameras")
    panel.get_by_role("note").wait_for()
    panel.get_by_role("button", name="Example: camera moves left").click()
    panel.locator("video").first.wait_for()
    panel.get_by_role("button", name="Find the cameras").click()
    panel.get_by_text("Done in").wait_for()
    assert panel.locator(".poses tbody tr").count() >= 2
    _shows_points(panel)
    _fits_the_width(page)
    _picture(page, "reconstruct")


def test_video_to_cameras_without_a_video_is_a_sentence(page):
    panel = _panel(page, "Video to cameras")
    panel.get_by_role("button", name="Find the cameras").click()
    page.get_by_text("Give a video first").wait_for()


def test_comparison(page):
    panel = _panel(page, "Compare")
    panel.get_by_role("note").wait_for()
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("Mean difference to frame 1").wait_for()
    assert panel.locator('img[alt*="carried to frame 1"]').count() == 2
    _fits_the_width(page)
    _picture(page, "compare")


def test_about_and_the_width_of_every_tab(page):
    panel = _panel(page, "About")
    panel.get_by_text("What happens to your data").wait_for()
    _picture(page, "about")
    for name in ("About", "Compare", "Video to cameras", "Text to video"):
        _panel(page, name)
        _fits_the_width(page)


def test_a_request_can_be_stopped(page):
    panel = _panel(page, "Text to video")
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".progress progress").wait_for()
    panel.get_by_role("button", name="Stop").click()
    panel.locator(".progress progress").wait_for(state="detached")


def test_by_keyboard_alone(page):
    """The button is reached by Tab and pressed by Enter."""
    page.get_by_label("Prompt").first.focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Generate":
            break
    assert page.evaluate("document.activeElement.textContent.trim()") == "Generate"
    page.keyboard.press("Enter")
    page.locator(".progress progress").first.wait_for()
    page.get_by_role("button", name="Stop").first.click()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(browser, running: Running, theme: str):
    context = browser.new_context(viewport=VIEWPORT, color_scheme=theme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{running.url}?__theme={theme}")
    page.get_by_role("tab", name="Video to cameras").click()
    note = page.get_by_role("note").first
    note.wait_for()
    ink, ground = note.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    assert _contrast(ink, ground) >= 4.5
    _picture(page, theme)
    context.close()


def _contrast(first: str, second: str) -> float:
    """WCAG contrast of two CSS colours rgb(...)."""

    def luminance(color: str) -> float:
        channels = np.array([float(value) for value in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
