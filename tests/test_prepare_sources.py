"""Preparation with real components: depth models of transformers, RealEstate10K's real clips, the command line."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tiny_components import tiny_pipeline, tiny_text_encoder, tiny_tokenizer, tiny_vae
from training_cases import run_here

from jog3r.commands.prepare import arguments, run
from jog3r.data.cache import Cache
from jog3r.data.clip import Clip
from jog3r.data.procedural import procedural_clip
from jog3r.data.source import ProceduralSource
from jog3r.data.source_options import SOURCE_OPTIONS
from jog3r.pipelines.loading.depth_model import DepthModel, load_depth_model
from jog3r.training.clips.cached_stream import CachedStream
from jog3r.training.preparation.component_files import weights_hash
from jog3r.training.preparation.depth_masks import disagreement
from jog3r.training.preparation.prepare_config import PrepareConfig, source_of
from jog3r.training.prepare import Preparation, main
from jog3r.training.run.step_log import read_steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tiny_vae().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text_encoder")
        tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def _save_zoedepth(folder: Path) -> None:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    backbone = BeitConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, use_relative_position_bias=True,
    )  # fmt: skip
    config = ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[16] * 4, fusion_hidden_size=16, bottleneck_features=16,
        num_relative_features=16, bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.1, "max_depth": 10.0}],
        bin_embedding_dim=16, num_attractors=[4, 2, 2, 1], reassemble_factors=[4, 2, 1, 0.5], backbone_hidden_size=16,
    )  # fmt: skip
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    ZoeDepthImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=8).save_pretrained(folder)


def save_depth_anything(folder: Path, kind: str) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"], apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        depth_estimation_type=kind, max_depth=20 if kind == "metric" else None, head_hidden_size=8,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=14).save_pretrained(folder)


def _config(output: Path, model: Path, **options: object) -> PrepareConfig:
    values: dict = {
        "output_dir": str(output),
        "model": str(model),
        "height": 32,
        "width": 48,
        "min_frames": 4,
        "caption_length": 8,
    }
    if "source" not in options:
        values |= {"source": "procedural", "num_clips": 2, "num_frames": 4}
    return PrepareConfig(**{**values, **options})


@pytest.mark.parametrize("save", [_save_zoedepth, lambda folder: save_depth_anything(folder, "metric")], ids=["zoe", "anything"])
def test_depth_of_any_metric_model_fills_the_cache(tmp_path: Path, model: Path, save: Callable[[Path], None]) -> None:
    torch.manual_seed(0)
    save(tmp_path / "depth")
    preparation = Preparation(_config(tmp_path / "cache", model, depth=str(tmp_path / "depth"), align_scale=False))
    assert preparation.run()
    cache = Cache(tmp_path / "cache")
    frames = cache.frames(0, [0, 3])
    assert frames.depth.shape == (2, 32, 48)
    assert frames.valid.mean() > 0.5
    clip = ProceduralSource("train", 0, 1, 4, 32, 48).load(0)
    expected = preparation.depth_model(torch.from_numpy(clip.frames))[[0, 3]].numpy()
    np.testing.assert_allclose(frames.depth[frames.valid], expected[frames.valid], rtol=1e-3)
    assert cache.manifest["models"]["depth"] == "depth"
    assert cache.manifest["plan"]["depth"]["fingerprint"] == weights_hash(preparation.depth_model.model)


def test_relative_depth_is_refused_unless_the_user_vouches(tmp_path: Path) -> None:
    save_depth_anything(tmp_path, "relative")
    with pytest.raises(ValueError, match="gives relative inverse depth"):
        load_depth_model(str(tmp_path))
    assert isinstance(load_depth_model(str(tmp_path), assume_metric=True), DepthModel)


def test_translations_are_brought_to_the_unit_of_the_depth(tmp_path: Path, model: Path) -> None:
    """A depth model that is right, and cameras whose unit is a third: as ZoeDepth's metres beside structure from motion."""

    class Sfm(ProceduralSource):
        def load(self, index: int) -> Clip:
            clip = super().load(index)
            clip.poses[:, :3, 3] /= 3
            return clip

    save_depth_anything(tmp_path / "depth", "metric")
    preparation = Preparation(_config(tmp_path / "cache", model, depth=str(tmp_path / "depth")), Sfm("train", 0, 2, 4, 32, 48))
    truth = ProceduralSource("train", 0, 2, 4, 32, 48).load(0)
    exact = type("Exact", (), {"__call__": lambda self, frames: torch.from_numpy(truth.depth)})()
    preparation.depth_model = exact
    frames = preparation._frames(Sfm("train", 0, 2, 4, 32, 48).load(0))
    np.testing.assert_allclose(frames.poses, truth.poses, atol=0.02 * np.abs(truth.poses[:, :3, 3]).max())
    tensors = [torch.from_numpy(value) for value in (frames.depth, frames.valid, frames.intrinsics, frames.poses)]
    assert disagreement(*tensors, 0, 3).nanmedian() < 0.01


