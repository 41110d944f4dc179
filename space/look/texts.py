"""The words of the Space."""

from jog3r.data.procedural import caption_words
from jog3r.data.procedural.scene_grammar import FLOOR_PATTERNS, KINDS, MOTIONS, PALETTE


def introduction(name: str, makes_videos: bool) -> str:
    """Markdown: what this page does, by which model."""
    video = "Write a prompt and get a short video **with** its 3D points and camera path, or give" if makes_videos else "Give"
    return f"# JOG3R: video and cameras from one model\n{video} a video and get its cameras. Model: `{name}`."


PROMPT_HINT = (
    "The bundled tiny model knows rendered rooms only: coloured walls, a floor, one to three things, and how the camera moves. "
    "Name all four; the choices below have all its words."
)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


PROMPT_PATTERN = "a room with {walls} walls and {floor} floor, with {thing}, the camera {camera}"
PROMPT_WORDS = {
    "walls": list(PALETTE["walls"]),
    "floor": [
        _with_article(f"{colour}{kind}") for colour in PALETTE["floor"] for kind in ("", *(f" {one}" for one in FLOOR_PATTERNS))
    ],
    "thing": [_with_article(f"{colour} {kind}") for kind in KINDS for colour in PALETTE["objects"]],
    "camera": list(MOTIONS),
    "known": sorted(caption_words()),
}

TINY_LIMITS = (
    "This is the bundled tiny model: trained on one CPU, on nothing but rendered rooms of 64 x 64 pixels. It shows how "
    "everything works; it is no product. On real videos its cameras are hardly better than a camera that never moves."
)
SHARED_LIMITS = (
    "Static scenes only; lengths have no unit; of a long clip some frames are looked at. Check results before relying on them."
)

NO_VIDEOS = (
    'The model of this page makes no videos: it finds the cameras of videos that it is given, under "Video to cameras". For '
    "prompts start the page with a JOG3R model."
)


def limits_note(is_bundled: bool) -> str:
    """The honest banner."""
    return f"{TINY_LIMITS} {SHARED_LIMITS}" if is_bundled else SHARED_LIMITS


def compare_note(first: str, second: str | None) -> str:
    """What the comparison compares.

    Args:
        first: Name of the model.
        second: Name of the second one, or None.
    """
    judge = (
        f'Both videos are judged by the same eyes: "{first}" finds the cameras and depth of each, every frame is carried to '
        "frame 1 by them, and the difference there is drawn (dark: agrees). A video that hardly moves agrees for free."
    )
    if second is None:
        return (
            "No second checkpoint is set up here, so this compares two seeds of one model; a server started with "
            f"JOG3R_COMPARE_MODEL compares two checkpoints, such as generation-only and joint. {judge}"
        )
    return f'The same prompt and seed on "{first}" (left) and "{second}" (right). {judge}'


ABOUT = """## What this is
An open implementation of **JOG3R** ([arXiv 2501.01409](https://arxiv.org/abs/2501.01409)): a video diffusion transformer
(OpenSora 1.0) and a DUSt3R-style 3D head, trained together. The features that make the video also tell where its points and
cameras are, so one set of weights does three things: text to video, text to video with cameras, and video to cameras.

## How it works
1. The transformer denoises the clip; near the end its features are read.
2. The head turns the features of frames 1 and f into two maps of 3D points in frame 1's camera, with a confidence for each.
3. A global registration finds one pose and focal length for all frames, and depth.

## Use it yourself
Clone the repository and run `make demo` in its folder. Every result on this page comes with the Python that reproduces it. The
page is also an API for programs: `docs/space.md` in the repository shows its three calls. `make tiny` trains a model like the
bundled one on one CPU, `accelerate launch training/train_joint.py --config training/recipes/paper.yaml` is the paper's recipe.
Start this page with your model: `JOG3R_MODEL=my_folder jog3r serve`.

## What happens to your data
Prompts are not logged. Uploads and results lie in a private folder and are deleted after an hour. The page loads nothing from
other sites.

## Licence
Code and bundled weights: Apache-2.0. If you use this, please cite the paper:
```
@article{huang2025jog3r,
  title   = {{JOG3R}: Towards 3D-Consistent Video Generators},
  author  = {Huang, Chun-Hao Paul and Mitra, Niloy and Jeong, Hyeonho and Yoon, Jae Shin and Ceylan, Duygu},
  journal = {arXiv preprint arXiv:2501.01409},
  year    = {2025}
}
```
"""
