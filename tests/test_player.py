"""A result as one HTML file: what it holds, what is refused, and, in a real Chromium, one clock for video, points and depth."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from page_checks import CHROMIUM, FLAGS, changes, data_url, fits_the_width, has_names, is_legible

from jog3r.__main__ import main
from jog3r.data import procedural_clip
from jog3r.export import player
from jog3r.export.conventions import frustum_corners
from jog3r.export.exporters import write_results
from jog3r.export.formats.point_cloud import VERTEX, ply_bytes, read_ply, structured_ply
from jog3r.export.player import PAGE_BYTES, Shown, html_page, pair_tag, player_tag, read_shown
from jog3r.export.scene import Scene

FRAMES = 12


def make_scene(frames: int = FRAMES, side: int = 16) -> Scene:
    """A wall before a camera that goes to the right; frame f is grey of brightness 20 f."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.arange(frames) * 0.2
    pictures = np.broadcast_to((np.arange(frames) * 240 // frames).astype(np.uint8)[:, None, None, None], (frames, side, side, 3))
    intrinsics = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]])
    scene = Scene.from_depth(pictures, np.full((frames, side, side), 2.0), poses, np.tile(intrinsics, (frames, 1, 1)))
    confidence = np.random.default_rng(0).uniform(1, 9, scene.confidence.shape).astype(np.float32)
    return Scene(scene.frames, scene.poses, scene.intrinsics, scene.pointmaps, confidence, fps=8.0)


