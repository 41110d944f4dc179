"""Look of the Space: a theme of the system's own fonts, a few rules for both light and dark, and the player of results."""

from pathlib import Path

import gradio as gr

from jog3r.export.player import PLAYER_SCRIPT, PLAYER_STYLE

_FOLDER = Path(__file__).parent
# In the head, since Gradio applies `css` to the inside of the page only.
_WHOLE_PAGE = """
.block.fullscreen {
  inset: 0 !important; width: 100vw !important; height: 100dvh !important; min-width: 0 !important; margin: 0 !important;
}
.block.fullscreen + .placeholder { width: auto !important; }  /* it has the picture's new width, and would widen the page */
.heard-only { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 640px) {
  .gradio-container > .main.app { padding: 8px !important; }
  .tab-container button { padding: 0 6px !important; font-size: 13px !important; }  /* four tabs side by side */
  .poses { max-width: calc(100vw - 30px); }  /* scrolls by itself; else it sets the page's width */
  .poses th, .poses td { padding: 4px 5px !important; }
}
"""
_SCRIPTS = [PLAYER_SCRIPT, (_FOLDER / "page.js").read_text(encoding="utf-8")]
HEAD = (
    '<meta name="description" content="Text to video with cameras, and video to cameras, from one model">'
    f"<style>{_WHOLE_PAGE}</style>" + "".join(f"<script>{script}</script>" for script in _SCRIPTS)
)

CSS = PLAYER_STYLE + (_FOLDER / "page.css").read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Gradio's plain theme without fonts from elsewhere, and dark enough or light enough where it is pale (4.5 to 1)."""
    plain = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    return plain.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_cancel_background_fill=gr.themes.colors.red.c700,
        button_cancel_background_fill_hover=gr.themes.colors.red.c800,
        link_text_color_dark="*secondary_400",
        link_text_color_visited_dark="*secondary_400",
    )
