"""Folders that the command line writes: no mixture of two runs, nothing lost, whatever stands in the way."""

import os
import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from original_checkpoints import opensora_shapes, random_weights
from test_cli import PROMPT, RESULTS, run
from tiny_components import tiny_pipeline
from transformers import T5EncoderModel

from jog3r.commands.output_folder import OutputFolder, UsageError
from jog3r.commands.results import report, write_exports
from jog3r.data import procedural_clip
from jog3r.export.exporters import export_scene
from jog3r.export.scene import Scene


def fill(folder: Path, *names: str, text: str = "new") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev or not os.access(memory, os.W_OK):
        pytest.skip("this machine has no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_files_of_the_same_kind_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    mine = ("colmap/database.db", "colmap/dense/images/1.png", "colmap/images/notes.txt")
    fill(tmp_path, "colmap/points3D.ply", text="a trainer's, of an older points3D.bin")
    fill(tmp_path, "colmap/images/1.png", "colmap/images/2.png", "video.mp4", "notes.txt", "blender/camera.py", *mine, text="old")
    with OutputFolder(tmp_path, overwrite=True) as folder:
        fill(folder, "colmap/images/1.png", "video.mp4", "cameras.json")
    old, new = ("notes.txt", "blender/camera.py", *mine), ("colmap/images/1.png", "video.mp4", "cameras.json")
    assert files(tmp_path) == dict.fromkeys(old, "old") | dict.fromkeys(new, "new")


def test_a_folder_on_another_disk_is_filled_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    fill(elsewhere, "scene/colmap/1.png", "scene/video.mp4", text="old")
    (tmp_path / "link").symlink_to(elsewhere / "scene")
    with OutputFolder(tmp_path / "link", overwrite=True) as folder:
        fill(folder, "colmap/2.png", "video.mp4")
    assert (tmp_path / "link").is_symlink() and sorted(tmp_path.iterdir()) == [tmp_path / "link"]
    assert files(elsewhere) == {"scene/colmap/2.png": "new", "scene/video.mp4": "new"}


def test_what_stands_in_the_way_is_refused_before_the_work(tmp_path: Path) -> None:
    fill(tmp_path, "out/colmap", "out/video.mp4/mine.txt")
    for name, message in (
        ("colmap", "'colmap' in it is a file, a folder of that name is to be written; move it away"),
        ("video.mp4", "'video.mp4' in it is a folder, a file of that name"),
    ):
        with pytest.raises(UsageError, match=message), OutputFolder(tmp_path / "out", overwrite=True, names=[name]):
            raise AssertionError("entered")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="it is a link to '.*nowhere', which is not there"), OutputFolder(tmp_path / "lost"):
        raise AssertionError("entered")
    assert set(files(tmp_path)) == {"out/colmap", "out/video.mp4/mine.txt"}


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "video.mp4", "images/1.png", "notes/true.json", text="mine")
    (tmp_path / "link").symlink_to(tmp_path / "video.mp4")
    with (
        pytest.raises(UsageError, match="is the folder that is read; name another one"),
        OutputFolder(tmp_path, overwrite=True, inputs=[tmp_path]),
    ):
        raise AssertionError("entered")
    for given in ("video.mp4", "link", "images", "images/1.png"):
        with (
            pytest.raises(
                UsageError, match=rf"would replace what is read, '.*{re.escape(Path(given).name)}'; name another folder"
            ),
            OutputFolder(tmp_path, overwrite=True, names=["video.mp4", "images"], inputs=[None, tmp_path / given]),
        ):
            raise AssertionError("entered")
    with OutputFolder(tmp_path, overwrite=True, names=["video.mp4"], inputs=[tmp_path / "notes/true.json"]) as folder:
        fill(folder, "video.mp4")
    with (
        pytest.raises(UsageError, match="the results stay in") as kept,
        OutputFolder(  # a name that nobody foresaw
            tmp_path, overwrite=True, inputs=[tmp_path / "notes" / "true.json"]
        ) as folder,
    ):
        fill(folder, "notes/true.json")
    assert files(Path(str(kept.value).split("stay in ")[1].strip("'"))) == {"notes/true.json": "new"}
    assert (tmp_path / "notes/true.json").read_text() == "mine" and (tmp_path / "video.mp4").read_text() == "new"


def test_results_that_find_no_place_at_the_end_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "a.txt", "z.txt/mine.txt", text="old")
    refused = pytest.raises(UsageError, match="'z.txt' in it is a folder, .*; the results stay in '.*")
    with refused as refusal, OutputFolder(out, overwrite=True) as folder:
        fill(folder, "a.txt", "z.txt")
    assert files(folder) == {"a.txt": "new", "z.txt": "new"} and str(folder) in str(refusal.value)
    assert (out / "a.txt").read_text() == (out / "z.txt" / "mine.txt").read_text() == "old"


