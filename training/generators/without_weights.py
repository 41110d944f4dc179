"""A generator's pipeline without a weight: sizes for preparing data and for counting memory."""

import importlib
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from jog3r.pipelines.loading.any_pipeline import PIPELINES
from jog3r.training.generators.options import TRANSFORMERS, class_of

__all__ = ["PUBLISHED", "pipeline_without_weights"]

_CLASSES = {  # of VAE and scheduler
    "wan": ("AutoencoderKLWan", "UniPCMultistepScheduler"),
    "cogvideox": ("AutoencoderKLCogVideoX", "CogVideoXDDIMScheduler"),
    "ltx": ("AutoencoderKLLTXVideo", "FlowMatchEulerDiscreteScheduler"),
}
PUBLISHED: dict[str, dict[str, Any]] = {  # settings of Wan 2.1 1.3B, CogVideoX 2B, LTX-Video 2B that are not the defaults
    "wan": dict(
        transformer=dict(num_attention_heads=12, ffn_dim=8960, num_layers=30, text_dim=4096),
        scheduler=dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ),
    "cogvideox": dict(
        transformer={}, scheduler=dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0)
    ),
    "ltx": dict(transformer={}, scheduler=dict(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)),
}


def pipeline_without_weights(kind: str, place: str | None) -> Any:
    """Transformer and VAE on the meta device, without text encoder; there is no head.

    Args:
        kind: of `GENERATORS`.
        place: folder, or repository of the hub, whose configs are read; None takes the published sizes.
    """
    name, module = PIPELINES[class_of(kind)]
    transformer_class, vae_class, scheduler_class = (getattr(diffusers, one) for one in (TRANSFORMERS[kind], *_CLASSES[kind]))
    with torch.device("meta"):
        if place is None:
            transformer, vae = transformer_class(**PUBLISHED[kind]["transformer"]), vae_class()
        else:
            transformer = transformer_class.from_config(transformer_class.load_config(place, subfolder="transformer"))
            vae = vae_class.from_config(vae_class.load_config(place, subfolder="vae"))
    with unset_fake_temporarily(), torch.device("cpu"):  # schedulers move their tables, and look into them
        if place is not None and (not Path(place).is_dir() or Path(place, "scheduler").is_dir()):
            settings = scheduler_class.load_config(place, subfolder="scheduler")
            scheduler = getattr(diffusers, settings["_class_name"]).from_config(settings)
        else:
            scheduler = scheduler_class(**PUBLISHED[kind]["scheduler"])
    parts = dict(transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None)
    return getattr(importlib.import_module(module), name)(**parts)
