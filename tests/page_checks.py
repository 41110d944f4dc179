"""What a page must fulfil for everybody: contrast of texts, names of controls, texts for pictures, no sideways scrolling."""

import os
import shutil
from collections.abc import Callable
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
_NOT_NEEDED = (
    # menus under the address bar, which every window would load, and no test looks at
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    # Playwright's own, whose list this one replaces
    *(
        "AimEnabled",
        "AvoidCorsURLLoaderRestartOnRedirect",
        "AvoidUnnecessaryBeforeUnloadCheckSync",
        "DestroyProfileOnBrowserClose",
    ),
    *("HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay", "MediaRouter", "NetworkTimeServiceQuerying"),
    *("OptimizationHints", "PaintHolding", "PreconnectToSearch", "ThirdPartyStoragePartitioning"),
)
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-gpu-rasterization", "--disable-gpu-compositing"),  # a GPU made of software takes twice the time for these
    f"--disable-features={','.join(_NOT_NEEDED)}",
]

# Colours go through a canvas, which knows every notation. Backgrounds are laid over each other from the outside in.
_PALE = """least => {
  const dot = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = dot.getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((k) => top[k] * top[3] + under[k] * (1 - top[3])).concat([1]);
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(rgba(getComputedStyle(e).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = (color) => {
    const [r, g, b] = color.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const seen = (element) => {
    const { width, height } = element.getBoundingClientRect();
    return width > 2 && height > 2 && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode()); ) if (node.data.trim()) found.set(node.parentElement, node.data.trim());
  for (const field of document.querySelectorAll("input, textarea")) if (field.value) found.set(field, field.value);
  const pale = [];
  for (const [element, text] of found) {
    if (!seen(element) || element.closest(":disabled, script, style, [aria-hidden=true]")) continue;
    if (element.matches("input[type=range], input[type=file], input[type=checkbox], input[type=radio]")) continue;
    const back = ground(element), ink = over(rgba(getComputedStyle(element).color), back);
    const [low, high] = [light(ink), light(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) pale.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [found.size, pale];
}"""

_NAMELESS = """() => {
  const seen = (element) => {
    const { width } = element.getBoundingClientRect();
    return width > 2 && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const textOf = (id) => document.getElementById(id)?.textContent;
  const isNamed = (e) => [
    e.ariaLabel, e.title, e.alt, e.textContent,
    ...[...(e.labels || [])].map((label) => label.textContent),
    ...[...e.querySelectorAll("*")].flatMap((inner) => [inner.ariaLabel, inner.title, inner.alt]),
    ...(e.getAttribute("aria-labelledby") || "").split(" ").map(textOf),
  ].some((text) => text?.trim()) || (e.matches("img") && e.hasAttribute("alt"));
  const fields = "input:not([type=hidden], [type=file]), textarea, select";
  const controls = `button, a[href], canvas, img, [role=tab], [role=button], ${fields}`;
  return [...document.querySelectorAll(controls)].filter((e) => seen(e) && !isNamed(e)).map((e) => e.outerHTML.slice(0, 200));
}"""


def is_legible(page: Any, least: float = 4.5) -> None:
    """Every visible text, of fields too, has at least this contrast (WCAG AA for texts of any size) to what is behind it."""
    count, pale = page.evaluate(_PALE, least)
    assert count > 10 and not pale, pale


def has_names(page: Any) -> None:
    """Every visible control, link and picture has a text that a screen reader can say; pictures of decoration say alt=""."""
    assert page.evaluate("document.documentElement.lang")
    assert not (nameless := page.evaluate(_NAMELESS)), nameless


def fits_the_width(page: Any) -> None:
    """The page does not scroll sideways."""
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window + 1, f"{wide} px in a window of {window} px"


def changes(canvas: Any, act: Callable[[], object]) -> None:
    """The canvas shows something else after `act`."""
    before = data_url(canvas)
    act()
    changed = "([canvas, before]) => canvas.toDataURL() !== before"
    canvas.page.wait_for_function(changed, arg=[canvas.element_handle(), before])


def data_url(canvas: Any) -> str:
    """What the canvas shows."""
    return str(canvas.evaluate("canvas => canvas.toDataURL()"))
