"""Train a 3D head on a frozen generator of diffusers, such as Wan, on rooms drawn in code; the result is a pipeline folder.

python examples/with_weights/train_generator_head.py Wan-AI/Wan2.1-T2V-1.3B-Diffusers --out wan_with_head --device cuda
"""

import argparse
from pathlib import Path

import torch

from jog3r.data.procedural import procedural_clip
from jog3r.geometry.pointmaps import pointmaps_in_first_camera
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.losses import pointmap_loss


def main() -> None:
    """Read features behind one block at a low noise, predict pointmaps, compare; the generator never changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or hub repository of Wan, CogVideoX or LTX-Video")
    parser.add_argument("--out", required=True, help="folder to write, new")
    parser.add_argument("--layer", type=int, default=None, help="block to read, counted from 1 (default: the middle one)")
    parser.add_argument("--width", type=int, default=768, help="of the head's decoders, a multiple of 64 (default 768)")
    parser.add_argument("--frames", type=int, default=17, help="frames of a clip (default 17)")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default 256)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of one clip each (default 2000)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    options = parser.parse_args()
    if Path(options.out).exists():
        parser.error(f"{options.out} exists already; name a new folder")

    pipe = load_pipeline(options.model).to(options.device)
    sizes = dict(hidden_dim=options.width, num_attention_heads=options.width // 64, noise_range=(0.0, 0.2))
    pipe.pointmap_head = pipe.new_head(options.layer and [options.layer], **sizes).to(options.device)
    with torch.no_grad():  # the caption under which videos are read: encoded once
        call = pipe.caption_of_videos()
    optimizer = torch.optim.AdamW(pipe.pointmap_head.parameters(), lr=1e-4)
    for step in range(options.steps):
        clip = procedural_clip(step, "train", options.frames, options.size, options.size)
        with torch.no_grad():
            latents = pipe.encode_video(pipe.prepare_video(clip.frames))
            noise = 0.2 * float(torch.rand(())) * pipe.scheduler.config.num_train_timesteps
            taps = pipe.extract_features(latents, noise, given=call)
        maps = pipe.pointmap_head([tap.float() for tap in taps], options.size, options.size).to_tuple()
        arrays = [torch.from_numpy(value)[None].to(options.device) for value in (clip.depth, clip.intrinsics, clip.poses)]
        points, valid = pointmaps_in_first_camera(*(array.float() for array in arrays))[0], torch.from_numpy(clip.valid)
        truth = [points[:1].expand_as(points[1:]), points[1:]]
        masks = [mask.to(options.device) for mask in (valid[:1].expand_as(valid[1:]), valid[1:])]
        loss = pointmap_loss(*(value[0] for value in maps[:4]), *truth, *masks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pipe.pointmap_head.register_to_config(trained=True)
    pipe.save_pretrained(options.out)
    print(f"{options.out}: a head trained for {options.steps} steps, loss of the last clip {loss.item():.3f}")


if __name__ == "__main__":
    main()
