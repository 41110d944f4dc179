"""Where geometry is read off the denoiser: the noise level of the tap, noising a given clip, merging pairs without registration.

Letters: B clips, C latent channels, F frames, H W pixels, h w latents, P pairs.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from jog3r.models.pointmap_head import Pointmap3DHeadOutput

MAX_RECONSTRUCTION_LEVEL = 0.05  # features are read at t <= 5 % of the training steps ([0, 5] of 100 in the paper)
SPACINGS = ("trailing", "linspace", "leading")  # of diffusers' schedulers
DEFAULT_RECONSTRUCTION_LEVEL = 0.02  # a clip that is given is noised to 2 %: inside that range


def num_train_timesteps(scheduler: Any) -> int:
    """Length of the training schedule."""
    return int(scheduler.config.num_train_timesteps)


def find_tap_step(timesteps: Tensor, max_timestep: float, min_timestep: float = 0) -> int | None:
    """Index of the last sampling step with t from `min_timestep` to `max_timestep`, the cleanest latents in range, or None."""
    inside = ((timesteps >= min_timestep) & (timesteps <= max_timestep)).nonzero().flatten()
    return int(inside[-1]) if len(inside) else None


def no_tap_message(scheduler: Any, num_inference_steps: int, max_timestep: float) -> str:
    """Why "t2v+c" cannot be sampled so, and the changes that do help: each is tried on a copy of the scheduler."""
    timesteps: Tensor = scheduler.timesteps
    shown = [f"{float(t):g}" for t in timesteps]
    listed = ", ".join(shown if len(shown) <= 6 else [shown[0], "...", *shown[-4:]])
    remedies = []

    def copied(**changes: Any) -> Any:
        return type(scheduler).from_config(scheduler.config, **changes)

    def lands(copy: Any, steps: int) -> bool:
        try:
            copy.set_timesteps(steps)
        except (ValueError, IndexError, AssertionError):  # more steps than the scheduler takes
            return False
        return find_tap_step(copy.timesteps, max_timestep) is not None

    most = min(10 * num_inference_steps + 100, num_train_timesteps(scheduler) + 1)
    candidates, same = range(num_inference_steps + 1, most), copied()
    enough = next((steps for steps in candidates if lands(same, steps)), None)
    if enough is not None:
        remedies.append(f"raise num_inference_steps to {enough}")
    now = scheduler.config.get("timestep_spacing")
    others = [name for name in SPACINGS if now is not None and name != now]
    spacings = [name for name in others if lands(copied(timestep_spacing=name), num_inference_steps)]
    if spacings:
        remedies.append(f"build the scheduler with timestep_spacing={' or '.join(map(repr, spacings))} (now {now!r})")
    remedies.append(f"pass reconstruction_timestep={math.ceil(timesteps.min())} (noisier features)")
    return (
        f'task "t2v+c" reads its features at a step with t in [0, {max_timestep:g}], but {type(scheduler).__name__} with '
        f"{num_inference_steps} steps visits t = {listed}; {'; or '.join(remedies)}"
    )


def is_flow_matching(scheduler: Any) -> bool:
    """Whether noise is mixed in linearly (rectified flow) instead of by the variance-preserving rule."""
    config = scheduler.config
    return (
        hasattr(scheduler, "scale_noise")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def noise_latents(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
    """Mix noise into clean latents as the transformer sees them, in training, in video to cameras and while sampling.

    Computed from the training schedule itself: the schedulers' own `add_noise` knows only the steps of the last
    `set_timesteps` (DPM-Solver's runs backwards before any), and some need `scale_model_input` afterwards.

    Args:
        scheduler: of diffusers, DDPM-type or flow matching.
        latents, noise (B, C, F, h, w): clean latents and unit Gaussian noise.
        timesteps (B,) or one number: steps of the training schedule.

    Raises:
        ValueError: the scheduler has no training schedule.
    """
    steps = torch.as_tensor(timesteps, device=latents.device).expand(latents.shape[0])  # (B,)
    if is_flow_matching(scheduler):
        sigma = steps.to(latents) / num_train_timesteps(scheduler)
        signal = 1 - sigma
    elif hasattr(scheduler, "alphas_cumprod"):
        alpha = scheduler.alphas_cumprod.to(latents.device)[steps.float().round().long()]
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()  # before they are rounded to bf16, where alpha is 1 at step 0
    else:
        raise ValueError(
            f"{type(scheduler).__name__} has no training schedule (alphas_cumprod) to noise a video with; use a DDPM-type or "
            "flow-matching scheduler"
        )
    shape = (-1, *[1] * (latents.ndim - 1))
    return signal.to(latents.dtype).view(shape) * latents + sigma.to(latents.dtype).view(shape) * noise


def learns_variance(scheduler: Any) -> bool:
    """Whether `scheduler.step` wants the variance channels beside the prediction.

    `from_config` copies `variance_type` into the config of schedulers that ignore it; those that use it also have it as an
    attribute.
    """
    return vars(scheduler).get("variance_type") in ("learned", "learned_range")


def check_variance(scheduler: Any, in_channels: int, out_channels: int) -> None:
    """Refuse a scheduler that would misread the transformer's output channels."""
    name = type(scheduler).__name__
    if learns_variance(scheduler):
        if out_channels != 2 * in_channels:
            raise ValueError(
                f"{name} has variance_type={scheduler.config.variance_type!r}, but the transformer predicts no variance "
                f"({out_channels} channels out, {in_channels} in); build the scheduler with variance_type='fixed_small'"
            )
        return
    noted = scheduler.config.get("variance_type")
    reads_it = "variance_type" in inspect.signature(type(scheduler).__init__).parameters
    if noted in ("learned", "learned_range") and reads_it and in_channels != 3:
        raise ValueError(  # diffusers' solvers then keep three channels, whatever the latents have
            f"{name} has variance_type={noted!r} from the config it was made of and would keep only 3 of {in_channels} latent "
            f"channels; build it with {name}.from_config(config, variance_type=None)"
        )


def join_directions(forwards: Pointmap3DHeadOutput, backwards: Pointmap3DHeadOutput) -> Pointmap3DHeadOutput:
    """The pairs of a video, and those of the same video backwards, as one set of pairs in the video's own frame numbers.

    Args:
        forwards, backwards: prediction for the pairs (0, f), f = 1..F-1, of either.
    """
    last = int(forwards.pairs.max())
    names = ("anchor_pointmaps", "anchor_confidence", "pointmaps", "confidence")
    maps = {name: torch.cat([getattr(forwards, name), getattr(backwards, name)], dim=1) for name in names}
    return Pointmap3DHeadOutput(**maps, pairs=torch.cat([forwards.pairs, last - backwards.pairs]))


def merge_pairs(pairs: Pointmap3DHeadOutput) -> tuple[Tensor, Tensor]:
    """All frames' pointmaps without registration: what the head says, every pair with its own unknown scale.

    Args:
        pairs: prediction for the pairs (0, f), f = 1..F-1.

    Returns:
        pointmaps (B, F, H, W, 3), frame 1 being the confidence-weighted mean over the pairs, scaled to mean distance 1 there;
        confidence (B, F, H, W), the mean over the pairs for frame 1.
    """
    anchors, weights = pairs.anchor_pointmaps.float(), pairs.anchor_confidence.float()
    weights = weights / weights.sum(1, keepdim=True)  # (B, P, H, W)
    first = (anchors * weights[..., None]).sum(1, keepdim=True)  # (B, 1, H, W, 3)
    pointmaps = torch.cat([first, pairs.pointmaps.float()], dim=1)  # (B, F, H, W, 3)
    confidence = torch.cat([pairs.anchor_confidence.float().mean(1, keepdim=True), pairs.confidence.float()], dim=1)
    distance = first.norm(dim=-1).mean((1, 2, 3))  # (B,)
    return pointmaps / distance.clamp(min=1e-12).view(-1, 1, 1, 1, 1), confidence
