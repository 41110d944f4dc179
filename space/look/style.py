"""Look of the Space: a theme of the system's own fonts, a few rules for both light and dark, and the 3D viewer."""

from pathlib import Path

import gradio as gr

__all__ = ["CSS", "HEAD", "theme"]

# In the head, since Gradio applies `css` to the inside of the page only.
_WHOLE_PAGE = """
.heard-only { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 640px) {
  .gradio-container > .main.app { padding: 8px !important; }
  .tab-container button { padding: 0 6px !important; font-size: 13px !important; }  /* four tabs side by side */
  .poses { max-width: calc(100vw - 30px); }  /* scrolls by itself; else it sets the page's width */
  .poses th, .poses td { padding: 4px 5px !important; }
}
"""
_SCRIPTS = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("viewer.js", "announce.js")]
HEAD = (
    '<meta name="description" content="Text to video with cameras, and video to cameras, from one model">'
    f"<style>{_WHOLE_PAGE}</style>" + "".join(f"<script>{script}</script>" for script in _SCRIPTS)
)

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.banner {
  border-left: 4px solid var(--primary-500); background: var(--background-fill-secondary); color: var(--body-text-color);
  padding: 10px 14px; border-radius: 6px; line-height: 1.45;
}
/* Gradio's place in the queue, whose box has no height of its own */
.status > [data-testid=status-tracker] { overflow: visible !important; }
.status > [data-testid=status-tracker] .progress-text {
  inset: 8px auto auto 10px; padding: 0; transform: none; color: var(--body-text-color);
}
.progress { display: block; min-height: 1.6em; color: var(--body-text-color); }
.progress label { display: block; }
.progress progress {
  appearance: none; display: block; width: 100%; height: 10px; margin: 6px 0 10px; border: none; border-radius: 5px;
  background: var(--border-color-primary); overflow: hidden;
}
.progress progress::-webkit-progress-bar { background: var(--border-color-primary); }
.progress progress::-webkit-progress-value { background: var(--primary-600); }
.progress progress::-moz-progress-bar { background: var(--primary-600); }
.progress img { width: 100%; image-rendering: pixelated; border-radius: 6px; }
.poses { overflow-x: auto; }
.poses table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9em; }
.poses caption { text-align: left; padding: 6px 0; color: var(--body-text-color); }
.poses th, .poses td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--border-color-primary); }
.poses td:last-child, .poses th:last-child { text-align: left; }
.picture img { background: white; padding-top: 30px; }  /* below the label */
.downloads .label-clear-button { display: none; }
.viewer, .viewer .html-container { padding: 0 !important; }
.block.viewer { height: 400px; border-radius: 8px; background: #12141a; }
.viewer .empty { color: #c4cad6; padding: 180px 20px; text-align: center; }
point-view { display: flex; flex-direction: column; position: relative; height: 400px; background: #12141a; border-radius: 8px; }
point-view canvas { flex: 1; min-height: 0; width: 100%; border-radius: 8px; cursor: grab; touch-action: pan-y; }
point-view:fullscreen canvas { touch-action: none; }  /* nothing to scroll there */
point-view p {
  position: absolute; left: 6px; top: 6px; margin: 0 !important; padding: 1px 6px; border-radius: 4px; pointer-events: none;
  background: #12141a; color: #c4cad6 !important; font-size: 11px !important;
}
point-view [role=group] { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; padding: 6px 8px 8px; }
point-view [role=group][hidden], point-view [hidden] { display: none; }
point-view button {
  min-width: 30px; min-height: 28px; padding: 0 8px; border: 1px solid #5b6475; border-radius: 6px;
  background: #232833; color: #e8ebf1; font-size: 12px; cursor: pointer;
}
point-view button:hover { background: #343b4a; }
point-view button[aria-pressed=true] { background: #dce4f5; color: #12141a; }
point-view label { display: flex; flex: 1; align-items: center; gap: 6px; color: #c4cad6; font-size: 12px; white-space: nowrap; }
point-view input { flex: 1; min-width: 60px; accent-color: #8fb2f5; }
@media (pointer: coarse) { point-view button { min-width: 40px; min-height: 40px; } }
.prose pre, .prose code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.code .cm-line, .code .cm-line * { color: var(--body-text-color) !important; }  /* the editor's own colours are pale */
footer .divider { display: none; }  /* between links of which one is left */
button[role=tab].selected { color: var(--link-text-color) !important; }
.dice { align-self: end; }
button:focus-visible, a:focus-visible, input:focus-visible, textarea:focus-visible, [tabindex]:focus-visible {
  outline: 3px solid var(--primary-500) !important; outline-offset: 2px;
}
"""


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
