"""What a preparation says and refuses before it computes, and what it says of depth and cameras afterwards."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_components import tiny_text_encoder, tiny_tokenizer, tiny_vae

from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.data.realestate10k import RealEstate10K
from jog3r.data.source import ProceduralSource
from jog3r.training import prepare as prepare_module
from jog3r.training.preparation import shards
from jog3r.training.preparation.depth_masks import is_constant, median_disagreement
from jog3r.training.preparation.plan import expectation
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.preparation.survey import Survey, cache_bytes, look_at_videos
from jog3r.training.prepare import Preparation


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen parts of a pipeline folder."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name, part in (("vae", tiny_vae()), ("text_encoder", tiny_text_encoder()), ("tokenizer", tiny_tokenizer())):
            part.save_pretrained(folder / name)
    return folder


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights can be read."""
    for name in ("load_vae", "load_text_models", "load_depth_model"):
        monkeypatch.setattr(prepare_module, name, None)


def _config(output: Path, model: Path, **options: object) -> PrepareConfig:
    values: dict = {
        "output_dir": str(output), "model": str(model), "source": "procedural", "num_clips": 6, "num_frames": 6, "height": 16,
        "width": 16, "min_frames": 4, "caption_length": 8, "clips_per_shard": 2, "captions_per_shard": 4,
    }  # fmt: skip
    return PrepareConfig(**{**values, **options})


class Gaps(ProceduralSource):
    """A source that lacks some videos, one of them a caption, and cannot tell how long another is."""

    def __init__(self, missing: tuple[int, ...] = (1, 4)):
        super().__init__("train", 0, 6, 6, 16, 16)
        self.lacking = missing

    def captions(self, index: int) -> tuple[str, str]:
        if index == self.lacking[0]:
            raise ValueError("no caption")
        return super().captions(index)

    def expected_frames(self, index: int) -> int | None:
        if index in self.lacking[1:]:
            raise ValueError("no such file")
        return None if index == 0 else 6

    def load(self, index: int) -> Clip:
        if index in self.lacking[1:]:
            raise ValueError("no such file")
        return super().load(index)


def test_missing_videos_are_counted_before_a_model_is_loaded(tmp_path: Path, model: Path, no_weights: None) -> None:
    with pytest.raises(ValueError, match="2 of 6 videos cannot be used, such as 'train/00000001': no caption; 'train/00000004'"):
        Preparation(_config(tmp_path / "cache", model, max_bad_share=0.3), Gaps())
    with pytest.raises(ValueError, match="such as 'train/00000000': 6 frames, fewer than min_frames=7.*more than max_bad_share"):
        Preparation(_config(tmp_path / "cache", model, min_frames=7))
    assert not (tmp_path / "cache").exists()


