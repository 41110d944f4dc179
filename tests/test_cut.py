"""`jog3r cut`: clips of RealEstate10K out of full videos, frame by frame."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from jog3r.commands.parser import main
from jog3r.data.realestate10k import RealEstate10K
from jog3r.data.realestate10k.full_videos import find_videos, frames_at, video_id
from jog3r.data.video import read_video

RATE, FRAMES = 30, 120
BITS = 1 << np.arange(8)


def _numbered(count: int) -> np.ndarray:
    """Frames (F, 32, 64, 3) that show their number in eight bars of black or white."""
    bars = (np.arange(count)[:, None] & BITS) > 0
    return np.repeat(np.repeat(255 * bars[:, None, :, None], 32, 1), 8, 2).repeat(3, 3).astype(np.uint8)


def _numbers(frames: np.ndarray) -> list[int]:
    bars = frames.astype(float).mean((1, 3)).reshape(len(frames), 8, -1).mean(-1)
    return ((bars > 127) * BITS).sum(1).tolist()


def _write(path: Path, frames: np.ndarray, rate: int = RATE, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "48", "bf": "3", "preset": "fast", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def _write_cameras(path: Path, numbers: list[int], video: str = "a-b_c", rate: float = RATE) -> None:
    rows = [
        f"{round(1e6 * number / rate)} 0.5 0.9 0.5 0.5 0 0 1 0 0 {0.1 * k} 0 1 0 0 0 0 1 0" for k, number in enumerate(numbers)
    ]
    path.write_text("\n".join([f"https://www.youtube.com/watch?v={video}", *rows]) + "\n")


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory) -> dict[str, Path]:
    """One video in several containers, with open groups of pictures, too."""
    folder, frames = tmp_path_factory.mktemp("videos"), _numbered(FRAMES)
    kinds = {"mp4": {}, "mkv": {}, "ts": {}, "open.mp4": {"x264-params": "open-gop=1"}, "avi": {"bf": "0"}}
    return {kind: _write(folder / f"video.{kind}", frames, **options) for kind, options in kinds.items()}


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "open.mp4", "avi"])
def test_frames_are_those_of_the_times(long_videos, kind: str):
    for wanted in ([0, 1, 2], [47, 48, 49, 52, 60], [95, 97, FRAMES - 1]):
        times = np.array([round(1e6 * number / RATE) for number in wanted])
        assert _numbers(frames_at(long_videos[kind], times)) == wanted
    slightly_off = np.array([1e6 * (number + 0.3) / RATE for number in (50, 51)])
    assert _numbers(frames_at(long_videos[kind], slightly_off)) == [50, 51]


def test_times_that_the_video_does_not_show_are_refused(long_videos, tmp_path):
    def times(*seconds: float) -> np.ndarray:
        return np.array(seconds) * 1e6

    with pytest.raises(ValueError, match=r"shows no frame at 4.300 s; it ends at 3.967 s"):
        frames_at(long_videos["mp4"], times(3.9, 4.3))
    with pytest.raises(ValueError, match=r"shows no frame at 9.000 s"):
        frames_at(long_videos["mp4"], times(9, 9.5))
    with pytest.raises(ValueError, match="one frame for two cameras, the second at 1.010 s: its 30 frames a second are fewer"):
        frames_at(long_videos["mp4"], times(1.0, 1.01))


def test_a_folder_of_clips_is_cut_and_read_again(long_videos, tmp_path, capsys):
    cameras, videos, out = tmp_path / "cameras", tmp_path / "videos", tmp_path / "out"
    cameras.mkdir()
    videos.mkdir()
    (videos / "A walk [a-b_c].mp4").write_bytes(long_videos["mp4"].read_bytes())
    wanted = {"first": [3, 5, 7], "second": [60, 61, 62, 63], "late": [110, 130], "lost": [1, 2]}
    for name, numbers in wanted.items():
        _write_cameras(cameras / f"{name}.txt", numbers, "gone" if name == "lost" else "a-b_c")
    (cameras / "wrong.txt").write_text("https://www.youtube.com/watch?v=a-b_c\n1 2 3\n")
    words = ["cut", "--cameras", str(cameras), "--videos", str(videos), "--output_dir", str(out)]
    assert main(words) == 0
    assert "2 clips cut, 0 were there, 1 without their video, 2 failed" in capsys.readouterr().out
    report = json.loads((out / "cut.json").read_text())
    assert (report["clips"], report["missing_videos"], sorted(report["failed"])) == (2, {"gone": ["lost"]}, ["late", "wrong"])
    for name in ("first", "second"):
        video = read_video(out / f"{name}.mp4")
        assert _numbers(video.frames) == wanted[name] and video.frames.shape[1:3] == (32, 64)  # never enlarged
    (tmp_path / "names.txt").write_text("first\nsecond\n")
    source = RealEstate10K(cameras, out, (32, 64), split=tmp_path / "names.txt", default_caption="a room")
    assert [_numbers(source.load(k).frames) for k in range(2)] == [wanted["first"], wanted["second"]]

    (out / "second.mp4").unlink()  # as after a kill: what is whole stays
    before = (out / "first.mp4").stat().st_mtime_ns
    assert main(words) == 0 and "1 clips cut, 1 were there" in capsys.readouterr().out
    assert (out / "first.mp4").stat().st_mtime_ns == before and not list(out.glob(".*"))
    assert main([*words, "--short_side", "16"]) == 2
    assert 'holds clips cut with {"short_side": 360, "crf": 16}' in capsys.readouterr().err
    assert main([*words[:-1], str(videos)]) == 2
    assert "holds videos of something else" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "small"), "--short_side", "16"]) == 0
    assert read_video(tmp_path / "small" / "first.mp4").frames.shape[1:3] == (16, 32)


def test_lists_with_camera_files_of_their_own_find_them_in_the_folder_given(long_videos, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a-b_c.mp4").write_bytes(long_videos["mp4"].read_bytes())
    (tmp_path / "cameras").mkdir()
    _write_cameras(tmp_path / "cameras" / "first.txt", [3, 4, 5])
    rows = [{"clip_name": "first", "clip_path": "videos/first.mp4", "pose_file": "pose_files/first.txt", "caption": ["a room"]}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    words = ["cut", "--cameras", tmp_path / "cameras", "--videos", tmp_path / "videos", "--split", tmp_path / "list.json"]
    assert main([*map(str, words), "--output_dir", str(tmp_path / "out")]) == 0
    assert "1 clips cut" in capsys.readouterr().out and (tmp_path / "out" / "first.mp4").is_file()


def test_what_cannot_be_cut_is_refused(long_videos, tmp_path, capsys):
    cameras, videos = tmp_path / "cameras", long_videos["mp4"].parent
    cameras.mkdir()
    words = ["cut", "--cameras", str(cameras), "--videos", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert main(words) == 2 and "holds no camera files" in capsys.readouterr().err
    _write_cameras(cameras / "clip.txt", [1, 2])
    assert main(words) == 2 and "no clip could be cut out of 1" in capsys.readouterr().err
    assert main([*words, "--crf", "60"]) == 2 and "--crf 0 to 51" in capsys.readouterr().err
    with pytest.raises(ValueError, match="two files of the video 'video'"):
        find_videos(videos)
    with pytest.raises(ValueError, match="is no folder"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="names no video"):
        video_id("")
    assert video_id("https://youtu.be/abc") == "abc"


def test_real_clips_are_found_again_in_a_long_video(shared_data, tmp_path):
    files = sorted((shared_data("re10k") / "videos").glob("*.mp4"))
    clips = [read_video(path).frames for path in files]
    _write(tmp_path / "video.mp4", np.concatenate(clips), rate=8, crf="8")
    start = 0
    for frames in clips:
        found = frames_at(tmp_path / "video.mp4", np.arange(start, start + len(frames)) * 125_000)
        differences = np.abs(found[:, None, ::4, ::4].astype(np.int16) - frames[None, :, ::4, ::4]).mean((2, 3, 4))
        assert differences.argmin(1).tolist() == list(range(len(frames))) and np.diag(differences).max() < 2
        start += len(frames)
