"""Optimizers and learning-rate schedule."""

from functools import partial

import torch
from torch import nn

from jog3r.training.config import TrainConfig


def build_optimizers(parameters: list[tuple[str, nn.Parameter]], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest.

    Embeddings and output layers are not hidden matrices and stay with AdamW, as Muon's authors advise. `adamw8bit` keeps AdamW's
    two moments in 8 bits each (arXiv 2110.02861), those of small tensors in 32.

    Raises:
        ValueError: `adamw8bit` without the package bitsandbytes.
    """
    matrices = [parameter for name, parameter in parameters if config.optimizer == "muon" and is_hidden_matrix(name, parameter)]
    taken = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in parameters if id(parameter) not in taken]
    decay = [parameter for parameter in others if parameter.ndim > 1]
    plain = [parameter for parameter in others if parameter.ndim <= 1]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    # fused: one pass over weights and moments where the plain one takes ten
    adamw = _adamw_8bit() if config.optimizer == "adamw8bit" else partial(torch.optim.AdamW, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw(groups, lr=config.learning_rate, betas=(0.9, 0.95))]
    if matrices:
        muon = torch.optim.Muon(
            matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers


def _adamw_8bit() -> type[torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer=adamw8bit needs the package bitsandbytes: pip install '.[8bit]' in the checkout of jog3r"
        ) from error
    return AdamW8bit


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes the parameter."""
    strangers = ("text_encoder", "lora_")  # a low-rank factor is no hidden matrix by itself
    return parameter.ndim == 2 and "blocks." in name and name.endswith("weight") and not any(word in name for word in strangers)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, a constant, then a linear fall to zero over the last `decay_fraction` of the steps."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay_steps = round(config.decay_fraction * config.num_steps)
    if decay_steps and step >= config.num_steps - decay_steps:
        return max(0.0, (config.num_steps - step) / decay_steps)
    return 1.0


def reconstruction_weight(step: int, config: TrainConfig) -> float:
    """Lambda at this step."""
    if config.reconstruction_warmup_steps == 0:
        return config.reconstruction_weight
    return config.reconstruction_weight * min(1.0, (step + 1) / config.reconstruction_warmup_steps)
