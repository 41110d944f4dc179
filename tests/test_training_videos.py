"""Training straight from posed videos: which clip stands where, its caption, what is refused, real clips of two data sets."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from seven_scenes import as_transforms
from test_prepare_sources import save_depth_anything
from tiny_components import tiny_pipeline, tiny_vae
from training_cases import run_here, settings

from jog3r import Dust3rBaseline, Dust3rPipeline
from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.data.source import ProceduralSource
from jog3r.pipelines.latents import encode_frames
from jog3r.training.clips.video_stream import VideoStream
from jog3r.training.preparation.caption_embeddings import embed_captions
from jog3r.training.preparation.depth_masks import ModelledDepth
from jog3r.training.run.step_log import read_steps


class Uneven(ProceduralSource):
    """Six videos: one has no caption, one is too short, one turns out damaged and one without depth."""

    def captions(self, index: int) -> tuple[str, str]:
        if index == 1:
            raise ValueError("no caption")
        return super().captions(index)

    def expected_frames(self, index: int) -> int:
        return 3 if index == 2 else self.num_frames

    def load(self, index: int) -> Clip:
        if index == 4:
            raise ValueError("cut off")
        clip = procedural_clip(index, "train", self.num_frames, 16, 16)
        if index == 5:
            clip.valid[:] = False
        return clip


def _stream(source: ProceduralSource, **options: object) -> VideoStream:
    return VideoStream(source, 4, 100, 1, **options)


def test_a_position_is_the_clip_that_its_name_says_with_the_caption_of_its_direction() -> None:
    pipe = tiny_pipeline(vae=tiny_vae())
    source = ProceduralSource("train", 0, 4, 9, 16, 16)
    stream = _stream(source, vae=pipe.vae)
    captions = embed_captions(pipe.tokenizer, pipe.text_encoder, stream.caption_texts(), 8, torch.device("cpu"))
    stream.keep_captions({caption.text: caption for caption in captions}, 8)
    directions = set()
    for position in range(6):
        name, frames = stream.sample_name(position).split()[:2]
        start, stride = (int(number) for number in frames.removesuffix("*4").replace("+", " ").split())
        backward = stream.sample_name(position).endswith("reversed")
        item, again = stream[position], _stream(source, vae=pipe.vae)[position]
        video = source.names.index(name)
        chosen = source.load(video).frames[start : start + 3 * stride + 1 : stride][:: -1 if backward else 1].copy()
        pixels = torch.from_numpy(chosen).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            torch.testing.assert_close(item["latents"], encode_frames(pipe.vae, pixels[None])[0])
        assert all(torch.equal(item[key], again[key]) for key in again)
        kept = captions[stream.caption_texts().index(source.captions(video)[int(backward)])]
        assert item["caption_ids"][: len(kept.ids)].tolist() == kept.ids.tolist()
        assert item["caption_embeds"].shape == (8, 16)
        assert torch.equal(item["poses"][0], torch.eye(4))
        directions.add(backward)
    assert directions == {True, False}
    assert Counter(stream.sample_name(position).split()[0] for position in range(8)) == dict.fromkeys(source.names, 2)


def test_videos_that_cannot_be_used_are_named(caplog: pytest.LogCaptureFixture) -> None:
    stream = _stream(Uneven("train", 0, 6, 9, 16, 16))
    stream.check_missing(0.4)
    assert "2 of 6 videos cannot be used, such as 'train/00000001': no caption; 'train/00000002': 3 frames" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 6 videos .*more than max_missing_share=0\.1"):
        stream.check_missing(0.1)
    found = {}
    for position in range(4):
        try:
            found[stream.sample_name(position).split()[0]] = stream[position]["frames"].shape
        except ValueError as error:
            found[stream.sample_name(position).split()[0]] = str(error)
    assert found["train/00000000"] == (4, 3, 16, 16)
    assert found["train/00000004"] == "video 'train/00000004': cut off (`jog3r prepare` skips such videos)"
    assert "'train/00000005': has no depth, from which the 3D head learns" in found["train/00000005"]
    with pytest.raises(ValueError, match="there is nothing to train on: 1 of 1 videos"):
        _stream(Uneven("train", 1, 1, 3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "procedural"}, "scenes drawn as it goes are data=procedural"),
        ({"frames": "x", "cameras": "y"}, "source=realestate10k has no depth.*set reconstruction_batch=0"),
        ({"source": "posed", "frames": "x", "cameras": "y"}, "cameras=y means nothing to source=posed"),
        ({"source": "posed", "frames": "x", "dataset": "y"}, "data=stream and dataset belong together"),
        ({"source": "posed", "frames": "x", "max_depth": 9.0}, "are for a depth model: name one with the option depth"),
        ({"source": "posed", "frames": "x", "depth": "m", "max_depth": 0.0}, "max_depth must be positive, got 0"),
        ({"source": "posed", "frames": "x", "depth": "m", "reconstruction_batch": 0}, "nothing learns from depth here"),
        ({"data": "procedural", "depth": "m"}, "depth=m means nothing to data=procedural; it is for videos"),
        ({"data": "procedural", "frames": "x"}, "frames=x means nothing to data=procedural; it is for videos"),
        ({"data": "cache", "cache_dir": "c", "model": "dust3r"}, "data=procedural or videos, got 2 and cache"),
    ],
)
def test_what_means_nothing_to_videos_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**{"data": "videos", **changes})


def test_a_models_depth_takes_the_place_of_the_sources(tmp_path: Path) -> None:
    class Sfm(ProceduralSource):
        def load(self, index: int) -> Clip:
            clip = super().load(index)
            clip.poses[:, :3, 3] /= 3  # another unit than that of the depth
            clip.valid[:] = False
            return clip

    truth = ProceduralSource("train", 0, 1, 4, 32, 48).load(0)
    right = ModelledDepth(lambda frames: torch.from_numpy(truth.depth), 1000.0, True)
    item = _stream(Sfm("train", 0, 1, 4, 32, 48), depth_model=right, reverse_probability=0.0)[0]
    torch.testing.assert_close(item["depth"], torch.from_numpy(truth.depth))
    assert item["valid"].float().mean() > 0.9
    torch.testing.assert_close(item["poses"], torch.from_numpy(truth.poses), atol=0.05, rtol=0)
    far = _stream(Sfm("train", 0, 1, 4, 32, 48), depth_model=ModelledDepth(right.model, 0.01, True))
    with pytest.raises(ValueError, match="the depth model gives no depth above 0 and at most max_depth=0.01"):
        far[0]


def test_real_clips_with_a_depth_model_train_both_halves(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("re10k")
    save_depth_anything(tmp_path / "depth", "metric")
    (tmp_path / "list.txt").write_text("0bf152ef84195293\n")
    options = {"source": "realestate10k", "cameras": str(folder / "pose_files"), "frames": str(folder / "videos")}
    options |= {"captions": str(folder / "captions.json"), "split": str(tmp_path / "list.txt"), "frame_step": 4}
    size = {"num_frames": 3, "height": 32, "width": 32, "generation_batch": 1, "reconstruction_batch": 1}
    run = run_here(
        tmp_path, data="videos", depth=str(tmp_path / "depth"), align_scale=False, **options, **size, num_steps=2,
        checkpoint_every=2,
    )  # fmt: skip
    steps = read_steps(run / "steps.jsonl")
    assert len(steps) == 2 and all(np.isfinite(step["losses"]["reconstruction"]) for step in steps)
    assert str(tmp_path) not in (run / "pipeline" / "README.md").read_text()


def test_real_clips_without_depth_train_the_generator(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("re10k")
    (tmp_path / "list.txt").write_text("0bf152ef84195293\n0c11dbe781b1c11c\n")
    options = {"source": "realestate10k", "cameras": str(folder / "pose_files"), "frames": str(folder / "videos")}
    options |= {"captions": str(folder / "captions.json"), "split": str(tmp_path / "list.txt"), "frame_step": 4}
    size = {"num_frames": 3, "height": 32, "width": 32, "generation_batch": 1, "reconstruction_batch": 0}
    run = run_here(tmp_path, data="videos", **options, **size, num_steps=20, checkpoint_every=10, learning_rate=2e-3)
    steps = read_steps(run / "steps.jsonl")
    assert len(steps) == 20
    named = {name.split(" ")[0] for step in steps for name in step["samples"]}
    assert named == {"0bf152ef84195293", "0c11dbe781b1c11c"}


@pytest.mark.parametrize("model", ["jog3r", "dust3r"])
def test_real_clips_with_depth_train_both_models(tmp_path: Path, shared_data: Callable[[str], Path], model: str) -> None:
    for scene in sorted(shared_data("sevenscenes_redkitchen").glob("clip_*"))[:2]:
        as_transforms(scene, tmp_path / "posed" / scene.name)
    pipeline = None
    if model == "dust3r":
        torch.manual_seed(0)
        pipeline = Dust3rPipeline(Dust3rBaseline(16, 1, 2, decoder_width=16, decoder_num_layers=1, decoder_num_attention_heads=2))
    options = {"source": "posed", "frames": str(tmp_path / "posed"), "default_caption": "a kitchen", "model": model}
    size = {"num_frames": 3, "height": 32, "width": 32, "generation_batch": int(model == "jog3r"), "reconstruction_batch": 1}
    run = run_here(tmp_path, pipeline, data="videos", **options, **size, num_steps=20, learning_rate=2e-3)
    losses = [step["losses"]["reconstruction"] for step in read_steps(run / "steps.jsonl")]
    assert len(losses) == 20 and np.mean(losses[-5:]) < np.mean(losses[:5])
