"""Hugging Face `evaluate` module: kernel distance (KID) between two sets of feature vectors."""

import datasets
import evaluate
import numpy as np

from jog3r.evaluation.video_metrics import kernel_distance

_VECTOR = datasets.Sequence(datasets.Value("float64"))


class KernelDistance(evaluate.Metric):
    """`compute(predictions=(N,D), references=(N,D), subset_size=1000, num_subsets=100, seed=0)`: mean, std and subset size."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Unbiased polynomial-kernel MMD over random subsets without replacement; sane at small N.",
            citation="@article{kid, title={Demystifying MMD GANs}, journal={arXiv:1801.01401}, year={2018}}",
            inputs_description="predictions, references: feature vectors of generated and real samples",
            features=datasets.Features({"predictions": _VECTOR, "references": _VECTOR}),
        )

    def _compute(
        self, predictions: list, references: list, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
    ) -> dict[str, float | int]:
        estimate = kernel_distance(np.asarray(predictions), np.asarray(references), subset_size, num_subsets, seed)
        return {"kernel_distance": estimate.value, "std": estimate.std, "subset_size": estimate.num_samples}
