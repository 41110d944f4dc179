"""The Gradio Space: text to video with cameras, and video to cameras. Layout and callbacks only.

python spaces_app.py [--model FOLDER] [--host ADDRESS] [--port NUMBER]
"""

import argparse
import functools
import tempfile
from typing import Any

import gradio as gr
import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.data.video import read_video
from jog3r.export.exporters import write_results
from jog3r.export.scene import Scene

EXAMPLES = [
    "a room with blue walls and a brown floor. a red sofa. the camera moves forward.",
    "a room with green walls and a gray floor. a blue chair and a yellow lamp. the camera turns left.",
]
INTRODUCTION = """# JOG3R
One model for text to video *with* cameras and for video to cameras ([paper](https://arxiv.org/abs/2501.01409)).
The bundled model is tiny and has seen nothing but rendered rooms of 64 x 64 pixels."""


@functools.cache
def load_pipeline(model: str) -> Jog3rPipeline:
    """The pipeline, loaded at the first request."""
    pipe: Jog3rPipeline = Jog3rPipeline.from_pretrained(model)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def write_scene(output: Any, fps: float, caption: str = "") -> tuple[str, str, str, list[str]]:
    """The files of a result: video, point cloud, picture of the cameras, and all of them for download."""
    paths = write_results(Scene(**output.clip(), fps=fps, caption=caption), tempfile.mkdtemp(prefix="jog3r-"))
    by_name = {path.name: str(path) for path in paths}
    return by_name["video.mp4"], by_name["pointcloud.glb"], by_name["trajectory.png"], list(by_name.values())


def generate(model: str, prompt: str, steps: float, guidance: float, seed: float) -> tuple[str, str, str, list[str]]:
    """Text to video with cameras."""
    try:
        output = load_pipeline(model)(
            prompt,
            num_inference_steps=int(steps),
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(int(seed)),
        )
        return write_scene(output, 8.0, prompt)
    except ValueError as error:  # what the pipeline refuses, in its own words
        raise gr.Error(str(error)) from error


def reconstruct(model: str, video: str | None, stride: float) -> tuple[str, str, str, list[str]]:
    """Video to cameras."""
    if video is None:
        raise gr.Error("give a video first")
    try:
        pipe = load_pipeline(model)
        size = (pipe.default_size, pipe.default_size)
        frames, fps = read_video(video, stride=int(stride), size=size, resize_mode="crop")
        return write_scene(pipe(video=frames, generator=torch.Generator().manual_seed(0)), fps)
    except ValueError as error:
        raise gr.Error(str(error)) from error


def results() -> list[Any]:
    """The components that show a result, in the order of `write_scene`."""
    with gr.Row():
        video = gr.Video(label="video", autoplay=True, loop=True)
        cloud = gr.Model3D(label="point cloud and cameras")
    picture = gr.Image(label="camera path", type="filepath")
    return [video, cloud, picture, gr.Files(label="files")]


def build(model: str) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="JOG3R") as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Text to video with cameras"):
            prompt = gr.Textbox(EXAMPLES[0], label="prompt")
            with gr.Row():
                steps = gr.Slider(20, 100, 30, step=1, label="steps")
                guidance = gr.Slider(1, 10, 2.5, label="guidance")
                seed = gr.Number(0, precision=0, minimum=0, label="seed")
            button = gr.Button("Generate", variant="primary")
            shown = results()
            gr.Examples([[text] for text in EXAMPLES], [prompt])
            button.click(functools.partial(generate, model), [prompt, steps, guidance, seed], shown, api_name="generate")
        with gr.Tab("Video to cameras"):
            given = gr.Video(label="video (at most 64 frames are taken)", sources=["upload"])
            stride = gr.Slider(1, 30, 1, step=1, label="take every n-th frame")
            button = gr.Button("Find the cameras", variant="primary")
            button.click(functools.partial(reconstruct, model), [given, stride], results(), api_name="reconstruct")
    return page


def main(model: str | None = None, host: str | None = None, port: int | None = None) -> None:
    """Serve the page until interrupted."""
    page = build(tiny_checkpoint() if model is None else model)
    page.queue(max_size=16).launch(server_name=host, server_port=port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="folder or hub repository (default: the bundled tiny model)")
    parser.add_argument("--host", default=None, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=None)
    main(**vars(parser.parse_args()))
