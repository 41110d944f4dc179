"""From pairwise pointmaps to the geometry fields of an output: the last steps of every pipeline here."""

from typing import Any

import torch

from jog3r.geometry.registration import Registration, register_pointmaps
from jog3r.models.pointmap_head import Pointmap3DHeadOutput
from jog3r.pipelines.reconstruction import merge_pairs


class GeometryMixin:
    """Registration of a batch of clips."""

    def register(self, pairs: Pointmap3DHeadOutput, num_frames: int, **options: Any) -> list[Registration]:
        """Pairwise pointmaps to cameras and depth, clip by clip; options of `register_pointmaps`."""
        names = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence")
        return [
            register_pointmaps(*(getattr(pairs, name)[clip] for name in names), pairs.pairs, num_frames, **options)
            for clip in range(pairs.pointmaps.shape[0])
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
