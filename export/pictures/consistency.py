"""Where a clip contradicts its own geometry: what every frame shows at the points of frame 1, compared with frame 1.

A sharp, standing picture is consistent for free: read the maps beside the camera path. The evaluation's scores (`met3r_self`,
`warp_error`) are other figures; these maps are for looking.
"""

from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from jog3r.export.pictures.plots import DARK, LIGHT, color_bar, figure_png, image_rows
from jog3r.export.scene import Scene
from jog3r.geometry.reprojection import seen_from_first

__all__ = ["ConsistencyMaps", "consistency_maps", "consistency_picture"]

_FULL_SCALE = 64  # grey levels that are drawn in the brightest colour


@dataclass(frozen=True)
class ConsistencyMaps:
    """Frames 2..F seen from frame 1.

    Attributes:
        difference: (F-1, H, W) float32, mean absolute colour difference to frame 1, 0..255.
        seen: (F-1, H, W) bool, pixels of frame 1 that frame f shows too; the difference counts there alone.
        carried: (F-1, H, W, 3) uint8, the colours that frame f has there.
    """

    difference: np.ndarray
    seen: np.ndarray
    carried: np.ndarray

    @property
    def mean(self) -> float:
        """Mean difference over all pixels seen, 0..255; NaN if nothing is seen."""
        return float(self.difference[self.seen].mean()) if self.seen.any() else float("nan")


def consistency_maps(scene: Scene) -> ConsistencyMaps:
    """Carry every frame to frame 1 by the scene's own depth and cameras.

    Args:
        scene: At least 2 frames, with pointmaps.

    Raises:
        ValueError: No pointmaps, or one frame only.
    """
    if scene.pointmaps is None or scene.num_frames < 2:
        raise ValueError("consistency needs a scene with pointmaps and at least 2 frames")
    colors = torch.from_numpy(scene.frames).permute(0, 3, 1, 2).float()  # (F, 3, H, W)
    depth, poses, intrinsics = (torch.from_numpy(array).float() for array in (scene.depth, scene.poses, scene.intrinsics))
    carried, seen = seen_from_first(colors, depth, poses, intrinsics, torch.from_numpy(scene.confidence > 0))
    difference = (carried - colors[:1]).abs().mean(1)  # (F-1, H, W)
    return ConsistencyMaps(
        difference.numpy(), seen.numpy(), carried.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()
    )


def consistency_picture(scene: Scene, maps: ConsistencyMaps | None = None, *, columns: int = 6, dark: bool = False) -> bytes:
    """Frames, the same carried to frame 1, and the difference there, for evenly chosen frames after the first.

    Args:
        scene: The scene.
        maps: Of this scene; None computes them.
        columns: At most that many frames.
        dark: Light on dark instead of dark on white.

    Returns:
        PNG bytes. Grey pixels of frame 1 are not seen in frame f.
    """
    maps = consistency_maps(scene) if maps is None else maps
    chosen = np.unique(np.linspace(0, scene.num_frames - 2, min(columns, scene.num_frames - 1)).round().astype(int))
    heat = (matplotlib.colormaps["inferno"](np.minimum(maps.difference / _FULL_SCALE, 1))[..., :3] * 255).astype(np.uint8)
    unseen = ~maps.seen[..., None]
    rows = [
        ("frame", scene.frames[1:][chosen], [str(index + 2) for index in chosen]),
        ("seen from frame 1", np.where(unseen, 150, maps.carried).astype(np.uint8)[chosen], None),
        ("difference", np.where(unseen, 150, heat).astype(np.uint8)[chosen], None),
    ]
    ink, paper = DARK if dark else LIGHT
    figure, axes = image_rows(rows, 1.35, ink=ink, paper=paper, bar=True)
    color_bar(figure, axes[2], ScalarMappable(Normalize(0, _FULL_SCALE), "inferno"), ink)
    return figure_png(figure)
