"""The Space in a real headless Chromium, as a person uses it. Skipped where there is none.

CHROMIUM names the browser where it is not on the path.
"""

import base64
import io
import json
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from page_checks import fits_the_width, has_names, is_legible
from PIL import Image
from space_files import write_video
from space_server import PATIENCE_SECONDS, PROMPT, Running, connected, held_layers, running_space

from jog3r.data.video import read_video

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path and none named by CHROMIUM")
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
# The two themes go with the two sizes: what matters to a theme does not depend on the size.
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "is_mobile": True, "has_touch": True},
}
PATIENCE_MS = 1000 * PATIENCE_SECONDS
sync_api.expect.set_options(timeout=PATIENCE_MS)  # else 5 seconds


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


@contextmanager
def _page(browser, running: Running, device: dict[str, Any]) -> Iterator["sync_api.Page"]:
    """The page as it opens; afterwards: it asked nobody else for anything, and no script failed."""
    context = browser.new_context(**device, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked, errors = [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{running.url}?__theme={device['color_scheme']}")
    page.get_by_role("button", name="Generate").wait_for()
    yield page
    elsewhere = [url for url in asked if url.startswith(("http", "ws")) and not url.startswith(running.url)]
    context.close()
    assert not elsewhere and not errors


@pytest.fixture(params=list(DEVICES))
def page(request, browser, running: Running) -> Iterator["sync_api.Page"]:
    """A page of one's own."""
    with _page(browser, running, DEVICES[request.param]) as page:
        yield page


@pytest.fixture(scope="module")
def opened_pages(browser, running: Running) -> Iterator[dict[str, "sync_api.Page"]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(_page(browser, running, device)) for name, device in DEVICES.items()}


@pytest.fixture(params=list(DEVICES))
def opened(request, opened_pages) -> "sync_api.Page":
    """A page that only looks at its example, shared by tests that ask the server for nothing: opening one takes seconds."""
    return opened_pages[request.param]


only_on_desktop = pytest.mark.parametrize("page", ["desktop"], indirect=True)
opened_on_desktop = pytest.mark.parametrize("opened", ["desktop"], indirect=True)


def _is_for_everybody(page) -> None:
    fits_the_width(page)
    is_legible(page)
    has_names(page)


def _panel(page, name: str):
    """The open tab's panel."""
    tab = page.get_by_role("tab", name=name).filter(visible=True).first
    tab.click()
    sync_api.expect(tab).to_have_attribute("aria-selected", "true")
    return page.get_by_role("tabpanel").filter(visible=True).first


def _plays(page, video) -> None:
    page.wait_for_function("video => video.duration > 0 && video.readyState >= 2", arg=video.element_handle())


def _is_loaded(page, panel, alt_text: str) -> None:
    picture = panel.locator(f'img[alt*="{alt_text}"]').first
    page.wait_for_function("image => image.complete && image.naturalWidth > 300", arg=picture.element_handle())


def _shows_points(panel) -> None:
    """The canvas of the 3D viewer holds more than its background, and turns by the keyboard."""
    panel.locator("point-view[data-drawn]").wait_for()
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    assert len(np.unique(_drawn(canvas).reshape(-1, 3), axis=0)) > 20
    _changes(canvas, lambda: canvas.press("ArrowLeft"))


def _first_view(page):
    """The panel of the example, its viewer as it was when the page was opened."""
    panel = _panel(page, "Text to video")
    panel.locator("point-view[data-drawn]").wait_for()
    panel.locator("point-view canvas").press("0")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return panel


def _listen(page) -> None:
    """Keep what a screen reader would be told from now on in `heard`."""
    page.evaluate("""() => {
      const live = document.querySelector("[aria-live=polite].heard-only");
      window.heard = [];
      new MutationObserver(() => heard.push(live.textContent)).observe(live, { childList: true });
    }""")


def _changes(canvas, act: Callable[[], None]) -> None:
    """The canvas shows something else after `act`."""
    before = _data_url(canvas)
    act()
    changed = "([canvas, before]) => canvas.toDataURL() !== before"
    canvas.page.wait_for_function(changed, arg=[canvas.element_handle(), before])


def _data_url(canvas) -> str:
    return canvas.evaluate("canvas => canvas.toDataURL()")


def _drawn(canvas) -> np.ndarray:
    """Pixels (H, W, 3) of the canvas itself."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(_data_url(canvas).split(",")[1]))).convert("RGB"))


def _download(page, panel, name: str) -> bytes:
    with page.expect_download() as event:
        panel.locator(f'a[download="{name}"]').filter(visible=True).first.click()
    return Path(event.value.path()).read_bytes()


def _downloads_open(page, panel, folder: Path, frames: int) -> None:
    """Each file is whole and holds what its name says."""
    glb, ply = _download(page, panel, "pointcloud.glb"), _download(page, panel, "pointcloud.ply")
    assert struct.unpack("<4sII", glb[:12]) == (b"glTF", 2, len(glb)) and ply.startswith(b"ply\n")
    assert len(json.loads(_download(page, panel, "cameras.json"))["frames"]) == frames
    (folder / "video.mp4").write_bytes(_download(page, panel, "video.mp4"))
    assert len(read_video(folder / "video.mp4").frames) == frames
    # Random weights may give frames that share no points.
    if not panel.get_by_text("No COLMAP files").count():
        archive = zipfile.ZipFile(io.BytesIO(_download(page, panel, "colmap.zip")))
        assert archive.testzip() is None and "colmap/sparse/0/cameras.bin" in archive.namelist()


def test_text_to_video_and_cameras(page, running: Running, tmp_path: Path):
    panel = _panel(page, "Text to video")
    view = panel.locator("point-view[data-drawn]")
    view.wait_for()
    first_shown = view.get_attribute("src")
    _listen(page)
    panel.get_by_role("button", name="a living space").click()
    sync_api.expect(panel.get_by_label("Prompt")).to_have_value(re.compile("^a living space"))
    panel.get_by_role("button", name="Settings").click()
    panel.get_by_role("button", name="New seed").click()
    sync_api.expect(panel.get_by_label("Seed")).not_to_have_value("0")
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".progress progress").wait_for()
    panel.get_by_text("Done in").wait_for()
    heard = [text.split(" in ")[0] for text in page.evaluate("heard")]
    # Random weights may give frames that share no points, which is said when the files for COLMAP were tried.
    assert heard[:3] == ["Started.", "Half done.", "Done"] and all(text.startswith("No COLMAP") for text in heard[3:])
    sync_api.expect(panel.get_by_text("An example that this model made before")).to_have_count(0)
    assert first_shown and view.get_attribute("src") != first_shown
    _plays(page, panel.locator("video").first)
    _is_loaded(page, panel, "cameras in their scene")
    _is_loaded(page, panel, "depth")
    _shows_points(panel)
    _downloads_open(page, panel, tmp_path, running.space.model.max_frames)
    panel.get_by_role("button", name="Code that reproduces this").click()
    panel.get_by_text("manual_seed(").first.wait_for()
    _is_for_everybody(page)


@pytest.mark.parametrize(("page", "source"), [("phone", "example"), ("desktop", "upload")], indirect=["page"])
def test_video_to_cameras(page, source: str, tmp_path: Path):
    panel = _panel(page, "Video to cameras")
    panel.get_by_role("note").wait_for()
    if source == "example":
        panel.get_by_role("button", name="Example: camera moves left").click()
    else:
        panel.locator("input[type=file]").first.set_input_files(write_video(tmp_path / "my clip.mp4", 12))
    _plays(page, panel.locator("video").first)
    panel.get_by_role("button", name="Find the cameras").click()
    panel.get_by_text("Done in").wait_for()
    assert panel.locator(".poses tbody tr").count() == 4
    _shows_points(panel)
    _downloads_open(page, panel, tmp_path, 4)
    _is_for_everybody(page)


def test_comparison(page):
    panel = _panel(page, "Compare")
    panel.get_by_role("note").wait_for()
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("Mean difference to frame 1").wait_for()
    for video in panel.locator("video").all():
        _plays(page, video)
    assert panel.locator('img[alt*="carried to frame 1"]').count() == 2
    panel.get_by_role("button", name="Code that reproduces this").click()
    panel.get_by_text("consistency_maps").first.wait_for()
    _is_for_everybody(page)


def test_an_example_is_there_before_anything_is_asked(opened):
    panel = _panel(opened, "Text to video")
    panel.get_by_text("An example that this model made before").wait_for()
    _plays(opened, panel.locator("video").first)
    _is_loaded(opened, panel, "cameras in their scene")
    _shows_points(panel)
    inside, box = panel.locator("point-view canvas").bounding_box(), panel.locator(".block.viewer").bounding_box()
    assert inside["x"] >= box["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"] + 0.5
    buttons = panel.locator("point-view [role=group]").bounding_box()
    assert inside["y"] >= box["y"] and buttons["y"] + buttons["height"] <= box["y"] + box["height"] + 0.5
    panel.get_by_role("button", name="What the tiny model understands").click()
    panel.get_by_text("COLOUR walls and a").wait_for()
    _is_for_everybody(opened)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_generated_video_is_handed_to_the_other_tab(page):
    panel = _panel(page, "Text to video")
    panel.get_by_text("An example that this model made before").wait_for()
    panel.get_by_role("button", name="Find its cameras").click()
    given = page.get_by_role("tabpanel").filter(visible=True).filter(has=page.get_by_role("button", name="Find the cameras"))
    _plays(page, given.locator("video").first)
    given.get_by_role("button", name="Find the cameras").click()
    given.get_by_text("Done in").wait_for()
    given.get_by_text(re.compile("Looked at .* of the video")).first.wait_for()


TABS = ("About", "Compare", "Video to cameras", "Text to video")


def test_every_tab_before_anything_is_asked(opened):
    _panel(opened, "About").get_by_text("What happens to your data").wait_for()
    for name in TABS:
        _panel(opened, name)
        _is_for_everybody(opened)


@pytest.mark.parametrize("opened", ["phone"], indirect=True)
def test_every_tab_is_in_sight_on_a_telephone(opened):
    """Also on a narrow one: Gradio would hide in a menu what does not fit, or what it thinks does not."""
    for width in (300, 390):
        opened.set_viewport_size({"width": width, "height": 844})
        opened.evaluate("scrollTo(0, 0)")
        for name in TABS:
            tab = opened.get_by_role("tab", name=name, exact=True).filter(visible=True)
            sync_api.expect(tab).to_have_count(1)
            sync_api.expect(tab).to_be_in_viewport(ratio=0.99)


@only_on_desktop
def test_a_refusal_is_a_sentence_and_leaves_no_progress_behind(page):
    panel = _panel(page, "Video to cameras")
    panel.get_by_role("button", name="Find the cameras").click()
    page.get_by_text("Give a video first").wait_for()
    sync_api.expect(panel.locator(".progress progress")).to_have_count(0)


@only_on_desktop
def test_a_request_can_be_stopped_and_the_next_one_works(page, running: Running):
    panel = _panel(page, "Text to video")
    with held_layers(running.space):
        panel.get_by_role("button", name="Generate").click()
        panel.locator(".progress progress").wait_for()
        panel.get_by_role("button", name="Stop").click()
        sync_api.expect(panel.locator(".progress progress")).to_have_count(0)
    assert not panel.get_by_text("Done in").count()
    assert panel.get_by_text("An example that this model made before").count()  # it still is what is shown
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text("Done in").wait_for()


@only_on_desktop
def test_who_waits_sees_the_place_in_the_queue(page, running: Running):
    panel = _panel(page, "Text to video")
    with held_layers(running.space) as begun:
        first = connected(running.url).submit(PROMPT, 0, 20, 1.0, 4, api_name="/generate")
        assert begun.wait(PATIENCE_SECONDS)
        panel.get_by_role("button", name="Generate").click()
        place = panel.get_by_text("queue: 1/1")
        place.scroll_into_view_if_needed()
        sync_api.expect(place).to_be_in_viewport(ratio=0.9)
        panel.get_by_role("button", name="Stop").click()
        sync_api.expect(place).to_have_count(0)
        first.cancel()


@only_on_desktop
def test_by_keyboard_alone(page, running: Running):
    """Everything on the way is reached by Tab in the order in which it stands, shows where the focus is, and Enter starts."""
    page.get_by_label("Prompt").first.focus()
    passed = []
    for _ in range(20):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", passed
        if passed[-1] == "Generate":
            break
    assert passed[-1] == "Generate" and any("Settings" in text for text in passed)
    panel = page.get_by_role("tabpanel").filter(visible=True).first
    with held_layers(running.space):
        page.keyboard.press("Enter")
        panel.locator(".progress progress").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # Stop comes next
        sync_api.expect(panel.locator(".progress progress")).to_have_count(0)


def test_the_first_view_shows_every_camera_below_the_hint(opened):
    panel = _first_view(opened)
    places, top = panel.locator("point-view").evaluate("""view => {
      const { right, up, back, eye, field } = view.orbit(), canvas = view.canvas.getBoundingClientRect();
      const inner = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
      const places = view.cameras.poses.map((pose) => {
        const seen = pose.slice(9).map((value, k) => value - eye[k]), height = field * -inner(seen, back);
        return [inner(seen, right) / height * canvas.height / canvas.width, inner(seen, up) / height];
      });
      return [places, (view.querySelector("p").getBoundingClientRect().bottom - canvas.top) / canvas.height];
    }""")
    x, y = np.array(places).T
    assert len(places) == 16 and np.abs(x).max() < 1
    assert ((1 - y) / 2).min() > top - 0.05 and ((1 - y) / 2).max() < 1  # shares of the height, from above


@opened_on_desktop
def test_the_viewer_turns_by_mouse_and_zooms_by_wheel(opened):
    panel = _first_view(opened)
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + 100, box["y"] + 100

    def drag() -> None:
        opened.mouse.down()
        opened.mouse.move(x + 60, y + 20)
        opened.mouse.up()

    opened.mouse.move(x, y)
    _changes(canvas, lambda: opened.mouse.wheel(0, 200))
    _changes(canvas, drag)


@opened_on_desktop
def test_the_buttons_of_the_viewer_work_by_keyboard(opened):
    panel = _first_view(opened)
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    home = _data_url(canvas)
    for name in ("Zoom in", "Zoom out", "Zoom out", "Cameras shown", "Reset the view", "Fly along the camera path"):
        _changes(canvas, lambda name=name: panel.get_by_role("button", name=name).press("Enter"))
    flying = panel.get_by_role("button", name="Fly along the camera path")
    sync_api.expect(flying).to_have_attribute("aria-pressed", "true")
    canvas.press("0")
    sync_api.expect(flying).to_have_attribute("aria-pressed", "false")
    _changes(canvas, lambda: panel.get_by_label("Point size").press("ArrowRight"))
    panel.get_by_label("Point size").press("ArrowLeft")
    _changes(canvas, lambda: panel.get_by_role("button", name="Cameras shown").press("Enter"))
    opened.wait_for_function("([canvas, home]) => canvas.toDataURL() === home", arg=[canvas.element_handle(), home])


@opened_on_desktop
def test_the_viewer_survives_the_loss_of_its_graphics_memory(opened):
    panel = _first_view(opened)
    canvas = panel.locator("point-view canvas")
    before = _data_url(canvas)
    canvas.evaluate("""async canvas => {
      const memory = canvas.getContext("webgl2").getExtension("WEBGL_lose_context");
      const lost = new Promise(done => canvas.addEventListener("webglcontextlost", done));
      memory.loseContext();
      await lost;
      await new Promise(done => setTimeout(done));  // the event is over
      memory.restoreContext();
    }""")
    opened.wait_for_function("([canvas, before]) => canvas.toDataURL() === before", arg=[canvas.element_handle(), before])


@pytest.mark.parametrize("opened", ["phone"], indirect=True)
def test_a_finger_on_the_viewer_scrolls_the_page_or_turns_the_points(opened):
    panel = _first_view(opened)
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    panel.get_by_text("swipe sideways").wait_for()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = opened.context.new_cdp_session(opened)

    def swipe(by_x: int, by_y: int) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for share in range(1, 11):
            point = {"x": x + by_x * share / 10, "y": y + by_y * share / 10}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    scrolled = opened.evaluate("scrollY")
    _changes(canvas, lambda: swipe(80, 0))
    assert opened.evaluate("scrollY") == scrolled
    swipe(0, -120)
    opened.wait_for_function("before => scrollY > before + 50", arg=scrolled)
