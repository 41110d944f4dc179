"""How long people wait: for the first answer of a cold server, for the page, for a clip with its points in the browser.

python benchmarks/space_start.py [--model FOLDER] [--pictures FOLDER]

The first two need no browser; the others a Chromium on the path (or named by CHROMIUM) and playwright. With --pictures the
tabs are photographed as well: all of them on a desktop, results in the dark theme and on a telephone.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from gradio_client import Client
from PIL import Image
from space_process import Server, running_server

PROMPT = "a living space with green walls and a gray floor, with a blue chair and a yellow lamp, the camera turns left"
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
_PATIENCE_MS = 600_000
_PAGE_OPENINGS = 3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="default: the bundled checkpoint")
    parser.add_argument("--pictures", type=Path, default=None, help="folder that gets a picture of every tab")
    options = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), options.model) as server:
        _print("start to first page", server.started)
        client = Client(server.url, verbose=False, download_files=False, httpx_kwargs={"timeout": 60})
        client.predict(PROMPT, 0, api_name="/generate")  # the page's own steps, guidance and frames
        _print("start to first answer (text to video with cameras)", server.started)
        print(f"processor time of the server until then: {server.cpu_seconds:.1f} s")
        _look(server, options.pictures)
    print(f"load average after: {os.getloadavg()[0]:.1f}")


def _look(server: Server, pictures: Path | None) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium here: the page itself is not measured")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=_PATIENCE_MS)
        for opening in range(_PAGE_OPENINGS):  # the first one with an empty cache
            begin = time.monotonic()
            page = _open(browser, server, "desktop", "light")
            page.get_by_role("button", name="Generate").click(trial=True)
            _print(f"page usable, opening {opening + 1}", begin)
            if opening < _PAGE_OPENINGS - 1:
                page.context.close()
        _generate(page, "click to clip, points and pictures: text to video with cameras")
        _reconstruct(page, "click to clip, points and pictures: video to cameras")
        page.context.close()
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            _photograph_all(_open(browser, server, "desktop", "light"), pictures, "")
            _photograph(_open(browser, server, "desktop", "dark"), pictures, "_dark")
            _photograph(_open(browser, server, "phone", "dark"), pictures, "_phone")
        browser.close()


def _open(browser: Any, server: Server, device: str, theme: str) -> Any:
    page = browser.new_context(**DEVICES[device], color_scheme=theme).new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto(f"{server.url}?__theme={theme}")
    return page


def _tab(page: Any, name: str) -> Any:
    page.get_by_role("tab", name=name).filter(visible=True).first.click()
    panel = page.get_by_role("tabpanel").filter(visible=True).first
    panel.wait_for()
    return panel


def _generate(page: Any, label: str = "") -> None:
    panel = _tab(page, "Text to video")
    panel.get_by_label("Prompt").fill(PROMPT)
    begin = time.monotonic()
    panel.get_by_role("button", name="Generate").click()
    _wait_until_visible(page, panel)
    _print(label, begin)


def _reconstruct(page: Any, label: str = "") -> None:
    panel = _tab(page, "Video to cameras")
    panel.get_by_role("button", name="Example: camera orbits left").click()
    panel.locator("video").first.wait_for()
    begin = time.monotonic()
    panel.get_by_role("button", name="Find the cameras").click()
    _wait_until_visible(page, panel)
    _print(label, begin)


def _wait_until_visible(page: Any, panel: Any) -> None:
    panel.get_by_text("Done in").wait_for()
    panel.locator("point-view[data-drawn]").wait_for()
    for video in panel.locator("video").all():
        page.wait_for_function("video => video.readyState >= 2", arg=video.element_handle())
    _wait_for_pictures(page, panel)


def _wait_for_pictures(page: Any, panel: Any) -> None:
    for picture in panel.locator("img[alt]").all():
        page.wait_for_function("image => image.complete", arg=picture.element_handle())


def _wait_until_complete(page: Any) -> None:
    """Until the last of the files is there, and the words about the example have gone."""
    page.locator(".downloads").filter(has_text="colmap").filter(visible=True).first.wait_for()
    page.get_by_text("An example that this model made").wait_for(state="hidden")


def _photograph(page: Any, folder: Path, ending: str) -> None:
    _generate(page)
    _wait_until_complete(page)
    _save(page, folder / f"space_generate{ending}.png")
    _reconstruct(page)
    _wait_until_complete(page)
    _save(page, folder / f"space_reconstruct{ending}.png")


def _photograph_all(page: Any, folder: Path, ending: str) -> None:
    _photograph(page, folder, ending)
    panel = _tab(page, "Compare")
    panel.get_by_role("button", name="Compare").click()
    panel.get_by_text("Mean difference to frame 1").wait_for()
    panel.locator(".depth canvas[data-frame]").nth(1).wait_for()
    _wait_for_pictures(page, panel)
    _save(page, folder / f"space_compare{ending}.png")
    _tab(page, "About")
    _save(page, folder / f"space_about{ending}.png")


def _save(page: Any, path: Path) -> None:
    """The whole page, in 128 colours: these pictures lie in the repository."""
    page.screenshot(path=path, full_page=True)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def _print(label: str, begin: float) -> None:
    if label:
        print(f"{label}: {time.monotonic() - begin:.2f} s", flush=True)


if __name__ == "__main__":
    main()
