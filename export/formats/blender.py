"""An animated Blender camera, as a script to run in Blender and as a glTF animation.

Blender's world has z up and its cameras look along -z; the sensor is fitted to the image's width, and the principal point becomes
the camera's shift. Pixels that are not square become the render's pixel aspect.
"""

import json

import numpy as np

from jog3r.export.conventions import OPENCV_TO_OPENGL, WORLD_TO_Z_UP, camera_size, half_pixel_up, quaternion_wxyz
from jog3r.export.formats.glb import animated_camera_glb, continuous, glb_bytes
from jog3r.export.scene import Scene

__all__ = ["blender_files", "blender_script"]

SENSOR_MM = 36.0
_SAME_ASPECT, _MOST_ASPECT = 1e-3, 0.02  # of fx / fy from its middle: the same; too far for one render to show all frames
_TEMPLATE = '''"""Blender: Scripting > Open > Run, or `blender --python camera.py`. Makes the camera of the clip, animated.

It also loads scene.glb if that lies beside this file. Lengths are the reconstruction's own, not metres.
{remark}"""

import json
import os

import bpy

CLIP = json.loads("""
{clip}
""")

scene = bpy.context.scene
scene.render.resolution_x = CLIP["width"]
scene.render.resolution_y = CLIP["height"]
scene.render.resolution_percentage = 100
scene.render.pixel_aspect_x = CLIP["pixel_aspect"][0]
scene.render.pixel_aspect_y = CLIP["pixel_aspect"][1]
scene.render.fps = CLIP["fps"]
scene.render.fps_base = CLIP["fps_base"]
scene.frame_start = 1
scene.frame_end = CLIP["frames"][-1]["number"]

data = bpy.data.cameras.new("jog3r_camera")
data.sensor_fit = "HORIZONTAL"
data.sensor_width = CLIP["sensor_width_mm"]
data.clip_start = CLIP["clip_start"]
data.clip_end = CLIP["clip_end"]
data.display_size = CLIP["display_size"]
camera = bpy.data.objects.new("jog3r_camera", data)
camera.rotation_mode = "QUATERNION"
scene.collection.objects.link(camera)
scene.camera = camera

for frame in CLIP["frames"]:
    number = frame["number"]
    camera.location = frame["location"]
    camera.rotation_quaternion = frame["quaternion_wxyz"]
    data.lens = frame["lens_mm"]
    data.shift_x = frame["shift_x"]
    data.shift_y = frame["shift_y"]
    camera.keyframe_insert(data_path="location", frame=number)
    camera.keyframe_insert(data_path="rotation_quaternion", frame=number)
    for name in ("lens", "shift_x", "shift_y"):
        data.keyframe_insert(data_path=name, frame=number)
scene.frame_set(1)

# In Blender's text editor __file__ is a path inside the .blend file; the text knows which file it was opened from.
script = os.path.abspath(__file__)
if not os.path.exists(script):
    text = getattr(getattr(bpy.context, "space_data", None), "text", None) or bpy.data.texts.get(os.path.basename(script))
    if text is not None and text.filepath:
        script = bpy.path.abspath(text.filepath)
cloud = os.path.join(os.path.dirname(script), "scene.glb")
if os.path.exists(cloud):
    bpy.ops.import_scene.gltf(filepath=cloud)
else:
    print("camera.py: no cloud is loaded, there is no " + cloud)
'''


def blender_script(scene: Scene) -> str:
    """A Python script for Blender (2.8 and later; needs nothing but Blender); key frames stand at the frames' own numbers.

    Args:
        scene: Supplies cameras, size and fps.

    Returns:
        The script's text; the key frames are in it as JSON.

    Raises:
        ValueError: The shape of the pixels, fx / fy, changes along the clip by more than 2 %. Below, the script takes the middle
            one and says so: exact across, and at the upper and lower border at most 1 % of the height off.
    """
    scene = scene.posed(pictures=False)
    height, width = scene.size
    aspects = scene.intrinsics[:, 0, 0] / scene.intrinsics[:, 1, 1]
    aspect = float(np.median(aspects))
    off = float(np.abs(aspects / aspect - 1).max())
    if off > _MOST_ASPECT:
        raise ValueError(
            f"Blender has one pixel aspect for a clip, but fx / fy runs from {aspects.min():.4g} to {aspects.max():.4g}; "
            "give all frames intrinsics of nearly the same fx / fy"
        )
    poses = WORLD_TO_Z_UP @ scene.poses @ OPENCV_TO_OPENGL
    quaternions = continuous(quaternion_wxyz(poses[:, :3, :3]))
    # Blender counts whole frames a second and divides by fps_base.
    fps = max(1, round(scene.fps))
    size = camera_size(scene.poses, scene.median_depth())
    frames = [
        {"number": number, "location": pose[:3, 3].tolist(), "quaternion_wxyz": quaternion.tolist(), **_lens(k, height, width)}
        for number, pose, quaternion, k in zip(
            (scene.frame_index + 1).tolist(), poses, quaternions, half_pixel_up(scene.intrinsics), strict=True
        )
    ]
    clip = {
        "width": width,
        "height": height,
        "fps": fps,
        "fps_base": fps / scene.fps,
        "sensor_width_mm": SENSOR_MM,
        "clip_start": 1e-3 * size,
        "clip_end": 1e4 * size,
        "display_size": size,
        # A pixel is 1 / fx wide and 1 / fy high; Blender allows aspects from 1 up.
        "pixel_aspect": [max(1.0, 1 / aspect), max(1.0, aspect)],
        "frames": frames,
    }
    remark = f"All frames are shown with one pixel aspect, from which single ones are up to {100 * off:.1f} % off.\n"
    script = _TEMPLATE.replace("{remark}", remark if off > _SAME_ASPECT else "")
    return script.replace("{clip}", json.dumps(clip, indent=1))


def blender_files(scene: Scene, *, max_points: int | None = 200_000) -> dict[str, bytes]:
    """camera.py (exact camera), camera.glb (glTF animation for other programs) and, with points, scene.glb.

    Args:
        scene: The scene.
        max_points: Size of the cloud in scene.glb.

    Returns:
        Relative file name to content.
    """
    files = {"camera.py": blender_script(scene).encode(), "camera.glb": animated_camera_glb(scene)}
    if scene.has_points:
        files["scene.glb"] = glb_bytes(scene, scene.points(min_confidence_quantile=0.1, max_points=max_points))
    return files


def _lens(intrinsics: np.ndarray, height: int, width: int) -> dict:
    """Blender's lens of one camera; `intrinsics` with the first pixel's centre at 0.5."""
    focal_x, focal_y, centre_x, centre_y = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    return {
        "lens_mm": focal_x * SENSOR_MM / width,
        "shift_x": (width / 2 - centre_x) / width,
        # Both shifts are in widths of the image, also the vertical one; image y points down, Blender's up.
        "shift_y": (centre_y - height / 2) * focal_x / focal_y / width,
    }
