"""Folders with scene.json (world-to-camera matrices and K by frame) as folders that `--source posed` reads: transforms.json.

    python benchmarks/scene_folders.py DATA/sevenscenes_redkitchen OUT

Every folder of the first one that holds a scene.json becomes a folder of OUT with links to its images and depth.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    scenes = sorted(options.scenes.glob("*/scene.json"))
    if not scenes:
        sys.stderr.write(f"error: no scene.json in the folders of {str(options.scenes)!r}\n")
        return 2
    for scene in scenes:
        write_folder(scene, options.out / scene.parent.name)
    return 0


def write_folder(scene: Path, out: Path) -> None:
    """One scene.json as transforms.json, whose cameras are OpenGL's: y and z point the other way."""
    document = json.loads(scene.read_text(encoding="utf-8"))
    frames = []
    for frame in document["frames"]:
        pose = np.linalg.inv(np.array(frame["w2c"]).reshape(4, 4)) @ np.diag([1.0, -1.0, -1.0, 1.0])
        depth = {"depth_file_path": frame["depth"]} if frame.get("depth") else {}
        frames.append({"file_path": frame["image"], "transform_matrix": pose.tolist(), **depth})
    names = dict(zip(("fl_x", "fl_y", "cx", "cy"), document["frames"][0]["K"], strict=True))
    out.mkdir(parents=True, exist_ok=True)
    for name in {Path(path).parts[0] for frame in document["frames"] for path in (frame["image"], frame.get("depth")) if path}:
        if not (out / name).exists():
            (out / name).symlink_to((scene.parent / name).resolve())
    text = json.dumps({"w": document["width"], "h": document["height"], **names, "frames": frames})
    (out / "transforms.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
