"""From pairwise pointmaps to the geometry fields of an output: the last steps of every pipeline here."""

from typing import Any

import torch

from jog3r.geometry.registration import Registration, register_pointmaps
from jog3r.models.pointmap_head import Pointmap3DHeadOutput
from jog3r.pipelines.reconstruction import merge_pairs

WITHOUT_FLOAT64 = ("mps",)  # devices that do not know what registration computes in


class GeometryMixin:
    """Registration of a batch of clips."""

    def register(self, pairs: Pointmap3DHeadOutput, num_frames: int, **options: Any) -> list[Registration]:
        """Pairwise pointmaps to cameras and depth, clip by clip; options of `register_pointmaps`.

        On the device of the pairs, or on the CPU if that one has no float64 (mps).
        """
        names = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence")
        maps = [getattr(pairs, name) for name in (*names, "pairs")]
        if maps[0].device.type in WITHOUT_FLOAT64:
            maps = [value.cpu() for value in maps]
        *maps, numbers = maps
        return [
            register_pointmaps(*(value[clip] for value in maps), numbers, num_frames, **options) for clip in range(len(maps[0]))
        ]

    def assemble_geometry(
        self, pairs: Pointmap3DHeadOutput, num_frames: int, registration: bool = True, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The geometry fields of the output from the head's pairs; without registration only pointmaps and confidence."""
        if not registration:
            pointmaps, confidence = merge_pairs(pairs)
            return {"pointmaps": pointmaps, "confidence": confidence}
        results = self.register(pairs, num_frames, **(options or {}))
        fields: dict[str, Any] = {
            name: torch.stack([getattr(clip, name) for clip in results]).float()
            for name in ("pointmaps", "confidence", "depth", "poses", "intrinsics")
        }
        return {**fields, "registration": results}
