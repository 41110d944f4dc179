"""Losses of generation and reconstruction, as pure functions of tensors.

Letters: B clips or pairs, C latent channels, F frames, h w latent grid, H W pixels.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

from jog3r.pipelines.reconstruction import is_flow_matching

_HALF_BIN = 1 / 255  # half the width of one of 256 levels in [-1, 1]: the variational bound treats latents like pixels


def generation_target(clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, scheduler: Any) -> torch.Tensor:
    """What the model has to predict under `scheduler`.

    Args:
        clean, noise (B, C, F, h, w): clean latents and the unit Gaussian noise mixed into them.
        timesteps (B,): steps of the training schedule; not read by flow matching.
        scheduler: of diffusers; `config.prediction_type` "epsilon", "v_prediction", "sample" or "flow_prediction", or a flow
            matching scheduler.

    Returns:
        (B, C, F, h, w).

    Raises:
        ValueError: for another prediction type.
    """
    # flow matching schedulers have neither a prediction type nor a table of alphas
    prediction_type = scheduler.config.get("prediction_type", "flow_prediction")
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    if prediction_type == "flow_prediction":
        return noise - clean
    if prediction_type == "v_prediction" and not is_flow_matching(scheduler):
        alphas_cumprod = scheduler.alphas_cumprod.to(clean.device)[timesteps]  # (B,)
        signal, sigma = _per_sample(alphas_cumprod.sqrt(), clean), _per_sample((1 - alphas_cumprod).sqrt(), clean)
        return signal * noise - sigma * clean
    raise ValueError(
        "prediction_type must be epsilon, sample, flow_prediction or, without flow matching, v_prediction, "
        f"got {prediction_type!r}"
    )


def generation_loss(
    model_output: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    scheduler: Any,
    variational_bound: bool = False,
) -> torch.Tensor:
    """Squared error of the prediction, optionally with the variational bound that trains a learned variance; unreduced.

    Args:
        model_output (B, C or 2C, F, h, w): the model's `sample`; channels from C on are variance values.
        clean, noise (B, C, F, h, w): clean latents and the unit Gaussian noise mixed into them.
        timesteps (B,): steps of the training schedule, integers.
        scheduler: of diffusers, as in `generation_target`.
        variational_bound: add `variational_bound_term` as OpenSora 1.0 does (improved DDPM, arXiv 2102.09672).

    Returns:
        (B, C, F, h, w), float32 (float64 for such inputs); the mean over all but B is the loss of a clip.

    Raises:
        ValueError: where shapes do not fit, or a bound is asked for without variance channels.
    """
    channels = clean.shape[1]
    if model_output.shape[1] not in (channels, 2 * channels) or model_output.shape[2:] != clean.shape[2:]:
        raise ValueError(f"a prediction of {tuple(model_output.shape)} does not fit latents of {tuple(clean.shape)}")
    if noise.shape != clean.shape or timesteps.shape != clean.shape[:1]:
        raise ValueError(
            f"noise {tuple(noise.shape)} and timesteps {tuple(timesteps.shape)} do not fit latents of {tuple(clean.shape)}"
        )
    model_output, clean, noise = (_at_least_float32(value) for value in (model_output, clean, noise))
    target = generation_target(clean, noise, timesteps, scheduler)
    loss = F.mse_loss(model_output[:, :channels], target, reduction="none")
    if variational_bound:
        loss = loss + variational_bound_term(model_output, clean, noise, timesteps, scheduler)
    return loss


def variational_bound_term(
    model_output: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, scheduler: Any
) -> torch.Tensor:
    """Variational bound of improved DDPM (arXiv 2102.09672) in bits per latent value; trains the variance only.

    The divergence of the model's step from the true posterior, at step 0 the negative log-likelihood of the clean latents in
    bins of 2/255. The gradient of the predicted mean is stopped: it is the business of the squared error.

    Args:
        model_output (B, 2C, F, h, w): prediction, then variance values: -1 is the posterior's log variance, 1 that of beta.
        clean, noise, timesteps, scheduler: as in `generation_loss`.

    Returns:
        (B, C, F, h, w).

    Raises:
        ValueError: without variance channels, or for a scheduler without betas.
    """
    channels = clean.shape[1]
    if model_output.shape[1] != 2 * channels:
        raise ValueError(f"a learned variance needs {2 * channels} output channels, got {model_output.shape[1]}")
    if not hasattr(scheduler, "betas"):
        raise ValueError(f"the bound needs a scheduler with betas such as DDPMScheduler, got {type(scheduler).__name__}")
    table = {name: _per_sample(values[timesteps.cpu()], clean) for name, values in _schedule(scheduler).items()}
    prediction, variance_values = model_output.split(channels, dim=1)

    noisy = table["signal"] * clean + table["sigma"] * noise
    posterior_mean = table["clean_weight"] * clean + table["noisy_weight"] * noisy
    predicted_clean = _predicted_clean(prediction.detach(), noisy, table, scheduler.config.prediction_type)
    mean = table["clean_weight"] * predicted_clean + table["noisy_weight"] * noisy
    fraction = (variance_values + 1) / 2
    log_variance = fraction * table["log_beta"] + (1 - fraction) * table["posterior_log_variance"]

    # at late steps the terms cancel to 1e-5 of themselves: their order is part of the value in float32
    log_ratio = -1.0 + log_variance - table["posterior_log_variance"]
    variance_ratio = (table["posterior_log_variance"] - log_variance).exp()
    divergence = 0.5 * (log_ratio + variance_ratio + (posterior_mean - mean) ** 2 * (-log_variance).exp())
    likelihood = _binned_log_likelihood(clean, mean, 0.5 * log_variance)
    return torch.where(_per_sample(timesteps == 0, clean), -likelihood, divergence) / math.log(2)


def pointmap_loss(  # noqa: PLR0913  # the public contract's signature
    anchor_pointmaps: torch.Tensor,
    anchor_confidence: torch.Tensor,
    pointmaps: torch.Tensor,
    confidence: torch.Tensor,
    true_anchor_pointmaps: torch.Tensor,
    true_pointmaps: torch.Tensor,
    anchor_valid: torch.Tensor,
    valid: torch.Tensor,
    alpha: float = 0.2,
    valid_pixels: torch.Tensor | None = None,
) -> torch.Tensor:
    """DUSt3R's confidence-weighted regression of pointmaps (arXiv 2312.14132) on jointly normalised points, a scalar.

    The mean over all valid pixels of the batch, per view; then the sum of both views. A view without valid pixel counts 0.

    Args:
        anchor_pointmaps, pointmaps (B, H, W, 3): predicted points of both frames in the anchor's camera, any scale.
        anchor_confidence, confidence (B, H, W): above 0.
        true_anchor_pointmaps, true_pointmaps (B, H, W, 3): true points in the anchor's camera, any scale.
        anchor_valid, valid (B, H, W): bool, where the truth is known.
        alpha: weight of -log confidence.
        valid_pixels (2,): divide by these numbers instead of by the valid pixels of (anchor, other) in this batch; for batches
            that are one of several parts, whose losses are averaged.
    """
    predicted, true = (anchor_pointmaps, pointmaps), (true_anchor_pointmaps, true_pointmaps)
    masks = (anchor_valid, valid)
    losses = pointmap_pixel_losses(predicted, (anchor_confidence, confidence), true, masks, alpha)
    counts = torch.stack([mask.sum() for mask in masks]) if valid_pixels is None else valid_pixels
    totals = torch.stack([loss.sum() for loss in losses]) / counts.clamp(min=1)
    return totals.sum()


def pointmap_pixel_losses(
    predicted: tuple[torch.Tensor, torch.Tensor],
    confidences: tuple[torch.Tensor, torch.Tensor],
    true: tuple[torch.Tensor, torch.Tensor],
    valid: tuple[torch.Tensor, torch.Tensor],
    alpha: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The unreduced loss behind `pointmap_loss`: confidence * distance - alpha * log confidence, 0 where not valid.

    Args:
        predicted, true: points of (anchor, other), (B, H, W, 3) each.
        confidences, valid: of (anchor, other), (B, H, W) each.
        alpha: weight of -log confidence.

    Returns:
        losses of (anchor, other), (B, H, W) each.

    Raises:
        ValueError: where shapes do not fit or a mask is not bool.
    """
    for points, confidence, truth, mask in zip(predicted, confidences, true, valid, strict=True):
        if points.ndim != 4 or points.shape[-1] != 3 or truth.shape != points.shape:
            raise ValueError(f"points must be (B, H, W, 3), got {tuple(points.shape)} predicted and {tuple(truth.shape)} true")
        if confidence.shape != points.shape[:3] or mask.shape != points.shape[:3] or mask.dtype != torch.bool:
            raise ValueError(
                f"confidence and a bool mask must be {tuple(points.shape[:3])}, got {tuple(confidence.shape)} and "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
    # unknown points may hold anything, also NaN: replaced before, not after, so that no NaN reaches a gradient
    points_of_views = _unit_scale(
        [torch.where(mask[..., None], view, 0.0) for view, mask in zip(predicted, valid, strict=True)], valid
    )
    truth_of_views = _unit_scale([torch.where(mask[..., None], view, 0.0) for view, mask in zip(true, valid, strict=True)], valid)
    losses = []
    for points, confidence, truth, mask in zip(points_of_views, confidences, truth_of_views, valid, strict=True):
        confidence = torch.where(mask, confidence, 1.0)
        loss = (points - truth).norm(dim=-1) * confidence - alpha * confidence.log()  # (B, H, W)
        losses.append(torch.where(mask, loss, 0.0))
    return losses[0], losses[1]


def _unit_scale(views: list[torch.Tensor], valid: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Both views over the mean distance of their valid points (zero elsewhere) to the origin, per sample."""
    distance = torch.stack([points.norm(dim=-1).sum(dim=(1, 2)) for points in views]).sum(0)  # (B,)
    count = torch.stack([mask.sum(dim=(1, 2)) for mask in valid]).sum(0)  # (B,)
    scale = (distance / count.clamp(min=1)).clamp(min=1e-8)[:, None, None, None]
    return [points / scale for points in views]


def _schedule(scheduler: Any) -> dict[str, torch.Tensor]:
    """Tables over all steps, in float64: at the first steps 1 - alphas_cumprod in float32 has three digits left. On the CPU: mps
    has no float64.
    """
    betas = scheduler.betas.to(device="cpu", dtype=torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0)
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
    posterior_variance[0] = posterior_variance[1]  # zero at step 0, where its logarithm has no use
    return {
        "signal": alphas_cumprod.sqrt(),
        "sigma": (1 - alphas_cumprod).sqrt(),
        "clean_weight": betas * previous.sqrt() / (1 - alphas_cumprod),
        "noisy_weight": (1 - previous) * (1 - betas).sqrt() / (1 - alphas_cumprod),
        "posterior_log_variance": posterior_variance.log(),
        "log_beta": betas.log(),
        "recip_signal": alphas_cumprod.rsqrt(),
        "sigma_over_signal": (1 / alphas_cumprod - 1).sqrt(),
    }


def _predicted_clean(
    prediction: torch.Tensor, noisy: torch.Tensor, table: dict[str, torch.Tensor], prediction_type: str
) -> torch.Tensor:
    """Clean latents that a prediction of epsilon, v or the sample implies."""
    if prediction_type == "epsilon":
        return table["recip_signal"] * noisy - table["sigma_over_signal"] * prediction
    if prediction_type == "v_prediction":
        return table["signal"] * noisy - table["sigma"] * prediction
    if prediction_type == "sample":
        return prediction
    raise ValueError(f"the variational bound is defined for epsilon, v_prediction and sample, got {prediction_type!r}")


def _binned_log_likelihood(values: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log-probability of the bin around each value under a Gaussian; the outermost bins are open."""
    precision = (-log_std).exp()
    below_top = _normal_cdf((values - mean + _HALF_BIN) * precision)
    below_bottom = _normal_cdf((values - mean - _HALF_BIN) * precision)
    probability = torch.where(values < -0.999, below_top, torch.where(values > 0.999, 1 - below_bottom, below_top - below_bottom))
    return probability.clamp(min=1e-12).log()


def _normal_cdf(values: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of the normal distribution that improved DDPM's loss is defined with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


def _per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, ...), ready to multiply `like`, in its dtype (masks stay bool)."""
    values = values if values.dtype == torch.bool else values.to(like.dtype)
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
