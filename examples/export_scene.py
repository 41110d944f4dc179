"""Write one clip in every format that jog3r exports, with its pictures and a turntable, and read it back.

    python examples/export_scene.py --out scene

The clip is drawn in code, with exact depth and cameras; for your own results build the `Scene` from what the pipeline or
`register_pointmaps` returned: `Scene(frames, poses, intrinsics, pointmaps, confidence, fps=8.0)`.
"""

import argparse
from pathlib import Path

from jog3r.data import procedural_clip
from jog3r.export.exporters import EXPORTERS, check_free, load_scene, write_results
from jog3r.export.files import write_files
from jog3r.export.pictures import contact_sheet, correspondences_picture, reciprocal_matches, strips_picture
from jog3r.export.scene import Scene


def main() -> None:
    """Export, draw, read back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="scene", help="folder for the files (default: scene)")
    parser.add_argument("--index", type=int, default=3, help="which procedural test clip (default: 3)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default: 64)")
    parser.add_argument("--export", nargs="*", default=list(EXPORTERS), help=f"some of: {' '.join(EXPORTERS)} (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = parser.parse_args()

    if not options.overwrite:
        try:
            check_free(options.out, options.export)
        except ValueError as error:
            parser.error(str(error))
    clip = procedural_clip(options.index, split="test", height=options.size, width=options.size)
    scene = Scene.from_depth(
        clip.frames, clip.depth, clip.poses, clip.intrinsics, valid=clip.valid, fps=8.0, caption=clip.caption
    )
    paths = write_results(scene, options.out, exports=options.export, overwrite=options.overwrite)
    pictures = {
        "strips.png": strips_picture(scene),
        "frames.png": contact_sheet(scene.frames),
        "correspondences.png": correspondences_picture(scene),
    }
    paths += write_files(options.out, pictures, overwrite=options.overwrite)

    print(f"{clip.caption!r}: {len(paths)} files in {Path(options.out).resolve().name}/")
    print(f"{len(scene.points())} points, {len(reciprocal_matches(scene)[0])} matches between the first and the last frame")
    again = load_scene(options.out)
    print(f"read back: {again.num_frames} frames of {again.size[1]} x {again.size[0]}, poses as written")


if __name__ == "__main__":
    main()
