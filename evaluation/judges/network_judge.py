"""A pipeline as judge, such as a converted DUSt3R: its geometry of each video, scored as the model's own is."""

from typing import Any

import numpy as np
import torch

from jog3r.evaluation.consistency import FeatureFunction, as_video, met3r_pairs, met3r_self, warp_error
from jog3r.evaluation.predictions import TEXT_PARTS, pipeline_hash
from jog3r.geometry.cameras import transform, unproject

__all__ = ["NetworkJudge"]


class NetworkJudge:
    """Video to cameras by another pipeline.

    Its scores are no proof: networks see consistent geometry where there is none, and a frozen video is consistent. The rows of
    the sanity check say how far they can be trusted.

    Args:
        pipeline: any of this package; not the one that is judged, nor one that was trained with it.
        features: for `met3r_self` and `met3r_pairs`; None: colours, and no `met3r_pairs`.
        feature_name: of that network, for the settings.
    """

    order: tuple[str, ...] = ()  # none of its figures puts a frozen video last

    def __init__(self, pipeline: Any, features: FeatureFunction | None, feature_name: str) -> None:
        self.pipeline, self._features, self._feature_name = pipeline, features, feature_name
        self.name = type(pipeline).__name__

    def describe(self) -> dict[str, Any]:
        """What decides the figures."""
        network = {"judge": self.name, "weights": pipeline_hash(self.pipeline, TEXT_PARTS)}
        return {**network, "features": self._feature_name, "warp / no-warp": "of sums over clips"}

    @torch.no_grad()
    def look(self, frames: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Cameras (F,4,4) and figures of a video (F,H,W,3) uint8.

        Raises:
            ValueError: the pipeline refuses the video.
        """
        output = self.pipeline(video=frames, task="v2c", generator=torch.Generator().manual_seed(seed), output_type="np")
        poses, intrinsics, depth = (getattr(output, name)[0].float().cpu() for name in ("poses", "intrinsics", "depth"))
        known = output.registration[0].pose_known
        valid = (depth > 0) & known[:, None, None].to(depth.device)
        own = met3r_self(frames, transform(poses, unproject(depth, intrinsics)), intrinsics, self._features, valid=valid)
        warped = warp_error(frames, depth, poses, intrinsics, valid=valid)
        figures = {"met3r_self": own.score, "visible share": float(own.visibility.mean())}
        if self._features is not None and output.pairwise is not None:
            figures |= self._pairs(frames, output.pairwise)
        flags = np.array(output.registration[0].degenerate)
        warps = {"quotient warp / no-warp": np.array([warped["warp"], warped["no_warp"]])}
        return {"poses": poses.numpy(), "degenerate": flags, **{f"figure {k}": np.array(v) for k, v in figures.items()}, **warps}

    def _pairs(self, frames: np.ndarray, pairs: Any) -> dict[str, float]:
        """`met3r_pairs` from the pipeline's own pointmaps, mean over the pairs (1, f) that overlap, and how many of them do.

        A pair whose points share no pixel has a score of 0, which would be a perfect one.
        """
        if self._features is None:
            raise ValueError("met3r_pairs needs a feature network")
        maps = self._features(as_video(frames)).float().cpu()  # (F,C,h,w)
        numbers = pairs.pairs.cpu()  # (P,2)
        points = torch.stack((pairs.anchor_pointmaps[0], pairs.pointmaps[0]), 1).float().cpu()  # (P,2,H,W,3)
        confidence = torch.stack((pairs.anchor_confidence[0], pairs.confidence[0]), 1).float().cpu()  # (P,2,H,W)
        found = met3r_pairs(maps[numbers], points, confidence)
        overlap = found.overlap_mask.flatten(1).any(1)  # (P,)
        score = float(found.score[overlap].mean()) if overlap.any() else float("nan")
        return {"met3r_pairs": score, "overlapping pairs %": 100 * float(overlap.float().mean())}
