"""Look of the Space: a theme of the system's own fonts, a few rules for both light and dark, and the 3D viewer."""

from pathlib import Path

import gradio as gr

__all__ = ["CSS", "HEAD", "theme"]

HEAD = (
    '<meta name="description" content="Text to video with cameras, and video to cameras, from one model">'
    f"<script>{(Path(__file__).parent / 'viewer.js').read_text(encoding='utf-8')}</script>"
)

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.banner {
  border-left: 4px solid var(--primary-500); background: var(--background-fill-secondary); color: var(--body-text-color);
  padding: 10px 14px; border-radius: 6px; line-height: 1.45;
}
.progress { min-height: 1.6em; color: var(--body-text-color); }
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
.viewer { min-height: 340px; border-radius: 8px; background: #12141a; }
.viewer .empty { color: #c4cad6; padding: 150px 20px; text-align: center; }
point-view { display: block; position: relative; }
point-view canvas { display: block; width: 100%; height: 340px; border-radius: 8px; cursor: grab; touch-action: none; }
point-view p { position: absolute; left: 10px; bottom: 6px; margin: 0; color: #c4cad6; font-size: 11px; pointer-events: none; }
.prose pre, .prose code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.dice { align-self: end; }
button:focus-visible, a:focus-visible, input:focus-visible, textarea:focus-visible, [tabindex]:focus-visible {
  outline: 3px solid var(--primary-500) !important; outline-offset: 2px;
}
@media (max-width: 640px) {
  .gradio-container .app { padding: 8px !important; }
  .tab-wrapper, .tab-container { height: auto !important; flex-wrap: wrap; }  /* else the tabs set the page's width */
}
"""


def theme() -> gr.themes.Base:
    """Gradio's plain theme without fonts from elsewhere."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
