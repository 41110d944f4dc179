"""Do a generator of diffusers' classes and the head learn together? Small random ones are trained on one clip of 17 frames alone.

    OMP_NUM_THREADS=1 python benchmarks/overfit_generator.py [--generator wan|cogvideox] [--steps N] [--clip 2]

Transformer (4 blocks, width 96) and head learn jointly, by the losses, draws and optimizer of `train_joint.py`: L_gen as the
family was trained (flow matching with a shift of 3 for Wan, v-prediction for CogVideoX), L_rec on features that `FeatureTap`
reads behind block 2 at a noise of 0 to 20 %, with the blocks behind it left out. The VAE has random weights and is frozen.
Printed are both losses at the start and at the end under noise that training has not seen, and the errors of the cameras that
`pipe(video=...)` finds, means over the 16 frames behind the first. Wanted: both losses fall, rotation within 1 deg, direction
of the translation within 5 deg. Exit code 1 if not.
"""

import argparse
import dataclasses
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
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.training.build import select_trainable
from jog3r.training.clips.step_batches import draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.generators.build import prepare_generator
from jog3r.training.generators.inputs import describe_inputs
from jog3r.training.generators.model import GeneratorModel
from jog3r.training.optimization import build_optimizers, learning_rate_factor

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
    """One clip as training reads it, once for each half: latents of zero mean and unit spread, a caption, depth, cameras."""

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
            latents = pipe.encode_video(video)  # (1, C, f, h, w)
        self.texts = {"prompt_embeds": torch.randn(1, 8, TEXT)}
        item = {name: torch.from_numpy(getattr(clip, name))[None] for name in ("depth", "valid", "intrinsics", "poses")}
        item |= {"latents": latents, "caption_embeds": self.texts["prompt_embeds"], "caption_mask": torch.ones(1, 8)}
        self.batch = {name: value.expand(2, *value.shape[1:]) for name, value in item.items()}  # one for each half


class Training:
    """The training's own losses on one clip, under draws that are a function of the step.

    Args:
        pipe: what is trained; its head gets the range of noise that it reads at.
        clip: to train on.
        config: of the run.
    """

    def __init__(self, pipe: Any, clip: Clip, config: TrainConfig):
        prepare_generator(pipe, config)
        self.joint, self.batch = GeneratorModel(pipe, clip.texts), clip.batch
        self.times = describe_inputs(pipe, config).times
        self.config, self.trained = config, select_trainable(self.joint, config)

    def losses(self, step: int, config: TrainConfig) -> dict[str, torch.Tensor]:
        """L_gen at a random time step, and L_rec at a low one from a pass that stops behind the tap."""
        draws = draw_step_noise(config, step, [0, 1], self.batch["latents"], 8, self.times)
        return self.joint(self.batch, draws, config)

    @torch.no_grad()
    def mean_losses(self, count: int = 32) -> list[float]:
        """Of `count` draws that training has not seen."""
        unseen = dataclasses.replace(self.config, seed=self.config.seed + 1)
        values = torch.tensor([[value.item() for value in self.losses(step, unseen).values()] for step in range(count)])
        return values.mean(0).tolist()

    def run(self) -> None:
        """All steps, with the training's own optimizer, warm-up and decay."""
        [optimizer] = build_optimizers(self.trained, self.config)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, self.config))
        for step in range(self.config.num_steps):
            torch.stack(list(self.losses(step, self.config).values())).sum().backward()
            torch.nn.utils.clip_grad_norm_([parameter for _, parameter in self.trained], self.config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def options_of(name: str, num_steps: int) -> TrainConfig:
    """Transformer and head, one clip a half, all pairs, noise of 0 to 20 % for the head."""
    return TrainConfig(
        init_from="", output_dir="", model=name, num_frames=FRAMES, height=SIZE, width=SIZE, generation_batch=1,
        reconstruction_batch=1, pairs_per_clip=FRAMES - 1, caption_dropout=0.0, max_reconstruction_timestep=200,
        timestep_sampling="uniform" if name == "wan" else None, learning_rate=2e-3, warmup_steps=20, decay_fraction=0.7,
        num_steps=num_steps,
    )  # fmt: skip


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
    training = Training(pipe, clip, options_of(options.generator, num_steps))
    before, start = training.mean_losses(), time.perf_counter()
    training.run()
    seconds, after = time.perf_counter() - start, training.mean_losses()
    found = pipe(video=clip.frames, generator=torch.Generator().manual_seed(1), **clip.texts)
    errors = pose_errors(found.poses[0].double().numpy(), clip.poses)
    rotation, translation = (float(errors[name].mean()) for name in ("rotation_deg", "translation_deg"))
    print(f"{options.generator}, clip {options.clip}, {num_steps} steps in {seconds:.0f} s")
    print(f"L_gen {before[0]:.3f} -> {after[0]:.3f}, L_rec {before[1]:.3f} -> {after[1]:.3f}")
    print(f"cameras of {FRAMES} frames: rotation {rotation:.2f} deg, direction of the translation {translation:.2f} deg")
    return int(not (after[0] < before[0] and after[1] < before[1] and rotation < 1 and translation < 5))


if __name__ == "__main__":
    sys.exit(main())
