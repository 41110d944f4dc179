"""The comparison on real clips: windows of long videos, their cameras, and mistakes that end in one line."""

import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from real_video import cut_windows, read_clip, window_errors
from registration_scenes import make_scene

from jog3r import Jog3rPipelineOutput, register_pointmaps

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "real_video.py"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with one video of 80 frames and its cameras, which move to the right one by one."""
    texture = np.random.default_rng(0).integers(0, 255, (32, 128, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(80):
            frame = np.ascontiguousarray(texture[:, number : number + 48])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    write_cameras(tmp_path / "clip.txt", 80)
    return tmp_path


def write_cameras(path: Path, count: int) -> None:
    lines = [f"{number} 0.5 0.9 0.5 0.5 0 0 1 0 0 {-0.1 * number} 0 1 0 0 0 0 1 0" for number in range(count)]
    path.write_text("\n".join(["https://a.video", *lines]))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the script as its user does: exit code, lines on stdout, last line on stderr."""

    def run(*arguments: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["real_video.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out.splitlines(), ([""] + captured.err.splitlines())[-1]

    return run


def test_windows_follow_each_other_at_the_longest_stride_of_training_that_fits() -> None:
    def found(*arguments: object) -> list[list[int]]:
        return [[int(window.indices[0]), window.stride, int(window.indices[-1])] for window in cut_windows(*arguments, "a.mp4")]

    assert found(16, 16, None) == [[0, 1, 15]]
    assert found(80, 16, None) == [[0, 4, 60]]
    assert found(300, 16, None) == [[0, 8, 120], [121, 8, 241]]
    assert found(40, 16, 1) == [[0, 1, 15], [16, 1, 31]]
    with pytest.raises(ValueError, match="a.mp4 has 14 frames, a window of num_frames=16 at stride 1 takes 16"):
        found(14, 16, None)


def test_a_long_video_is_cut_and_its_cameras_with_it(run, clips: Path, model: Path) -> None:
    code, lines, _ = run(clips, clips, "--model", model, "--num_frames", 4)
    assert code == 0
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["clip 0+8*4", "clip 25+8*4", "clip 50+8*4", "all"]
    assert all(line.endswith("| 0.0, 90.0 | 0.0, 90.0 |") for line in lines[2:])  # true path: to the right, without turning
    code, lines, _ = run(clips, clips, "--model", model, "--num_frames", 4, "--stride", 20, "--resize", "stretch")
    assert (code, [line.split("|")[1].strip() for line in lines[2:]]) == (0, ["clip 0+20*4", "all"])


def test_frames_are_cropped_or_stretched(clips: Path) -> None:
    cropped, poses = read_clip(clips / "clip.mp4", clips / "clip.txt", (16, 16), "crop")
    stretched, _ = read_clip(clips / "clip.mp4", clips / "clip.txt", (16, 16), "stretch")
    assert cropped.shape == stretched.shape == (80, 16, 16, 3) and not np.array_equal(cropped, stretched)
    assert poses.shape == (80, 4, 4) and poses[3, 0, 3] == pytest.approx(0.3)


@pytest.mark.parametrize("count", [79, 81])
def test_mistakes_end_in_one_line(run, clips: Path, model: Path, count: int) -> None:
    write_cameras(clips / "clip.txt", count)
    code, _, error = run(clips, clips, "--model", model)
    assert (code, error) == (2, f"error: clip.mp4 has {'more than 79' if count == 79 else 80} frames and {count} cameras")
    (clips / "clip.mp4").write_bytes(b"no video")
    code, _, error = run(clips, clips, "--model", model)
    assert code == 2 and error.startswith("error: ") and "clip.mp4" in error
    (clips / "clip.txt").unlink()
    assert run(clips, clips, "--model", model)[0] == 2
    assert run(clips / "none", clips)[0::2] == (2, f"error: {str(clips / 'none')!r} holds no .mp4")
    assert run(clips, clips, "--model", clips)[2].endswith("it has no model_index.json")
    assert run(clips, clips, "--stride", 0)[2] == "error: num_frames must be at least 2 and stride 1, got 16 and 0"


def test_a_frame_without_a_pose_is_wrong_and_not_the_identity() -> None:
    scene = make_scene(num_frames=8, height=40, width=48, noise=0.01)
    maps = list(scene.inputs)
    maps[2] = maps[2].clone()
    maps[2][2] = torch.randn_like(maps[2][2])  # the map of frame 4 is worth nothing
    found = register_pointmaps(*maps)
    output = Jog3rPipelineOutput(frames=None, poses=found.poses[None], registration=[found])
    errors = window_errors(lambda **_: output, np.zeros((8, 40, 48, 3), np.uint8), scene.poses.numpy(), "a.mp4")
    assert errors["model"].rotation_deg[2] == errors["model"].translation_deg[2] == 180
    assert np.delete(errors["model"].rotation_deg, 2).max() < 5
    assert errors["constant pose"].rotation_deg.max() < 180
