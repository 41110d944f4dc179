"""Hugging Face `evaluate` module: errors of every pair of frames of every clip, unreduced."""

from typing import Any, Literal

import datasets
import evaluate

from jog3r.geometry.camera_metrics import pose_errors

_POSES = datasets.Sequence(datasets.Array2D(shape=(4, 4), dtype="float64"))


class PoseErrors(evaluate.Metric):
    """`compute(predictions=[poses (F,4,4), ...], references=[true poses, ...], relative="first")`, camera-to-world."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Rotation, translation (unfolded) and folded translation errors in degrees, one list a clip.",
            citation="@article{jog3r, title={JOG3R}, journal={arXiv:2501.01409}, year={2025}}",
            inputs_description="predictions, references: one list of 4x4 camera-to-world matrices a clip; relative: first or all",
            features=datasets.Features({"predictions": _POSES, "references": _POSES}),
        )

    def _compute(self, predictions: list, references: list, relative: Literal["first", "all"] = "first") -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        clips = [pose_errors(predicted, true, relative) for predicted, true in pairs]
        names = ("rotation_deg", "translation_deg", "translation_folded_deg")
        return {name: [clip[name].tolist() for clip in clips] for name in names}
