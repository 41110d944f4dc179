"""Networks: tensors in, tensors out."""

from jog3r.models.feature_tap import FeatureTap
from jog3r.models.registry import register_with_diffusers

__all__ = ["FeatureTap"]

register_with_diffusers()
