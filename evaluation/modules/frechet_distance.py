"""Hugging Face `evaluate` module: Fréchet distance between two sets of feature vectors (FID, FVD by the features given)."""

import datasets
import evaluate
import numpy as np

from jog3r.evaluation.video_metrics import frechet_distance

_VECTOR = datasets.Sequence(datasets.Value("float64"))


class FrechetDistance(evaluate.Metric):
    """`compute(predictions=(N,D), references=(N,D))`: `frechet_distance` and `num_samples`.

    The library pairs predictions with references, so both sets have the same size here; `jog3r.evaluation.frechet_distance`
    takes any two sizes.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact Fréchet distance of two Gaussians fitted to feature vectors, float64, also for N < D.",
            citation="@article{fid, title={GANs Trained by TTUR}, journal={arXiv:1706.08500}, year={2017}}",
            inputs_description="predictions, references: feature vectors of generated and real samples",
            features=datasets.Features({"predictions": _VECTOR, "references": _VECTOR}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | int]:
        return {
            "frechet_distance": frechet_distance(np.asarray(predictions), np.asarray(references)),
            "num_samples": len(predictions),
        }
