"""Hugging Face `evaluate` module: JOG3R's consistency score of clips with their own pointmaps, motion beside it."""

import datasets
import evaluate
import numpy as np

from jog3r.evaluation.consistency import met3r_self


def _nested(depth: int) -> datasets.Sequence:
    feature = datasets.Value("float32")
    for _ in range(depth):
        feature = datasets.Sequence(feature)
    return feature


class Met3rSelf(evaluate.Metric):
    """`compute(frames=[(F,H,W,3) in 0..1], pointmaps=[(F,H,W,3)], intrinsics=[(F,3,3)])`: means over the clips.

    Features are the frames' colours here; `jog3r.evaluation.met3r_self` takes any feature network.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Visibility-weighted cosine distance of frames carried to frame 1 by their own pointmaps.",
            citation="@article{jog3r, title={JOG3R}, journal={arXiv:2501.01409}, year={2025}}",
            inputs_description="frames in 0..1, pointmaps in frame 1's camera, intrinsics in pixels; one entry a clip",
            features=datasets.Features({"frames": _nested(4), "pointmaps": _nested(4), "intrinsics": _nested(3)}),
        )

    def _compute(self, frames: list, pointmaps: list, intrinsics: list) -> dict[str, float]:
        clips = [
            met3r_self(*(np.asarray(value, dtype=np.float32) for value in clip))
            for clip in zip(frames, pointmaps, intrinsics, strict=True)
        ]
        return {
            "met3r_self": float(np.nanmean([clip.score for clip in clips])),
            "frame_difference": float(np.mean([clip.motion["frame_difference"] for clip in clips])),
            "flow_px": float(np.nanmean([clip.motion["flow_px"] for clip in clips])),
        }
