"""The model card of a generator's pipeline: what the head adds, and that the generator's own licence and limits stay."""

from typing import Any

from jog3r.models.saving import NOT_STATED

_TEMPLATE = """---
library_name: diffusers
pipeline_tag: text-to-video
tags:
- jog3r
- text-to-video
- camera-pose-estimation
---

# {parent} with a 3D head

{state}

```python
from jog3r import {name}

pipe = {name}.from_pretrained("<this repository or folder>")
{use}
```

## Model

| | |
|---|---|
{rows}

## Training data, quality, licence

The generator's weights keep their own licence. {not_stated}
"""


def generator_card(pipe: Any) -> str:
    """Markdown with the sizes of the components of `pipe`."""
    name = type(pipe).__name__
    rows = [
        f"| {part} | {type(module).__name__}, {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters |"
        for part, module in pipe.components.items()
        if hasattr(module, "parameters") and callable(module.parameters)
    ]
    if pipe.makes_cameras:
        state = (
            "A video generator of diffusers, unchanged, with a head of jog3r that reads cameras and pointmaps off its features."
        )
        use = 'out = pipe("a street")  # out.frames, out.poses (B, F, 4, 4) camera-to-world, out.intrinsics, out.pointmaps'
    else:
        state = "**Warning**: there is no trained 3D head in it: it makes videos, and no cameras."
        use = 'frames = pipe("a street").frames'
    parent = next(cls.__name__ for cls in type(pipe).__mro__ if cls.__module__.startswith("diffusers.pipelines."))
    return _TEMPLATE.format(
        parent=parent,
        name=name,
        state=state,
        use=use,
        rows="\n".join(rows),
        not_stated=NOT_STATED,
    )
