"""The Space in a real headless Chromium, as a person uses it. Skipped where there is none.

CHROMIUM names the browser where it is not on the path.
"""

import base64
import functools
import io
import json
import re
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
from page_checks import CHROMIUM, FLAGS, changes, data_url, fits_the_width, has_names, is_legible
from PIL import Image
from space_files import write_video
from space_server import PATIENCE_SECONDS, PROMPT, Running, connected, held_layers, running_space

from jog3r.data.video import read_video

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path and none named by CHROMIUM")
# What moves costs most of a core in a browser without a GPU: videos that play, borders that pulse during a request.
STAY_STILL = """
document.addEventListener("play", (event) => event.target.pause(), true);
document.addEventListener("DOMContentLoaded", () => {
  document.head.append(Object.assign(document.createElement("style"), {
    textContent: "* { animation: none !important; transition: none !important; }",
  }));
});
"""
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
def _page(browser, running: Running, device: dict[str, Any], link: str = "") -> Iterator["sync_api.Page"]:
    """The page as it opens, also by a copied link; afterwards: it asked nobody else for anything, and no script failed."""
    context = browser.new_context(**device, accept_downloads=True)
    context.add_init_script(STAY_STILL)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked, errors = [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{running.url}?__theme={device['color_scheme']}{link}")
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
def shared_pages(browser, running: Running) -> Iterator[Callable[[str, str], "sync_api.Page"]]:
    """`shared_pages(use, device)` opens a page at its first call: opening one takes seconds."""
    with ExitStack() as stack:
        yield functools.cache(lambda _use, device: stack.enter_context(_page(browser, running, DEVICES[device])))


@pytest.fixture(params=list(DEVICES))
def opened(request, shared_pages) -> "sync_api.Page":
    """A page that only looks at its example, shared by tests that ask the server for nothing."""
    return shared_pages("opened", request.param)


@pytest.fixture(params=list(DEVICES))
def used(request, shared_pages) -> "sync_api.Page":
    """A page shared by tests that ask the server, whatever was asked before."""
    return shared_pages("used", request.param)


used_on_desktop = pytest.mark.parametrize("used", ["desktop"], indirect=True)
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


def _shows_frames(panel) -> None:
    panel.locator("scene-player:has(.video canvas[data-frame]):has(.depth canvas[data-frame])").wait_for()


def _is_loaded(page, panel, alt_text: str) -> None:
    picture = panel.locator(f'img[alt*="{alt_text}"]').first
    page.wait_for_function("image => image.complete && image.naturalWidth > 300", arg=picture.element_handle())


def _shows_points(panel) -> None:
    """The canvas of the 3D viewer holds more than its background, and turns by the keyboard."""
    panel.locator("point-view[data-drawn]").wait_for()
    canvas = panel.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    assert len(np.unique(_drawn(canvas).reshape(-1, 3), axis=0)) > 20
    changes(canvas, lambda: canvas.press("ArrowLeft"))


def _listen(page) -> None:
    """Keep what a screen reader would be told from now on in `heard`."""
    page.evaluate("""() => {
      const live = document.querySelector("[aria-live=polite].heard-only");
      window.heard = [];
      new MutationObserver(() => heard.push(live.textContent)).observe(live, { childList: true });
    }""")


def _drawn(canvas) -> np.ndarray:
    """Pixels (H, W, 3) of the canvas itself."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url(canvas).split(",")[1]))).convert("RGB"))


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
    panel.locator('a[download="everything.zip"]').filter(visible=True).first.wait_for()  # comes with the files for COLMAP
    # Random weights may give frames that share no points.
    if not panel.get_by_text("No COLMAP files").count():
        archive = zipfile.ZipFile(io.BytesIO(_download(page, panel, "colmap.zip")))
        assert archive.testzip() is None and "colmap/sparse/0/cameras.bin" in archive.namelist()


def test_text_to_video_and_cameras_and_again_by_a_link(browser, running: Running, tmp_path: Path):
    """What a desktop makes comes out the same, byte for byte, on a telephone that opens the link."""
    with _page(browser, running, DEVICES["desktop"]) as page:
        panel = _panel(page, "Text to video")
        panel.locator("point-view[data-drawn]").wait_for()
        view = panel.locator("scene-player")
        first_shown = view.get_attribute("data")
        _listen(page)
        panel.get_by_role("button", name="Green room").click()
        sync_api.expect(panel.get_by_label("Prompt")).to_have_value(re.compile("^a living space"))
        panel.get_by_role("button", name="New seed").click()
        sync_api.expect(panel.get_by_label("Seed")).not_to_have_value("0")
        panel.get_by_role("button", name="Settings").click()
        panel.get_by_label("number input for Frames").fill("3")
        sync_api.expect(panel.get_by_label("range slider for Frames")).to_have_value("3")  # the page has taken it over
        video = _generated(page, panel, tmp_path, 3)
        heard = [text.split(" in ")[0] for text in page.evaluate("heard")]
        # Random weights may give frames that share no points, which is said when the files for COLMAP were tried.
        assert heard[:3] == ["Started.", "Half done.", "Done"] and all(text.startswith("No COLMAP") for text in heard[3:])
        assert first_shown and view.get_attribute("data") != first_shown
        panel.get_by_role("button", name="Code that reproduces this").click()
        panel.get_by_text("manual_seed(").first.wait_for()
        _is_for_everybody(page)
        panel.get_by_role("button", name="Copy link").click()
        page.wait_for_function("location.hash.includes('living')")
        page.get_by_role("button", name=re.compile("^(Copied|See the address)$")).wait_for()
        page.get_by_role("button", name="Copy link").wait_for()
        link = page.evaluate("location.hash")
    with _page(browser, running, DEVICES["phone"], link) as page:
        panel = _panel(page, "Text to video")
        sync_api.expect(panel.get_by_label("Prompt")).to_have_value(re.compile("^a living space"))
        assert _generated(page, panel, tmp_path, 3) == video
        _is_for_everybody(page)


def _generated(page, panel, folder: Path, frames: int) -> bytes:
    """Ask, look at the result, and return its video."""
    panel.get_by_role("button", name="Generate").click()
    panel.locator(".progress progress").wait_for()
    panel.get_by_text("Done in").wait_for()
    sync_api.expect(panel.get_by_text("An example that this model made before")).to_have_count(0)
    _shows_frames(panel)
    _is_loaded(page, panel, "path of the cameras")
    _shows_points(panel)
    _downloads_open(page, panel, folder, frames)
    return (folder / "video.mp4").read_bytes()


@pytest.mark.parametrize(("used", "source"), [("phone", "example"), ("desktop", "upload")], indirect=["used"])
def test_video_to_cameras(used, source: str, tmp_path: Path):
    panel = _panel(used, "Video to cameras")
    panel.get_by_role("note").wait_for()
    if source == "example":
        panel.get_by_role("button", name="Example: camera moves left").click()
    else:
        panel.locator("input[type=file]").first.set_input_files(write_video(tmp_path / "my clip.mp4", 12))
    _plays(used, panel.locator("video").first)
    panel.get_by_role("button", name="Find the cameras").click()
    panel.get_by_text("Done in").wait_for()
    sync_api.expect(panel.locator(".poses tbody tr")).to_have_count(4)
    _shows_points(panel)
    _downloads_open(used, panel, tmp_path, 4)
    _is_for_everybody(used)


@pytest.mark.parametrize("used", ["phone"], indirect=True)
def test_comparison_under_one_clock(used, running: Running):
    panel = _panel(used, "Compare")
    panel.get_by_role("note").wait_for()
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("Mean difference to frame 1").wait_for()
    pictures = panel.locator("scene-player canvas[data-frame]")
    sync_api.expect(pictures).to_have_count(4)  # two videos, their depth
    panel.get_by_label("Frame", exact=True).fill("2")
    assert pictures.evaluate_all("all => all.map((one) => one.dataset.frame)") == ["2"] * 4
    left, right = (panel.locator(".video canvas").nth(side).bounding_box() for side in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    sync_api.expect(panel.locator('img[alt*="carried to frame 1"]')).to_have_count(2)
    assert len(_download(used, panel, "video_right.mp4")) > 500
    panel.get_by_role("button", name="Code that reproduces this").click()
    panel.get_by_text("consistency_maps").first.wait_for()
    _is_for_everybody(used)
    colour = panel.locator("figcaption").first.evaluate("name => getComputedStyle(name).color")
    assert colour == "rgb(196, 202, 214)"  # the player's own in both themes, not the page's


def test_an_example_is_there_before_anything_is_asked(opened):
    panel = _panel(opened, "Text to video")
    panel.get_by_text("An example that this model made before").wait_for()
    _shows_frames(panel)
    _is_loaded(opened, panel, "path of the cameras")
    _shows_points(panel)
    panel.get_by_label("Frame", exact=True).fill("9")
    for place in (".video canvas", ".depth canvas", "point-view"):  # one clock for all three
        panel.locator(f"{place}[data-frame='9']").wait_for()
    inside, box = panel.locator("point-view canvas").bounding_box(), panel.locator(".block.viewer").bounding_box()
    assert inside["x"] >= box["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"] + 0.5
    buttons = panel.locator("point-view [role=group]").bounding_box()
    assert inside["y"] >= box["y"] and buttons["y"] + buttons["height"] <= box["y"] + box["height"] + 0.5
    _is_for_everybody(opened)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_generated_video_is_handed_to_the_other_tab(page):
    panel = _panel(page, "Text to video")
    panel.get_by_text("An example that this model made before").wait_for()
    panel.get_by_role("button", name="Find its cameras").click()
    given = page.get_by_role("tabpanel").filter(visible=True).filter(has=page.get_by_role("button", name="Find the cameras"))
    _plays(page, given.locator("video").first)
    given.get_by_text("Done in").wait_for()  # they are looked for without another click
    given.get_by_text(re.compile("Looked at .* of the video.*that it was generated with")).first.wait_for()
    given.get_by_text("White dots: the path that it was generated with").wait_for()


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


@opened_on_desktop
def test_a_refusal_is_a_sentence_and_leaves_no_progress_behind(opened):
    panel = _panel(opened, "Video to cameras")
    panel.get_by_role("button", name="Find the cameras").click()
    opened.get_by_text("Give a video first").wait_for()
    sync_api.expect(panel.locator(".progress progress")).to_have_count(0)


@used_on_desktop
def test_unknown_words_are_marked_a_cut_is_said_and_choices_make_a_prompt(used, running: Running):
    panel = _panel(used, "Text to video")
    most, cut = running.space.model.pipe.transformer.config.max_caption_length, panel.get_by_text("longer than the model reads")
    panel.get_by_label("Prompt").fill(f"red,{' red' * (most - 3)}")  # tokens: the words, a comma and the end
    sync_api.expect(panel.locator("prompt-help p")).to_be_empty()
    panel.get_by_label("Prompt").fill(f"red,{' red' * (most - 2)}")
    sync_api.expect(cut).to_contain_text("its end is cut")
    panel.get_by_label("Prompt").fill("a room with a zebra, blue walls, the camera turns left")
    panel.locator("mark").get_by_text("zebra").wait_for()
    assert panel.locator("mark").count() == 1 and panel.locator("select[name=camera]").input_value() == "turns left"
    panel.locator("select[name=camera]").select_option("moves forward")
    sync_api.expect(panel.get_by_label("Prompt")).to_have_value("a room with a zebra, blue walls, the camera moves forward")
    panel.locator("select[name=floor]").select_option(index=1)  # of which the prompt says nothing
    sync_api.expect(panel.get_by_label("Prompt")).to_have_value(re.compile("^a room with blue walls .* moves forward$"))


@used_on_desktop
def test_a_video_that_the_browser_cannot_play_is_no_error(used, tmp_path: Path):
    used.reload()  # another test may have given a video
    panel = _panel(used, "Video to cameras")
    panel.locator("input[type=file]").first.set_input_files(write_video(tmp_path / "clip.hevc.mov", 4, 96, 64))
    panel.get_by_text("This browser cannot play the video").wait_for()
    icons, box = panel.locator(".given .source-selection").bounding_box(), panel.locator(".block.given").bounding_box()
    assert icons["y"] + icons["height"] <= box["y"] + box["height"]  # not cut off
    assert not used.get_by_text("Video not playable").count()


@used_on_desktop
def test_below_a_tall_video_nothing_is_cut_off(used, tmp_path: Path):
    used.reload()
    panel = _panel(used, "Video to cameras")
    panel.locator("input[type=file]").first.set_input_files(write_video(tmp_path / "clip.mp4", 4, 96, 64))
    used.wait_for_function("document.querySelector('.given video')?.videoHeight === 96")
    icons, box = panel.locator(".given .source-selection").bounding_box(), panel.locator(".block.given").bounding_box()
    assert icons["y"] + icons["height"] <= box["y"] + box["height"]


@pytest.mark.parametrize("opened", ["phone"], indirect=True)
def test_a_picture_fills_the_screen_of_a_telephone(opened):
    panel = _panel(opened, "Text to video")
    panel.get_by_role("button", name="Fullscreen").first.click()
    opened.wait_for_function("document.querySelector('.block.fullscreen')?.getBoundingClientRect().width === screen.width")
    panel.get_by_role("button", name="Exit fullscreen mode").first.click()


@used_on_desktop
def test_a_request_can_be_stopped_and_the_next_one_works(used, running: Running):
    panel = _panel(used, "Text to video")
    stop = panel.get_by_role("button", name="Stop")
    sync_api.expect(stop).to_be_hidden()
    with held_layers(running.space):
        panel.get_by_label("Prompt").press("Control+Enter")
        panel.locator(".progress progress").wait_for()
        before = "getComputedStyle(document.querySelector('scene-player .caption'), '::before').content"
        used.wait_for_function(f"{before} === '\"The result before: \"'")
        stop.click()
        sync_api.expect(panel.locator(".progress progress")).to_have_count(0)
        sync_api.expect(stop).to_be_hidden()
        used.wait_for_function(f"{before} === 'none'")
    assert not panel.get_by_text("Done in").count()
    assert panel.get_by_text("An example that this model made before").count()  # it still is what is shown
    panel.get_by_role("button", name="Generate").click()
    panel.get_by_text("Done in").wait_for()


@used_on_desktop
def test_who_waits_sees_the_place_in_the_queue(used, running: Running):
    panel = _panel(used, "Text to video")
    with held_layers(running.space) as begun:
        first = connected(running.url).submit(PROMPT, 0, 20, 1.0, 4, api_name="/generate")
        assert begun.wait(PATIENCE_SECONDS)
        panel.get_by_role("button", name="Generate").click()
        place = panel.get_by_text("queue: 1/1")
        place.scroll_into_view_if_needed()
        sync_api.expect(panel.locator("job-status")).to_be_hidden()  # which stands in the same place
        sync_api.expect(place).to_be_in_viewport(ratio=0.9)
        panel.get_by_role("button", name="Stop").click()
        sync_api.expect(place).to_have_count(0)
        first.cancel()


@used_on_desktop
def test_by_keyboard_alone(used, running: Running):
    """Everything on the way is reached by Tab in the order in which it stands, shows where the focus is, and Enter starts."""
    panel = _panel(used, "Text to video")
    panel.get_by_label("Prompt").first.focus()
    passed = []
    for _ in range(20):
        used.keyboard.press("Tab")
        passed.append(used.evaluate("document.activeElement.textContent.trim()"))
        assert used.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", passed
        if passed[-1] == "Generate":
            break
    assert passed[-1] == "Generate" and any("Settings" in text for text in passed)
    with held_layers(running.space):
        used.keyboard.press("Enter")
        panel.locator(".progress progress").wait_for()
        used.keyboard.press("Tab")
        used.keyboard.press("Enter")  # Stop comes next
        sync_api.expect(panel.locator(".progress progress")).to_have_count(0)
