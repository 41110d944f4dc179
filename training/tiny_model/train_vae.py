"""Train the small image VAE of the tiny model on procedural scenes, alone in one process.

    python training/tiny_model/train_vae.py --config training/recipes/tiny_vae.yaml

The result is a diffusers `AutoencoderKL` folder whose config carries the per-channel mean and spread of its latents.
"""

import dataclasses
import logging
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from jog3r.data.files import replace_folder
from jog3r.data.option_checks import check_least
from jog3r.data.procedural import procedural_clip
from jog3r.training.config import load_config, one_line_errors
from jog3r.training.saving import save_without_paths
from jog3r.training.tiny_model.stages import KeptLoop, minimise, stage_folder

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class VaeConfig:
    """Options of the VAE training."""

    output_dir: str
    size: int = 64  # pixels, height and width
    channels: tuple[int, ...] = (24, 48, 96)  # halves the size between two entries
    latent_channels: int = 4
    num_scenes: int = 4000
    frames_per_scene: int = 4
    num_steps: int = 3000
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    kl_weight: float = 1e-5
    edge_weight: float = 0.5  # weight of the difference of image gradients, which keeps edges sharp
    num_validation: int = 256  # scenes that the result is measured on
    checkpoint_every: int = 100  # steps
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        counts = ("num_scenes", "frames_per_scene", "num_steps", "batch_size", "num_validation")
        check_least(self, {1: (*counts, "checkpoint_every", "num_threads")})
        if self.size % 2 ** (len(self.channels) - 1):
            raise ValueError(f"size={self.size} is not divisible by the VAE's factor {2 ** (len(self.channels) - 1)}")


def build_vae(config: VaeConfig) -> AutoencoderKL:
    """A small `AutoencoderKL` without attention."""
    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=config.size,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def render_frames(config: VaeConfig) -> torch.Tensor:
    """Views of many training scenes -> (num_scenes * frames_per_scene, 3, H, W) uint8."""
    frames = np.concatenate(
        [
            procedural_clip(index, "train", config.frames_per_scene, config.size, config.size).frames
            for index in tqdm(range(config.num_scenes), desc="render", unit="scene")
        ]
    )
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor, edge_weight: float) -> torch.Tensor:
    """L1 + L2 + the L1 of horizontal and vertical differences, a scalar; images (B, 3, H, W) in -1..1."""
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + edge_weight * edges


def train(config: VaeConfig, vae: AutoencoderKL, frames: torch.Tensor, folder: Path) -> None:
    """Run the loop, which keeps its state in `folder`; the weights are changed in place."""
    vae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    generator = torch.Generator().manual_seed(config.seed)

    def rate_of_step(step: int) -> float:  # linear warm-up, then half a cosine down to 1 %
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
        return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress)))

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, str]]:
        chosen = torch.randint(len(frames), (config.batch_size,), generator=generator)
        images = frames[chosen].float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        if step % 2:
            images = images.flip(-1)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        loss = reconstruction_loss(decoded, images, config.edge_weight) + config.kl_weight * posterior.kl().mean()
        with torch.no_grad():
            psnr = -10 * torch.log10((decoded.clamp(-1, 1) - images).square().mean() / 4)
        return loss, {"psnr": f"{psnr.item():.1f}dB"}

    kept = KeptLoop(folder, dataclasses.asdict(config), {"vae": vae}, generator, config.checkpoint_every)
    minimise(loss_of_step, optimizer, rate_of_step, config.num_steps, "vae", kept)


@torch.no_grad()
def measure(vae: AutoencoderKL, config: VaeConfig, frames: torch.Tensor) -> float:
    """Store the latents' statistics in the config, return the mean PSNR in dB on `num_validation` scenes."""
    vae.eval()
    latents = torch.cat([vae.encode(batch.float() / 127.5 - 1).latent_dist.mode() for batch in frames[:2048].split(64)])
    vae.register_to_config(latents_mean=latents.mean(dim=(0, 2, 3)).tolist(), latents_std=latents.std(dim=(0, 2, 3)).tolist())
    psnr = []
    for index in range(config.num_validation):
        image = torch.from_numpy(procedural_clip(index, "validation", 2, config.size, config.size).frames[:1])
        image = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(image).latent_dist.mode()).sample.clamp(-1, 1)
        psnr.append(-10 * torch.log10((decoded - image).square().mean() / 4).item())
    return float(np.mean(psnr))


def main(arguments: list[str]) -> None:
    """Train and save."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        config = load_config(VaeConfig, arguments)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.num_threads)
        start = time.monotonic()
        with stage_folder(config.output_dir) as folder:
            vae, frames = build_vae(config), render_frames(config)
            train(config, vae, frames, folder)
            psnr = measure(vae, config, frames)
            replace_folder(config.output_dir, partial(save_without_paths, vae.to(memory_format=torch.contiguous_format)))
        minutes, count = (time.monotonic() - start) / 60, config.num_validation
        logger.info("PSNR %.2f dB on %d validation frames, %.1f minutes, saved to %s", psnr, count, minutes, config.output_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