def test_a_failure_half_way_brings_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.txt", "b.txt", text="old")
    rename, count = os.rename, iter(range(10))

    def rename_twice(source: Path, target: Path) -> None:
        if next(count) == 3:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_twice)
    refused = pytest.raises(UsageError, match="No space left on device; the results stay in")
    with refused, OutputFolder(tmp_path, overwrite=True) as folder:
        fill(folder, "a/2.txt", "b.txt")
    assert files(folder) == {"a/2.txt": "new", "b.txt": "new"}
    assert (tmp_path / "a" / "1.txt").read_text() == (tmp_path / "b.txt").read_text() == "old"


def test_converting_again_leaves_no_old_weights(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    torch.save({"ema": random_weights(opensora_shapes(captions=16, length=8))}, tmp_path / "opensora.pth")
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "parts")
    other = torch.full_like(pipe.text_encoder.shared.weight.data, 0.5)
    pipe.text_encoder.shared.weight.data.copy_(other)
    pipe.text_encoder.save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    settings = ("--set", "num_attention_heads=4", "sample_size=4", "num_frames=4", "head_hidden_dim=24")
    heads = ("head_num_layers=1", "head_num_attention_heads=3")
    parts = ("--vae", tmp_path / "parts", "--tokenizer", tmp_path / "parts", "--out", tmp_path / "out")
    command = ("convert", "opensora", tmp_path / "opensora.pth", *settings, *heads, *parts)
    assert run(capsys, *command, "--text_encoder", tmp_path / "parts")[0] == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, printed, _ = run(capsys, *command, "--text_encoder", tmp_path / "sharded", "--overwrite")
    assert code == 0 and printed.splitlines()[1] == "note: was there before and stays: notes.txt"
    assert not (tmp_path / "out" / "text_encoder" / "model.safetensors").exists()
    loaded = T5EncoderModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert torch.equal(loaded.shared.weight, other)


def test_an_export_that_fails_loses_no_result(capsys: pytest.CaptureFixture, model: Path, tmp_path: Path) -> None:
    """Random weights give pointmaps whose depths agree nowhere: no tracks for COLMAP."""
    arguments = ("generate", PROMPT, "--model", model, "--num_inference_steps", 20, "--out", tmp_path / "out")
    code, printed, errors = run(capsys, *arguments, "--export", "tum", "colmap", "npz")
    assert code == 2 and printed.startswith(f"{tmp_path / 'out'}: cameras.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | {"trajectory_tum.txt", "scene.npz"}
    line = errors.splitlines()[-1]  # behind the bar of the denoising
    assert line.startswith("jog3r: --export colmap could not be made: no point is seen by 2 frames")
    assert line.endswith(f"everything else is in '{tmp_path / 'out'}'") and "Traceback" not in errors


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_no_result_and_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    clip = procedural_clip(3, split="test", num_frames=3, height=192, width=256)
    noise = np.random.default_rng(0).integers(0, 255, clip.frames.shape, dtype=np.uint8)
    scene = Scene.from_depth(noise, clip.depth, clip.poses, clip.intrinsics, valid=clip.valid, fps=8.0)
    np.savez(tmp_path / "found.npz", depth=clip.depth, poses=clip.poses, intrinsics=clip.intrinsics, frames=noise)
    (tmp_path / "out").mkdir()
    with full_disk():
        failed = write_exports(["tum", "colmap"], lambda _: scene, tmp_path / "out")
        command = run(capsys, "register", tmp_path / "found.npz", "--out", tmp_path / "registered")
    assert list(failed) == ["--export colmap"] and "File too large" in str(failed["--export colmap"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["trajectory_tum.txt"]
    assert command[0] == 2 and command[2].endswith("File too large\n") and "Traceback" not in command[2]
    assert {path.name for path in tmp_path.iterdir()} == {"found.npz", "out"}


def test_an_export_of_fewer_frames_leaves_no_old_images(tmp_path: Path) -> None:
    clip = procedural_clip(3, split="test", height=32, width=32)
    scene = Scene.from_depth(clip.frames, clip.depth, clip.poses, clip.intrinsics, valid=clip.valid, fps=8.0)
    export_scene(scene, tmp_path, ["colmap", "nerfstudio"])
    few = Scene.from_depth(clip.frames[:5], clip.depth[:5], clip.poses[:5], clip.intrinsics[:5], valid=clip.valid[:5], fps=8.0)
    with OutputFolder(tmp_path, overwrite=True) as folder:
        failed = write_exports(["colmap", "nerfstudio"], lambda _: few, folder)
    assert report("done", tmp_path, failed) == "done"
    for name in ("colmap", "nerfstudio"):
        assert len(list((tmp_path / name / "images").iterdir())) == 5
