"""Real RGB-D clips of 7-Scenes, where they lie beside the checkout, as folders that `PosedFolders` reads."""

import json
from pathlib import Path

import numpy as np

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def as_transforms(scene: Path, folder: Path) -> None:
    """A clip of the shared data as a nerfstudio folder that points at its images and depth."""
    document = json.loads((scene / "scene.json").read_text())
    frames = []
    for number, frame in enumerate(document["frames"]):
        matrix = np.linalg.inv(np.array(frame["w2c"])) @ OPENGL
        camera = dict(zip(("fl_x", "fl_y", "cx", "cy"), frame["K"], strict=True))
        entry = {"file_path": f"images/{number:03d}.jpg", "depth_file_path": f"depth/{number:03d}.png"}
        frames.append({**entry, **camera, "transform_matrix": matrix.tolist()})
    folder.mkdir(parents=True)
    for name in ("images", "depth"):
        (folder / name).symlink_to(scene / name)
    size = {"w": document["width"], "h": document["height"]}
    (folder / "transforms.json").write_text(json.dumps({**size, "frames": frames}))
