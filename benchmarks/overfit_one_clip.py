"""Does the whole step learn? The tiny model is trained on one clip until it knows it, then asked for the clip's cameras.

OMP_NUM_THREADS=1 python benchmarks/overfit_one_clip.py [--steps 1500] [--model FOLDER]

Wanted: both losses near zero (that of reconstruction falls below it, as confidence grows), and cameras found by "v2c" within
0.5 deg of rotation and 2 deg of translation direction, means over the frames behind the first.
"""

import argparse

import torch

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.evaluation.camera_metrics import pose_errors
from jog3r.training.build import build_model, select_trainable
from jog3r.training.clip_stream import ProceduralStream
from jog3r.training.config import TrainConfig
from jog3r.training.joint_model import JointModel
from jog3r.training.optimization import build_optimizers, learning_rate_factor
from jog3r.training.step_batches import draw_step_noise


def overfit(pipeline: Jog3rPipeline, config: TrainConfig, clip: int) -> None:
    """Train on clip number `clip` alone, in both halves of every step."""
    joint = build_model(pipeline, config)
    if not isinstance(joint, JointModel):
        raise TypeError(f"only a video generator can be overfitted here, got {type(joint).__name__}")
    trained = select_trainable(joint, config)
    optimizers = build_optimizers(trained, config)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: learning_rate_factor(step, config)) for one in optimizers]
    length = pipeline.transformer.config.max_caption_length
    size = (config.num_frames, config.height, config.width)
    clips = config.generation_batch + config.reconstruction_batch
    stream = ProceduralStream(pipeline.vae, pipeline.tokenizer, length, size, clip, 1, seed=config.seed)
    item = stream[0]
    batch = {name: torch.stack([value] * clips) for name, value in item.items()}
    steps = pipeline.scheduler.config.num_train_timesteps
    joint.train()
    for step in range(config.num_steps):
        losses = joint(batch, draw_step_noise(config, step, list(range(clips)), batch["latents"], length, steps), config)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_([value for _, value in trained], config.max_grad_norm)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step == 0:
            shown = ", ".join(f"{name} {value.item():.4f}" for name, value in losses.items())
            print(f"step {step + 1}: {shown}", flush=True)
    joint.eval()


def main() -> None:
    """Overfit, then compare the cameras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=tiny_checkpoint())
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--clip", type=int, default=0, help="number of the procedural clip")
    options = parser.parse_args()
    config = TrainConfig(
        init_from=str(options.model),
        output_dir="",
        num_frames=8,
        generation_batch=2,
        reconstruction_batch=2,
        pairs_per_clip=7,
        caption_dropout=0.0,
        confidence_alpha=0.05,
        optimizer="muon",
        learning_rate=1e-3,
        matrix_learning_rate=5e-3,
        warmup_steps=20,
        decay_fraction=0.5,
        num_steps=options.steps,
    )
    torch.manual_seed(0)
    pipeline = Jog3rPipeline.from_pretrained(options.model)
    overfit(pipeline, config, options.clip)
    stream = ProceduralStream(None, None, 1, (config.num_frames, config.height, config.width), options.clip, 1, seed=config.seed)
    item = stream[0]  # the clip as it was trained on, flipped or not
    frames = (item["frames"].permute(0, 2, 3, 1) + 1) / 2
    found = pipeline(video=frames, generator=torch.Generator().manual_seed(0))
    errors = pose_errors(found.poses[0].numpy(), item["poses"].numpy(), relative="first")
    print(f"rotation {errors.rotation_deg.mean():.2f} deg, translation direction {errors.translation_deg.mean():.2f} deg")


if __name__ == "__main__":
    main()
