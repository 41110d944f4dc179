"""Camera files that come with frames: transforms.json, cameras.json, COLMAP's models. All become OpenCV camera-to-world."""

from jog3r.data.camera_formats.cameras_json import read_cameras_json
from jog3r.data.camera_formats.colmap import read_colmap
from jog3r.data.camera_formats.posed_frames import PosedFrames
from jog3r.data.camera_formats.scenes import find_cameras, read_posed_frames
from jog3r.data.camera_formats.transforms_json import read_transforms_json

__all__ = ["PosedFrames", "find_cameras", "read_cameras_json", "read_colmap", "read_posed_frames", "read_transforms_json"]
