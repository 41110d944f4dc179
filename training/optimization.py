"""Optimizers and learning-rate schedule."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer=muon needs torch 2.9, this is {torch.__version__}: take optimizer=adamw")
        muon = BatchedMuon(
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


class BatchedMuon(getattr(torch.optim, "Muon", torch.optim.Optimizer)):  # type: ignore[misc]  # which torch has from 2.9 on
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, and its state; only the order of the work differs.

    A transformer has few shapes of matrices and many matrices of each: torch's five iterations for one after the other are
    hundreds of small products. Momentum and update are one call for all matrices, too.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimizer; returns the closure's loss."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            moments: list[Tensor] = []
            self._init_group(group, parameters, gradients, moments)
            if not parameters:
                continue
            rate, momentum = float(group["lr"]), group["momentum"]
            torch._foreach_lerp_(moments, gradients, 1 - momentum)
            updates = list(torch._foreach_lerp(gradients, moments, momentum)) if group["nesterov"] else moments
            same_shape: dict[Any, list[int]] = defaultdict(list)
            for number, parameter in enumerate(parameters):
                same_shape[parameter.shape, parameter.device].append(number)
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            for (shape, _), numbers in same_shape.items():
                whole = torch.stack([updates[number] for number in numbers])  # (matrices, rows, columns)
                steps = orthogonalise(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
                steps = steps.to(parameters[numbers[0]].dtype)
                scale = 0.2 * math.sqrt(max(shape)) * rate  # steps as large as AdamW's (Moonlight, arXiv 2502.16982)
                torch._foreach_add_([parameters[number] for number in numbers], list(steps), alpha=-scale)
        return loss


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float], num_steps: int = 5, eps: float = 1e-7) -> Tensor:
    """Bring the singular values of matrices (M, rows, columns) near 1, by Newton-Schulz iterations in bfloat16.

    Args:
        matrices: any type.
        coefficients: of the polynomial a x + b x^3 + c x^5 of the singular values.
        num_steps: iterations.
        eps: smallest norm that is divided by.

    Returns:
        (M, rows, columns) bfloat16.
    """
    a, b, c = coefficients
    x = matrices.bfloat16()
    if is_tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)  # no singular value above 1
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
