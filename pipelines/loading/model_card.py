"""The model card that is written beside saved weights: diffusers' own template names an import that does not work."""

from typing import Any

from jog3r.models.saving import NOT_STATED, licence_line, licence_sentence

UNTRAINED_HEAD = (
    "the 3D head is not trained yet: poses, cameras and pointmaps of this model mean nothing until training/train_joint.py has "
    "trained it; its videos do not depend on it"
)
_TEMPLATE = """---
library_name: diffusers
{license}pipeline_tag: text-to-video
tags:
- jog3r
- text-to-video
- camera-pose-estimation
- 3d-reconstruction
---

# JOG3R checkpoint

Text to video with pointmaps and cameras, and video to cameras, from one model
([JOG3R](https://arxiv.org/abs/2501.01409)), in the format of the package `jog3r`.
{warning}
## Use

```python
from jog3r import Jog3rPipeline

pipe = Jog3rPipeline.from_pretrained("<this repository or folder>")
result = pipe("a room with blue walls, the camera moves forward")
result.frames[0]      # PIL images
result.poses          # (B, F, 4, 4) camera-to-world, OpenCV axes; frame 1 is the world
result.intrinsics     # (B, F, 3, 3) in pixels
result.pointmaps      # (B, F, H, W, 3); scale: frame 1's points have a mean distance of 1

cameras = pipe(video="clip.mp4", height={size}, width={size})
```

Needs the package `jog3r`; behind `from jog3r import Jog3rPipeline` diffusers' own `DiffusionPipeline.from_pretrained` works, too.
Without the package load a folder that carries its code, saved by `pipe.save_pretrained(folder, with_code=True)`:
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

## Model

| | |
|---|---|
{rows}

## Training data, quality, licence

{training}

## Limits

Static scenes; clips of about {num_frames} frames at {size} x {size} pixels; lengths have no unit.
"""


def model_card(pipe: Any) -> str:
    """Markdown with the sizes of the components of `pipe`."""
    rows = [
        f"| {name} | {type(module).__name__}, {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters |"
        for name, module in pipe.components.items()
        if hasattr(module, "parameters") and callable(module.parameters)
    ]
    rows.append(f"| scheduler | {type(pipe.scheduler).__name__} |")
    missing = [name for name in ("vae", "transformer", "scheduler") if getattr(pipe, name) is None]
    warnings = [UNTRAINED_HEAD] if is_untrained(pipe.pointmap_head) else []
    if missing:
        warnings.append(f"not a whole pipeline: {', '.join(missing)} must be passed to `from_pretrained`")
    licence = pipe.pointmap_head.config.get("weights_license") if pipe.pointmap_head is not None else None
    return _TEMPLATE.format(
        warning="".join(f"\n**Warning**: {text}.\n" for text in warnings),
        rows="\n".join(rows),
        license=licence_line(licence),
        training=licence_sentence(licence) + NOT_STATED,
        size=256 if pipe.transformer is None else pipe.default_size,
        num_frames=16 if pipe.transformer is None else pipe.transformer.config.num_frames,
    )


def is_untrained(head: Any) -> bool:
    """Whether there is a head and it is marked as one that still has to be trained."""
    return head is not None and not head.config.get("trained", True)