def test_a_video_whose_scale_cannot_be_found_is_skipped_with_the_reason(tmp_path: Path, model: Path) -> None:
    class Turning(ProceduralSource):
        def load(self, index: int) -> Clip:
            clip = super().load(index)
            if index == 1:
                turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float32)  # 90 degrees
                for number in range(clip.num_frames):
                    clip.poses[number, :3, :3] = np.linalg.matrix_power(turn, number)
            return clip

    save_depth_anything(tmp_path / "depth", "metric")
    config = _config(tmp_path / "cache", model, depth=str(tmp_path / "depth"), max_bad_share=0.5)
    preparation = Preparation(config, Turning("train", 0, 2, 4, 32, 48))
    truth = torch.from_numpy(ProceduralSource("train", 0, 1, 4, 32, 48).load(0).depth)
    preparation.depth_model = lambda frames: truth
    assert preparation.run()
    [skipped] = json.loads((tmp_path / "cache" / "report.json").read_text())["skipped_videos"]
    assert skipped["name"] == "train/00000001"
    assert "too little of a frame is seen in others" in skipped["reason"]
    cache = Cache(tmp_path / "cache")
    assert [cache.name(index) for index in range(len(cache))] == ["train/00000000"]


def test_real_clips_go_through_the_command(
    tmp_path: Path, model: Path, shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    folder = shared_data("re10k")
    torch.manual_seed(0)
    save_depth_anything(tmp_path / "depth", "metric")
    parser = argparse.ArgumentParser()
    arguments(parser)
    (tmp_path / "list.txt").write_text("0bf152ef84195293\n0c11dbe781b1c11c\nmissing\n")
    (tmp_path / "re10k.yaml").write_text(f"source: realestate10k\nheight: 999\nmax_bad_share: 0.5\nmodel: {model}\n")
    words = f"--config {tmp_path}/re10k.yaml --output-dir {tmp_path}/cache --cameras {folder}/pose_files --frames {folder}/videos"
    words += f" --captions {folder}/captions.json --split {tmp_path}/list.txt --height 32 --width 32 --caption_length 8"
    words += f" --depth {tmp_path}/depth --align_scale false"
    options = parser.parse_args(words.split())
    assert run(options).endswith("cache: 2 videos, 32 frames, 1 skipped (report.json)")
    cache = Cache(tmp_path / "cache")
    assert (cache.name(1), cache.num_frames(1)) == ("0c11dbe781b1c11c", 16)
    report = (tmp_path / "cache" / "report.json").read_text()
    assert json.loads(report)["skipped_videos"][0]["name"] == "missing"
    for file in ("report.json", "manifest.json", "plan.json"):
        assert str(folder) not in (tmp_path / "cache" / file).read_text()


def test_mistakes_end_in_one_line(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--output_dir", str(tmp_path / "cache"), "--model", str(model)]
    assert main([*words, "--no_such", "1"]) == 2
    assert "unknown option no_such" in caplog.text
    for source, missing in (("posed", "frames"), ("realestate10k", "frames")):
        with pytest.raises(ValueError, match=f"needs the option {missing}"):
            source_of(_config(tmp_path, model, source=source))
    with pytest.raises(ValueError, match="needs the option cameras"):
        source_of(_config(tmp_path, model, source="realestate10k", frames=str(tmp_path)))


def test_a_model_that_is_nowhere_ends_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--output_dir", str(tmp_path / "cache"), "--model", "/nope/x/y", "--source", "procedural"]
    assert main(words) == 2
    assert "error: " in caplog.text and "/nope/x/y" in caplog.text


@pytest.mark.parametrize(
    ("source", "option", "value"),
    [
        ("realestate10k_tars", "split", "/does/not/exist.txt"),
        ("realestate10k_table", "cameras", "/nope"),
        ("realestate10k_chunks", "image_folder", "zz"),
        ("realestate10k", "table_split", "test"),
        ("realestate10k", "num_frames", 8),
        ("posed", "num_clips", 3),
        ("posed", "first_clip", 3),
        ("posed", "procedural_split", "test"),
        ("procedural", "captions", "captions.json"),
        ("procedural", "frames", "folder"),
        ("procedural", "resize_mode", "crop"),
    ],
)
def test_options_that_a_source_ignores_are_refused(tmp_path: Path, model: Path, source: str, option: str, value: object) -> None:
    takers = [name for name, options in SOURCE_OPTIONS.items() if option in options] or ["procedural"]  # of prepare's own
    with pytest.raises(ValueError, match=f"^{option}={value} means nothing to source={source}; it is for {', '.join(takers)}$"):
        _config(tmp_path, model, source=source, **{option: value})
    _config(tmp_path, model, source=takers[0], **{option: value})


def test_every_option_of_a_source_is_one_and_a_folder_has_no_splits(tmp_path: Path, model: Path) -> None:
    known = {field.name for field in dataclasses.fields(PrepareConfig)}
    assert {option for options in SOURCE_OPTIONS.values() for option in options} <= known
    for option in ("table_split", "table_revision"):
        with pytest.raises(ValueError, match=f"{option} means nothing to the folder"):
            source_of(_config(tmp_path, model, source="realestate10k_table", frames=str(tmp_path), **{option: "test"}))


def test_real_clips_go_through_twenty_joint_steps(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """RealEstate10K's text and video files to cache, to the training script, to both losses; the losses fall."""
    folder, init = shared_data("re10k"), tmp_path / "init"
    tiny_pipeline().save_pretrained(init)
    torch.manual_seed(0)
    save_depth_anything(tmp_path / "depth", "metric")
    (tmp_path / "list.txt").write_text("0bf152ef84195293\n0c11dbe781b1c11c\n")
    options = {"source": "realestate10k", "cameras": str(folder / "pose_files"), "frames": str(folder / "videos")}
    options |= {"captions": str(folder / "captions.json"), "split": str(tmp_path / "list.txt"), "depth": str(tmp_path / "depth")}
    Preparation(_config(tmp_path / "cache", init, **options, width=32, align_scale=False)).run()
    settings = {"data": "cache", "cache_dir": str(tmp_path / "cache"), "num_frames": 4, "height": 32, "width": 32}
    run = run_here(tmp_path, **settings, num_steps=20, learning_rate=2e-3, train_text_encoder=True)
    steps = read_steps(run / "steps.jsonl")
    losses = [step["losses"]["loss"] for step in steps]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    named = {name.split(" ")[0] for step in steps for name in step["samples"]}
    assert named == {"0bf152ef84195293", "0c11dbe781b1c11c"}


def test_a_run_says_what_of_its_list_is_missing_and_refuses_too_much(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Uneven(ProceduralSource):
        def load(self, index: int) -> Clip:
            if index == 1:
                raise ValueError("gone")
            return procedural_clip(index, "train", 3 if index == 2 else 5, 32, 48)

    config = _config(tmp_path / "cache", model, min_frames=2, max_bad_share=0.5)
    Preparation(config, Uneven("train", 0, 6, 5, 32, 48)).run()
    stream = CachedStream(tmp_path / "cache", AutoencoderKL.from_pretrained(model / "vae"), 8, (4, 32, 48), 10, seed=0)
    stream.check_missing(0.4)
    assert "2 of the 6 videos listed are missing: prepare skipped 1" in caplog.text
    assert "1 have fewer than 4 frames (train/00000002)" in caplog.text
    with pytest.raises(ValueError, match="more than max_missing_share=0.1"):
        stream.check_missing(0.1)
    assert {stream.sample_name(place).split(" ")[0] for place in range(10)} == {f"train/0000000{n}" for n in (0, 3, 4, 5)}