def data_of(page: bytes | str) -> dict:
    text = page.decode() if isinstance(page, bytes) else page
    return json.loads(unescape(re.search(r'<scene-player label="[^"]*" data="([^"]*)"', text)[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("results") / "scene"
    write_results(make_scene(), directory, exports=["npz"])
    return directory


# The file


def test_the_command_writes_one_file_that_asks_nobody_for_anything(folder: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "new" / "page.html"
    assert main(["view", str(folder), "--html", str(target)]) == 0
    page = target.read_text()
    assert not re.search(r"(src|href)=|https?:|import\(|url\(", re.sub(r'data="[^"]*"', "", page))
    addresses = data_of(page)["addresses"]
    assert set(addresses) == {"cloud", "video.jpg", "depth.jpg", "confidence.jpg"}
    assert all(address.startswith("data:") for address in addresses.values())
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    assert main(["view", str(folder), "--html", str(target)]) == 2
    assert "exists already; add --overwrite" in capsys.readouterr().err and target.read_text() == page
    assert main(["view", str(folder), "--html", str(tmp_path / "page")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert main(["view", str(folder), "--html", str(target), "--overwrite"]) == 0


@pytest.mark.parametrize("arguments, message", [
    (["view", "{empty}", "--html", "{empty}/page.html"], "holds no result to show"),
    (["view", "{empty}/missing", "--html", "{empty}/page.html"], "holds no result to show"),
    (["view", "{folder}", "--html", "{empty}"], "is a folder"),
    (["view", "{folder}", "--overwrite"], "--overwrite is for --html"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused_in_one_line(folder: Path, tmp_path: Path, capsys, arguments, message) -> None:
    assert main([text.format(empty=tmp_path, folder=folder) for text in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_large_result_stays_below_five_megabytes() -> None:
    clip = procedural_clip(9, split="test")
    frames, depth = (np.repeat(np.repeat(array, 4, 1), 4, 2) for array in (clip.frames[:4], clip.depth[:4]))
    intrinsics = clip.intrinsics[:4] * np.array([[4], [4], [1]])
    shown = Shown.of_scene(Scene.from_depth(frames, depth, clip.poses[:4], intrinsics))
    page = html_page(shown, "a <room>")
    assert 0.9 * PAGE_BYTES < len(page) < 5_000_000 and b"a &lt;room&gt;" in page and len(shown.cloud) > 200_000


def test_noisy_pictures_are_coarser_rather_than_the_page_larger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 600, 600, 3), np.uint8)
    shown = replace(read_shown(folder), pictures={"video": list(noise)})
    assert len(shown.sheets()["video.jpg"]) * 4 / 3 > PAGE_BYTES / 2
    assert len(html_page(shown)) < PAGE_BYTES
    monkeypatch.setattr(player, "PAGE_BYTES", 300_000)
    with pytest.raises(ValueError, match=f"the pictures of {FRAMES} frames leave no room"):
        html_page(shown)


def test_a_folder_without_npz_has_its_points_by_frame(folder: Path, tmp_path: Path) -> None:
    for name in ("cameras.json", "video.mp4", "pointcloud.ply"):
        shutil.copy(folder / name, tmp_path)
    shown, whole = read_shown(tmp_path), read_shown(folder)
    assert set(shown.pictures) == {"video"} and set(whole.pictures) == {"video", "depth", "confidence"}
    assert set(shown.cloud.frame) == set(range(FRAMES)) and np.array_equal(shown.times, whole.times)
    (tmp_path / "video.mp4").unlink()
    assert set(data_of(html_page(read_shown(tmp_path)))["addresses"]) == {"cloud"}


def test_a_point_cloud_of_an_earlier_version_is_read_without_its_frames() -> None:
    cloud = make_scene(2).points()
    assert np.array_equal(read_ply(ply_bytes(cloud)).frame, cloud.frame)
    now = np.frombuffer(ply_bytes(cloud).partition(b"end_header\n")[2], VERTEX)
    names = [name for name in VERTEX.names if name != "frame"]
    before = np.empty(len(now), np.dtype([(name, VERTEX[name]) for name in names]))
    for name in names:
        before[name] = now[name]
    again = read_ply(structured_ply(before, "jog3r: OpenCV axes (x right, y down, z forward), world = camera 1"))
    assert np.array_equal(again.points, cloud.points) and (again.frame == -1).all()


def test_the_player_knows_the_cameras_in_the_axes_of_its_file() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1, :3, 3] = 1, 2, 3
    intrinsics = np.tile([[16.0, 0, 8], [0, 8, 4], [0, 0, 1]], (3, 1, 1))
    scene = Scene(np.zeros((3, 8, 16, 3), np.uint8), poses, intrinsics, pose_known=np.array([True, True, False]))
    data = data_of(player_tag(Shown.of_scene(scene), {}, compared=("made", poses[:2])))
    # Right, up and back are glTF's x, y and z; the world is turned half a turn about x.
    known = [[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, -2, -3]]
    assert data["poses"] == [*known, None] and data["compared"] == {"name": "made", "poses": known}
    assert data["plays"] is False and len(data["lenses"]) == 1
    assert data["lenses"][0] == [-17 / 32, 15 / 32, -7 / 16, 9 / 16]  # left, right, below, above
    intrinsics[1] = [[20.0, 0, 4], [0, 9, 1], [0, 0, 1]]  # of another model: each frame its own
    corners = frustum_corners(np.tile(np.eye(4), (3, 1, 1)), intrinsics, (8, 16), 1.0)
    lenses = data_of(player_tag(Shown.of_scene(replace(scene, intrinsics=intrinsics)), {}))["lenses"]
    for (left, right, below, above), corner in zip(lenses, corners, strict=True):
        np.testing.assert_allclose(corner[[0, 2], :2], [[left, -above], [right, -below]], atol=1e-5)


def test_of_more_cameras_than_a_page_holds_an_even_choice_is_drawn() -> None:
    count = 2000
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = np.arange(count) * 1e-6  # of any unit
    known = np.arange(count) != 0
    pictures = {"video": np.zeros((count, 8, 8, 3), np.uint8)}
    shown = Shown(poses, known, np.tile(np.diag([9.0, 9, 1]), (count, 1, 1)), (8, 8), np.arange(count) / 8, pictures, None)
    page = html_page(shown)
    data = data_of(page)
    drawn = data["drawn"]
    assert len(page) < PAGE_BYTES and len(drawn) == 400 and (drawn[0], drawn[-1]) == (1, count - 1)
    assert set(np.diff(drawn)) <= {5, 6}
    assert data["poses"][0] is None and data["poses"][2][9] == pytest.approx(2e-6, rel=1e-5)  # one looks through all others


def test_two_videos_beside_each_other_have_one_clock_and_no_points() -> None:
    data = data_of(pair_tag(("a <b>", "c"), np.array([2.0, 2.125]), {"video.jpg": "x"}, caption='"q"'))
    assert data["sides"] == ["a <b>", "c"] and data["times"] == [0, 0.125] and data["caption"] == '"q"' and "poses" not in data


# In a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path and none named by CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=600_000)
        yield browser
        browser.close()


COUNTING = """(() => {
  const ask = window.requestAnimationFrame.bind(window);
  window.asked = 0;
  window.requestAnimationFrame = (call) => (window.asked++, ask(call));
})()"""
READ = """() => {
  const middle = (canvas) => canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
  const [video, depth] = ["video", "depth"].map((name) => document.querySelector(`.${name} canvas`));
  return [middle(video), video.dataset.frame, depth.dataset.frame, document.querySelector("point-view").dataset.frame];
}"""
SHADES = """() => {  // brightnesses of the points: everything else has colours, or is nearly white or black
  const canvas = document.querySelector("point-view canvas"), flat = document.createElement("canvas");
  Object.assign(flat, { width: canvas.width, height: canvas.height });
  const pen = flat.getContext("2d");
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, flat.width, flat.height), found = new Map();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === data[i + 1] && data[i] === data[i + 2]) found.set(data[i], (found.get(data[i]) || 0) + 1);
  }
  return [...found].filter(([, count]) => count > 20).map(([shade]) => shade);
}"""


@pytest.fixture
def opened(request, browser, folder: Path, tmp_path: Path):
    (tmp_path / "page.html").write_bytes(html_page(read_shown(folder), "a wall"))
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    context = browser.new_context(**(phone if request.param == "phone" else {"viewport": {"width": 1280, "height": 800}}))
    context.add_init_script(COUNTING)
    page = context.new_page()
    page.set_default_timeout(600_000)
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.locator("point-view[data-drawn]").wait_for()
    page.locator(".depth canvas[data-frame]").wait_for()
    yield page
    context.close()
    assert not errors and not [url for url in asked if not url.startswith(("file:", "data:"))]


def scrub(page, frame: int) -> None:
    page.locator(".when").fill(str(frame))
    page.wait_for_function(f"document.querySelector('point-view').dataset.frame === '{frame}'")


@pytest.mark.parametrize("opened", ["desktop", "phone"], indirect=True)
def test_one_clock_for_video_points_and_depth(opened) -> None:
    scrub(opened, 9)
    brightness, *frames = opened.evaluate(READ)
    assert frames == ["9"] * 3 and abs(brightness - 9 * 20) < 6
    opened.get_by_text(f"10 of {FRAMES} · 1.1 s").wait_for()
    opened.get_by_label("Points shown").select_option("now")
    opened.wait_for_function(f"({SHADES})().some(shade => Math.abs(shade - 180) < 4)")
    opened.wait_for_function(f"!({SHADES})().some(shade => Math.abs(shade - 140) < 4)")
    opened.get_by_label("Points shown").select_option("past")
    opened.wait_for_function(f"({SHADES})().some(shade => Math.abs(shade - 140) < 4)")
    for check in (fits_the_width, is_legible, has_names):
        check(opened)
    # Nothing runs while nothing moves.
    asked = opened.evaluate("""async () => {
      const frame = () => new Promise((done) => setTimeout(done, 20));
      for (let i = 0; i < 3; i++) await frame();
      const before = asked;
      for (let i = 0; i < 10; i++) await frame();
      return asked - before;
    }""")
    assert asked == 0


@pytest.mark.parametrize("opened", ["desktop"], indirect=True)
def test_a_click_on_a_camera_and_the_keys(opened) -> None:
    x, y = opened.locator("point-view").evaluate("""view => {
      const { right, up, back, eye, field } = view.orbit(), { clientWidth: w, clientHeight: h } = view.canvas;
      const seen = view.cameras.poses[7].slice(9).map((value, k) => value - eye[k]);
      const inner = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2], scale = h / 2 / (field * -inner(seen, back));
      return [w / 2 + scale * inner(seen, right), h / 2 - scale * inner(seen, up)];
    }""")
    opened.locator("point-view canvas").click(position={"x": x, "y": y})
    through = opened.get_by_role("button", name="Look through")
    assert through.get_attribute("aria-pressed") == "true"
    assert opened.evaluate("document.querySelector('scene-player').frame") == 7
    scrub(opened, 3)  # the view follows the clock
    assert opened.evaluate("document.querySelector('point-view').flight") == 3
    seen = opened.locator("point-view").evaluate("""view => {  // the picture of a camera that is off its middle fills the view
      const { lenses } = view.cameras;
      view.cameras.lenses = [[-0.2, 0.8, -0.6, 0.3]];
      const m = view.matrix(view.onPath(3)), row = (k, [x, y, z]) => m[k] * x + m[4 + k] * y + m[8 + k] * z + m[12 + k];
      const places = view.corners().map((corner) => [row(0, corner) / row(3, corner), row(1, corner) / row(3, corner)]);
      view.cameras.lenses = lenses;
      return places;
    }""")
    across, upward = np.array(seen).T  # of upper left, upper right, lower left, lower right
    assert np.allclose(across, np.abs(across).max() * np.array([-1, 1, -1, 1]), atol=1e-5)
    assert np.allclose(upward, np.abs(upward).max() * np.array([1, 1, -1, -1]), atol=1e-5)
    assert np.abs(seen).max() == pytest.approx(1, abs=1e-5)
    ratio = opened.locator("point-view").evaluate("""view => {  // of a camera at rest, without points, the view is outside
      const { cameras } = view;
      view.cameras = { ...cameras, poses: cameras.poses.map(() => cameras.poses[0]) };
      view.frame(new Float32Array(30));
      view.reset();
      const ratio = view.distance / view.depth;
      view.cameras = cameras;
      view.frame(view.points.positions);
      view.reset();
      return ratio;
    }""")
    assert ratio >= 3
    opened.locator("point-view canvas").press("ArrowLeft")  # and is left by turning
    assert through.get_attribute("aria-pressed") == "false"
    opened.locator("point-view canvas").press(".")
    assert opened.evaluate("document.querySelector('scene-player').frame") == 4
    opened.get_by_label("Hide least sure").fill("90")
    assert opened.evaluate("document.querySelector('point-view').limits[2]") > 7
    opened.locator("point-view canvas").press(" ")
    opened.get_by_role("button", name="Pause").wait_for()
    opened.wait_for_function("document.querySelector('scene-player').frame > 5")
    opened.locator("point-view canvas").press(" ")
    opened.get_by_role("button", name="Play").wait_for()
    opened.get_by_role("button", name="Confidence").click()
    opened.locator(".depth canvas[aria-label^=Confidence]").wait_for()


@pytest.mark.parametrize("opened", ["desktop", "phone"], indirect=True)
def test_the_first_view_shows_every_camera_below_the_hint(opened) -> None:
    places, top = opened.locator("point-view").evaluate("""view => {
      const { right, up, back, eye, field } = view.orbit(), canvas = view.canvas.getBoundingClientRect();
      const inner = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
      const places = view.cameras.poses.map((pose) => {
        const seen = pose.slice(9).map((value, k) => value - eye[k]), height = field * -inner(seen, back);
        return [inner(seen, right) / height * canvas.height / canvas.width, inner(seen, up) / height];
      });
      return [places, (view.querySelector("p").getBoundingClientRect().bottom - canvas.top) / canvas.height];
    }""")
    x, y = np.array(places).T
    assert len(places) == FRAMES and np.abs(x).max() < 1
    assert ((1 - y) / 2).min() > top - 0.05 and ((1 - y) / 2).max() < 1  # shares of the height, from above


@pytest.mark.parametrize("opened", ["desktop"], indirect=True)
def test_the_viewer_turns_by_mouse_and_zooms_by_wheel(opened) -> None:
    canvas = opened.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + 100, box["y"] + 100

    def drag() -> None:
        opened.mouse.down()
        opened.mouse.move(x + 60, y + 20)
        opened.mouse.up()

    opened.mouse.move(x, y)
    changes(canvas, lambda: opened.mouse.wheel(0, 200))
    changes(canvas, drag)


@pytest.mark.parametrize("opened", ["desktop"], indirect=True)
def test_the_buttons_of_the_viewer_work_by_keyboard(opened) -> None:
    canvas = opened.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    home = data_url(canvas)
    for name in ("Zoom in", "Zoom out", "Zoom out", "Cameras shown", "Reset the view", "Fly along the camera path"):
        changes(canvas, lambda name=name: opened.get_by_role("button", name=name).press("Enter"))
    flying = opened.get_by_role("button", name="Fly along the camera path")
    assert flying.get_attribute("aria-pressed") == "true"
    canvas.press("0")
    assert flying.get_attribute("aria-pressed") == "false"
    changes(canvas, lambda: opened.get_by_label("Point size").press("ArrowRight"))
    opened.get_by_label("Point size").press("ArrowLeft")
    changes(canvas, lambda: opened.get_by_role("button", name="Cameras shown").press("Enter"))
    opened.wait_for_function("([canvas, home]) => canvas.toDataURL() === home", arg=[canvas.element_handle(), home])


@pytest.mark.parametrize("opened", ["desktop"], indirect=True)
def test_the_viewer_survives_the_loss_of_its_graphics_memory(opened) -> None:
    canvas = opened.locator("point-view canvas")
    before = data_url(canvas)
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
def test_a_finger_on_the_viewer_scrolls_the_page_or_turns_the_points(opened) -> None:
    canvas = opened.locator("point-view canvas")
    canvas.scroll_into_view_if_needed()
    opened.get_by_text("swipe sideways").wait_for()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = opened.context.new_cdp_session(opened)

    def swipe(by_x: int, by_y: int) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for share in range(1, 11):
            point = {"x": x + by_x * share / 10, "y": y + by_y * share / 10}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    opened.evaluate("document.body.style.minHeight = '2000px'")
    scrolled = opened.evaluate("scrollY")
    changes(canvas, lambda: swipe(80, 0))
    assert opened.evaluate("scrollY") == scrolled
    swipe(0, -120)
    opened.wait_for_function("before => scrollY > before + 50", arg=scrolled)
