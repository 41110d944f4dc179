"""Do a generator of diffusers' classes and the head learn together? Small random ones are trained on one clip of 17 frames alone.

    OMP_NUM_THREADS=1 python benchmarks/overfit_generator.py [--generator wan|cogvideox] [--steps N] [--clip 2]

Transformer (4 blocks, width 96) and head learn jointly, as in the paper: L_gen as the family was trained (flow matching with a
shift of 3 for Wan, v-prediction for CogVideoX), L_rec on features that `FeatureTap` reads behind block 2 at a noise of 0 to 20 %,
with the blocks behind it left out. The VAE has random weights and is frozen. Printed are both losses at the start and at the end
under noise that training has not seen, and the errors of the cameras that `pipe(video=...)` finds, means over the 16 frames
behind the first. Wanted: both losses fall, rotation within 1 deg, direction of the translation within 5 deg. Exit code 1 if not.
"""

import argparse
import sys
import time
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
)

from jog3r import Jog3rCogVideoXPipeline, Jog3rWanPipeline
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation.camera_metrics import pose_errors
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.models import FeatureTap
from jog3r.pipelines.reconstruction import is_flow_matching, noise_latents
from jog3r.training.losses import generation_target, pointmap_loss

FRAMES, SIZE, TEXT, TAP, SHIFT = 17, 64, 32, 2, 3.0
STEPS = {"wan": 800, "cogvideox": 1200}


def new_generator(name: str) -> Any:
    """A small random pipeline without text encoder; captions are given as embeddings."""
    torch.manual_seed(0)
    nothing: dict[str, Any] = {"tokenizer": None, "text_encoder": None}
    if name == "wan":
        transformer = WanTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=24,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT,
            ffn_dim=384,
            num_layers=4,
        )
        vae = AutoencoderKLWan(
            base_dim=16, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
        pipe: Any = Jog3rWanPipeline(
            **nothing, transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        )
    else:
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=3, attention_head_dim=32, text_embed_dim=TEXT, num_layers=4, sample_width=SIZE // 8,
            sample_height=SIZE // 8, sample_frames=FRAMES, max_text_seq_length=8, use_rotary_positional_embeddings=True,
        )  # fmt: skip
        vae = AutoencoderKLCogVideoX(block_out_channels=(16, 32, 32, 32), layers_per_block=1, norm_num_groups=8)
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing="trailing"
        )
        pipe = Jog3rCogVideoXPipeline(**nothing, transformer=transformer, vae=vae, scheduler=scheduler)
    pipe.vae.requires_grad_(False).eval()
    pipe.pointmap_head = pipe.new_head([TAP], hidden_dim=128, num_layers=2, num_attention_heads=4)
    return pipe


class Clip:
    """One clip as both losses want it: latents of zero mean and unit spread, its caption's embedding, its true points."""

    def __init__(self, pipe: Any, number: int):
        clip = procedural_clip(number, "train", FRAMES, SIZE, SIZE)
        self.frames, self.poses = clip.frames, clip.poses
        video = pipe.prepare_video(clip.frames)
        with torch.no_grad():
            raw = pipe.vae.encode(video.transpose(1, 2) * 2 - 1).latent_dist.mode()
            mean, std = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
            if isinstance(pipe, Jog3rWanPipeline):
                pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
            else:  # this family has one factor
                pipe.vae.register_to_config(scaling_factor=float(1 / raw.std()))
            self.latents = pipe.encode_video(video)  # (1, C, f, h, w)
        self.texts = {"prompt_embeds": torch.randn(1, 8, TEXT)}
        depth, intrinsics, poses = (torch.from_numpy(value)[None].float() for value in (clip.depth, clip.intrinsics, clip.poses))
        self.points = pointmaps_in_first_camera(depth, intrinsics, poses)[0]  # (F, H, W, 3)
        self.valid = torch.from_numpy(clip.valid)


def losses(pipe: Any, clip: Clip, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """L_gen at a random time step, and L_rec at a low one from a pass that stops behind the tap."""
    steps = pipe.scheduler.config.num_train_timesteps
    noise = torch.randn(clip.latents.shape, generator=generator)
    share = torch.rand(1, generator=generator)
    flow = is_flow_matching(pipe.scheduler)
    t = steps * SHIFT * share / (1 + (SHIFT - 1) * share) if flow else (steps * share).long()
    noisy = noise_latents(pipe.scheduler, clip.latents, noise, t)
    sample = pipe.transformer(**pipe.transformer_inputs(noisy, t.float(), clip.texts), return_dict=False)[0]
    target = generation_target(clip.latents, noise, t.long(), pipe.scheduler)
    generation = (sample - (target if flow else target.transpose(1, 2))).square().mean()

    low = torch.rand(1, generator=generator) * 0.2 * steps
    noisy = noise_latents(pipe.scheduler, clip.latents, torch.randn(clip.latents.shape, generator=generator), low)
    with FeatureTap(pipe.transformer, [TAP], stop=True) as tap:
        pipe.transformer(**pipe.transformer_inputs(noisy, low, clip.texts), return_dict=False)
    maps = pipe.pointmap_head(tap.taps, SIZE, SIZE)
    predicted = [value.flatten(0, 1) for value in maps.to_tuple()[:4]]
    first = clip.points[:1].expand_as(clip.points[1:])
    valid = (clip.valid[:1].expand_as(clip.valid[1:]), clip.valid[1:])
    return generation, pointmap_loss(*predicted, first, clip.points[1:], *valid)


@torch.no_grad()
def mean_losses(pipe: Any, clip: Clip, count: int = 32) -> tuple[float, float]:
    """Of `count` draws that training has not seen."""
    generator = torch.Generator().manual_seed(10**6)
    values = torch.tensor([losses(pipe, clip, generator) for _ in range(count)])
    return float(values[:, 0].mean()), float(values[:, 1].mean())


def train(pipe: Any, clip: Clip, num_steps: int) -> None:
    """Adam on everything but the VAE, with a warm-up and a decay to zero."""
    trained = [*pipe.transformer.parameters(), *pipe.pointmap_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20, (num_steps - step) / (0.7 * num_steps))
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        sum(losses(pipe, clip, generator)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    pipe.pointmap_head.register_to_config(trained=True)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", choices=("wan", "cogvideox"), default="wan")
    parser.add_argument("--steps", type=int, default=None, help="default: 800 for wan, 1200 for cogvideox")
    parser.add_argument("--clip", type=int, default=2)
    options = parser.parse_args()
    num_steps = STEPS[options.generator] if options.steps is None else options.steps
    pipe = new_generator(options.generator)
    clip = Clip(pipe, options.clip)
    before, start = mean_losses(pipe, clip), time.perf_counter()
    train(pipe, clip, num_steps)
    seconds, after = time.perf_counter() - start, mean_losses(pipe, clip)
    found = pipe(video=clip.frames, generator=torch.Generator().manual_seed(1), **clip.texts)
    errors = pose_errors(found.poses[0].double().numpy(), clip.poses)
    rotation, translation = (float(errors[name].mean()) for name in ("rotation_deg", "translation_deg"))
    print(f"{options.generator}, clip {options.clip}, {num_steps} steps in {seconds:.0f} s")
    print(f"L_gen {before[0]:.3f} -> {after[0]:.3f}, L_rec {before[1]:.3f} -> {after[1]:.3f}")
    print(f"cameras of {FRAMES} frames: rotation {rotation:.2f} deg, direction of the translation {translation:.2f} deg")
    return int(not (after[0] < before[0] and after[1] < before[1] and rotation < 1 and translation < 5))


if __name__ == "__main__":
    sys.exit(main())
