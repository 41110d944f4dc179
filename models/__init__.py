"""Networks: tensors in, tensors out."""

from jog3r.models.registry import register_with_diffusers

register_with_diffusers()
