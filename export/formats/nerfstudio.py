"""nerfstudio's transforms.json, with the images and a starting cloud."""

import json

from jog3r.export.conventions import OPENCV_TO_OPENGL, half_pixel_up
from jog3r.export.files import Content
from jog3r.export.formats.point_cloud import ply_bytes
from jog3r.export.pictures.images import frame_name, frame_pngs
from jog3r.export.scene import Scene

__all__ = ["nerfstudio_files", "transforms_json"]

CLOUD_NAME = "sparse_pc.ply"


def transforms_json(scene: Scene, *, cloud_name: str | None = CLOUD_NAME) -> bytes:
    """Cameras in OpenGL axes (x right, y up, z backward), camera-to-world, intrinsics per frame; without unknown poses.

    The world stays that of camera 1, which is turned upright by nerfstudio's default `--orientation-method up`; with "none"
    poses and cloud come through unchanged. Pixel centres lie at 0.5 there, so cx and cy are half a pixel larger than ours.

    Args:
        scene: Supplies cameras and size.
        cloud_name: File name of the cloud to refer to, or None.
    """
    scene = scene.posed(pictures=False)
    height, width = scene.size
    matrices = scene.poses @ OPENCV_TO_OPENGL
    frames = []
    for index, matrix, k in zip(scene.frame_index, matrices, half_pixel_up(scene.intrinsics), strict=True):
        camera = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "w": width, "h": height}
        frames.append({"file_path": f"images/{frame_name(index)}", **camera, "transform_matrix": matrix.tolist()})
    document = {"camera_model": "OPENCV", "w": width, "h": height, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    if cloud_name is not None:
        document["ply_file_path"] = cloud_name
    return json.dumps(document | {"frames": frames}, indent=1).encode()


def nerfstudio_files(
    scene: Scene, *, max_points: int | None = 200_000, min_confidence_quantile: float = 0.1
) -> dict[str, Content]:
    """A folder for `ns-train splatfacto --data FOLDER`: transforms.json, images/, and the cloud if the scene has one.

    Args:
        scene: The scene.
        max_points: Size of the cloud.
        min_confidence_quantile: Share of the least sure pixels left out of the cloud.

    Returns:
        Relative file name to content.
    """
    files = frame_pngs(scene, "images")
    if not scene.has_points:
        return {"transforms.json": transforms_json(scene, cloud_name=None), **files}
    cloud = scene.points(min_confidence_quantile=min_confidence_quantile, max_points=max_points)
    return {"transforms.json": transforms_json(scene), CLOUD_NAME: ply_bytes(cloud), **files}