def test_what_needs_no_weights_is_refused_before_they_are_read(tmp_path: Path, model: Path, no_weights: None) -> None:
    (tmp_path / "depth").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "a.txt").write_text("https://a.video")
    cameras, unset = str(tmp_path / "cameras"), {"num_clips": PrepareConfig.num_clips, "num_frames": PrepareConfig.num_frames}
    for options, message in (
        ({"height": 18}, "height and width must be multiples of 4"),
        ({"source": "realestate10k", "cameras": cameras, "frames": cameras, **unset}, "has no depth: name a depth model"),
        ({"depth": str(tmp_path / "depth")}, "holds no model of transformers"),
        ({"output_dir": str(tmp_path / "other")}, "holds other files"),
        ({"model": str(tmp_path / "other")}, "has no vae and no tokenizer and no text_encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            Preparation(_config(**{"output": tmp_path / "cache", "model": model, **_renamed(options)}))


def _renamed(options: dict[str, str]) -> dict[str, str]:
    return {"output" if name == "output_dir" else name: value for name, value in options.items()}


def test_another_plan_is_refused_before_weights_are_read(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Preparation(_config(tmp_path / "cache", model)).run()
    for name in ("load_vae", "load_text_models"):
        monkeypatch.setattr(prepare_module, name, None)
    with pytest.raises(ValueError, match="was begun with another min_frames: 4, now 5"):
        Preparation(_config(tmp_path / "cache", model, min_frames=5))


def test_frames_bytes_and_hours_are_told_first(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Gaps()
    preparation = Preparation(_config(tmp_path / "cache", model, max_bad_share=0.5), source)
    assert preparation.survey == Survey(6, {"train/00000001": "no caption", "train/00000004": "no such file"}, 18, 1)
    with caplog.at_level(logging.INFO):
        preparation.run()
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("to do")]
    assert "to do: 4 videos, 18 frames, beside those of 1 videos of which only reading tells; at most 0.00 GB" in line
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Preparation(_config(tmp_path / "cache", model, max_bad_share=0.5), source).run()
    assert not [record for record in caplog.records if record.getMessage().startswith("to do")]  # nothing is
    text = expectation(
        Survey(1000, {}, 100_000, 0), {"latent_shape": [4, 32, 32], "height": 256, "width": 256}, 0.09, 2, tmp_path
    )
    assert "1000 videos, 100000 frames; at most 14.75 GB" in text
    assert "about 1.25 hours at 0.090 s a frame" in text


def test_a_cache_is_no_larger_than_told(tmp_path: Path, model: Path) -> None:
    Preparation(_config(tmp_path / "cache", model, height=64, width=64)).run()
    files = list((tmp_path / "cache").glob("clips-*.parquet"))
    latents_and_depth = cache_bytes(36, (4, 16, 16), (64, 64))
    footers = 4096 * 36  # of Parquet, with poses and names
    assert 0.3 * latents_and_depth < sum(path.stat().st_size for path in files) < latents_and_depth + footers


def test_files_are_looked_at_without_decoding_them(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 5), ("c", 4)):
        lines = [f"{number} 0.5 0.9 0.5 0.5 0 0 1 0 0 {-0.1 * number} 0 1 0 0 0 0 1 0" for number in range(count)]
        (tmp_path / f"{name}.txt").write_text("\n".join(["https://a.video", *lines]))
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    source = RealEstate10K(tmp_path, tmp_path, (16, 16), default_caption="a room")
    survey = look_at_videos(source, range(3), 4, 2)
    assert (survey.num_frames, survey.num_untold) == (5, 0)
    assert survey.missing["a"] == "3 frames, fewer than min_frames=4"
    assert "the frames of clip 'c' are missing" in survey.missing["c"]


def test_the_report_says_how_well_depth_and_cameras_agree(tmp_path: Path, model: Path) -> None:
    class Wrong(ProceduralSource):
        """The second video's cameras are those of another scene."""

        def load(self, index: int) -> Clip:
            clip = super().load(index)
            if index == 1:
                clip.poses[:, :3, 3] *= -1
            return clip

    Preparation(_config(tmp_path / "cache", model, height=48, width=48), Wrong("train", 0, 3, 6, 48, 48)).run()
    report = json.loads((tmp_path / "cache" / "report.json").read_text())["depth_and_cameras"]
    assert [entry["name"] for entry in report] == [f"train/0000000{number}" for number in range(3)]
    right, wrong, also_right = (entry["disagreement"] for entry in report)
    assert max(right, also_right) < 0.002 < 0.01 < wrong
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["clips"]["clips-00000"][0].keys() == {"name", "num_frames", "caption_ids"}


def test_disagreement_of_known_depth() -> None:
    clip = procedural_clip(2, "train", num_frames=6, height=48, width=48)
    depth, valid, intrinsics, poses = (
        torch.from_numpy(getattr(clip, name)) for name in ("depth", "valid", "intrinsics", "poses")
    )
    assert median_disagreement(depth, valid, intrinsics, poses) < 1e-3
    scaled = poses.clone()
    scaled[:, :3, 3] = 0  # a camera that does not move: each frame's own depth, and another's
    assert median_disagreement(depth, valid, intrinsics, scaled) > 0.005
    assert median_disagreement(depth, torch.zeros_like(valid), intrinsics, poses) is None
    assert median_disagreement(depth[:1], valid[:1], intrinsics[:1], poses[:1]) is None
    assert is_constant(torch.full_like(depth, 3.0), valid) and not is_constant(depth, valid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align_scale": False}, "are for a depth model"),
        ({"assume_metric": True, "depth": "none"}, "are for a depth model"),
        ({"max_depth": 5.0, "depth": "none"}, "max_depth=5 means nothing to depth=none"),
        ({"hub_private": False}, "hub_private=false is for push_to_hub"),
    ],
)
def test_options_without_effect_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(tmp_path, tmp_path, **options)


def test_a_caption_that_came_too_late_is_none(tmp_path: Path, model: Path) -> None:
    """Its number is not in the plan: the video is skipped, and not stored with a number that no caption has."""
    preparation = Preparation(_config(tmp_path / "cache", model))
    preparation.caption_ids[2] = (-1, -1)
    assert preparation._load_one(2) == "it had no caption when this run began: start it in a new output_dir"
    assert preparation._load_one(1).num_frames == 6


def test_the_other_processes_wait_while_the_first_surveys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lock := tmp_path / ".lock-0-of-2").touch()
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if round(now[0], 1) == 0.4:
            os.utime(lock, ns=(1, 1))
        if round(now[0], 1) == 0.8:
            (tmp_path / "plan.json").touch()

    monkeypatch.setattr(shards, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    shards._wait_for(tmp_path / "plan.json", seconds=0.45)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match="did not appear within 0 s"):
        shards._wait_for(tmp_path / "plan.json", seconds=0.01)


def test_a_depth_model_without_depth_is_noticed(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    preparation = Preparation(_config(tmp_path / "none", model))
    preparation.depth_model = lambda frames: torch.full(frames.shape[:3], -1.0)
    with pytest.raises(ValueError, match="cannot be used, more than max_bad_share.*the depth model gives no depth above 0"):
        preparation.run()
    unaligned = _config(tmp_path / "constant", model, num_clips=2)
    unaligned.align_scale = False  # without a depth model to name it is refused
    preparation = Preparation(unaligned)
    preparation.depth_model = lambda frames: torch.full(frames.shape[:3], 2.5)
    preparation.run()
    assert "depth of 'train/00000001' is 2.5 in all pixels of all frames, which teaches nothing" in caplog.text
    report = json.loads((tmp_path / "constant" / "report.json").read_text())
    assert [entry["constant_depth"] for entry in report["depth_and_cameras"]] == [2.5, 2.5]
