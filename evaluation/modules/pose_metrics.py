"""Hugging Face `evaluate` module: rotation and translation errors, RRA, RTA, mAA and AUC of camera poses, over clips."""

from typing import Any, Literal

import datasets
import evaluate

from jog3r.geometry.camera_metrics import pose_errors, pose_metrics

_POSES = datasets.Sequence(datasets.Array2D(shape=(4, 4), dtype="float64"))


class PoseMetrics(evaluate.Metric):
    """`compute(predictions=[poses (F,4,4), ...], references=[true poses, ...], relative="first")`, camera-to-world."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Camera pose figures over clips: see jog3r.evaluation.pose_metrics for every key.",
            citation="@article{jog3r, title={JOG3R}, journal={arXiv:2501.01409}, year={2025}}",
            inputs_description="predictions, references: one list of 4x4 camera-to-world matrices a clip; relative: first or all",
            features=datasets.Features({"predictions": _POSES, "references": _POSES}),
        )

    def _compute(self, predictions: list, references: list, relative: Literal["first", "all"] = "first") -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        return pose_metrics([pose_errors(predicted, true, relative) for predicted, true in pairs])
