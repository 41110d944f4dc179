"""The parts of the Space without its page: checks of what comes in, jobs, files, pieces of HTML, the gate."""

import ast
import os
import pickle
import platform
import struct
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue

import av
import numpy as np
import pytest
import torch

pytest.importorskip("gradio")
import gradio as gr
from space_files import write_video
from space_server import LIMITS, PATIENCE_SECONDS, wait_for

from jog3r.data import procedural_clip
from jog3r.export.scene import Scene
from jog3r.space.guard import decode_upload as decoder
from jog3r.space.guard.limits import GenerateSettings, Refused, check_prompt
from jog3r.space.guard.storage import ServerFolder
from jog3r.space.guard.upkeep import release_memory, start_upkeep
from jog3r.space.guard.uploads import Upload, decode_upload
from jog3r.space.jobs import Done, Failed, Job, Step, run_job, stop_running, watch
from jog3r.space.look.html_pieces import banner, generate_code, pose_table, progress, reconstruct_code
from jog3r.space.model import Result, gpu
from jog3r.space.results import DOWNLOADS, write_archives, write_correspondences, write_scene_files
from jog3r.space.server import follow, one_sentence

MARKUP = '"><script>alert(1)</script>'


# What comes in


def test_settings_pass_what_is_in_range():
    settings = GenerateSettings.checked(LIMITS, 16, "  a  room\n with\twalls ", 7.0, 30, 2.5, 16)
    assert settings == GenerateSettings("a room with walls", 7, 30, 2.5, 16)


@pytest.mark.parametrize("name, value", [
    *[("prompt", value) for value in (None, 3, ["a"], "", "   ", "?!", "a\0b", "a\x1bb", "\ud800room", "\ue000x", "a" * 501)],
    *[("seed", value) for value in (-1, 2**31, 1.5, float("nan"), float("inf"), None, "1", True)],
    *[("steps", value) for value in (0, 19, 101, 1e30, -1, 30.5)],
    *[("guidance", value) for value in (0, -1, 11, float("nan"), float("-inf"), "2")],
    *[("frames", value) for value in (1, 17, 0, -4, 1e9, None)],
])  # fmt: skip
def test_settings_refuse_the_rest_in_one_sentence(name, value):
    values = {"prompt": "a room", "seed": 0, "steps": 30, "guidance": 2.5, "frames": 16} | {name: value}
    with pytest.raises(Refused) as refusal:
        GenerateSettings.checked(LIMITS, 16, **values)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_prompts_of_other_scripts_are_texts():
    assert check_prompt("ein Zimmer mit grünen Wänden, 緑の壁", 500) == "ein Zimmer mit grünen Wänden, 緑の壁"


# Jobs


def test_a_job_reports_and_returns():
    def work(job: Job) -> int:
        job.report(Step("half", 0.5))
        return 3

    assert [event for event in run_job(work, 600) if event is not None] == [Step("half", 0.5), Done(3)]


def _endless(entered: threading.Event, left: threading.Event) -> object:
    layer = torch.nn.Linear(2, 2)
    watch(layer)

    def work(job: Job) -> None:
        entered.set()
        try:
            while True:
                layer(torch.zeros(1, 2))
        finally:
            left.set()

    return work


def test_closing_the_generator_stops_the_computation_and_frees_the_worker():
    entered, left = threading.Event(), threading.Event()
    events = run_job(_endless(entered, left), 600)
    assert next(events) is None and entered.wait(PATIENCE_SECONDS)
    events.close()
    assert left.wait(PATIENCE_SECONDS)
    assert list(run_job(lambda job: 1, 600))[-1] == Done(1)


def test_a_job_out_of_time_is_stopped_and_says_so():
    entered, left = threading.Event(), threading.Event()
    last = list(run_job(_endless(entered, left), 0.4))[-1]
    assert isinstance(last, Failed) and "more computing time than is allowed" in last.sentence
    assert left.wait(PATIENCE_SECONDS)


def test_a_job_that_waits_may_be_given_up():
    entered, left = threading.Event(), threading.Event()
    running = run_job(_endless(entered, left), 600)
    next(running)
    ran = []
    waiting = run_job(lambda job: ran.append(1), 600)
    assert next(waiting) is None
    waiting.close()
    running.close()
    assert list(run_job(lambda job: 2, 600))[-1] == Done(2) and not ran


def test_the_end_of_the_server_stops_what_is_computed():
    entered, left = threading.Event(), threading.Event()
    events = run_job(_endless(entered, left), 600)
    next(events)
    assert entered.wait(PATIENCE_SECONDS)
    stop_running()
    assert left.wait(PATIENCE_SECONDS) and list(events)[-1] == Failed("The request was stopped.")


def test_errors_of_a_job_are_one_sentence_and_the_log_holds_no_message(caplog):
    def work(job: Job) -> None:
        raise KeyError("s" + "ecret")  # the log shows lines of source

    failed = list(run_job(work, 600))[-1]
    assert pickle.loads(pickle.dumps(failed)) == failed and "went wrong" in failed.sentence  # as between ZeroGPU's processes
    assert "KeyError" in caplog.text and "test_space_parts" in caplog.text and "secret" not in caplog.text
    with pytest.raises(Refused, match="went wrong"):
        list(follow((event for event in [failed]), 2))


def test_follow_shows_steps_and_returns_the_result():
    updates = follow((event for event in [Step("a", 0.5), None, Done(7)]), 3)
    first = next(updates)
    assert "a" in first[0] and len(first) == 3
    next(updates)
    with pytest.raises(StopIteration) as end:
        next(updates)
    assert end.value.value == 7


def test_steps_that_nobody_could_read_are_not_shown(monkeypatch):
    monkeypatch.setattr("jog3r.space.server._SHOWN_SECONDS", 3600.0)
    steps = [Step(str(k), k / 9, b"jpeg" if k == 5 else None) for k in range(9)]
    silence = [event for step in steps for event in (None, step)]  # longer than a pulse before each step
    for events in (steps, silence):
        shown = [update[0] for update in follow((event for event in [*events, Done(1)]), 1) if isinstance(update[0], str)]
        assert len(shown) == 2 and ">0<" in shown[0] and ">5, about 1 s left<" in shown[1]


def test_an_error_of_zerogpu_itself_is_one_sentence():
    with pytest.raises(gr.Error, match="went wrong"), one_sentence("generate"):
        raise gr.Error("OutOfMemoryError", title="ZeroGPU worker error")
    with pytest.raises(gr.Error, match="exceeded"), one_sentence("generate"):
        raise gr.Error("You have exceeded your GPU quota", title="ZeroGPU quota exceeded")


def test_errors_become_one_sentence_and_the_log_holds_no_prompt(caplog):
    prompt = "s" + "ecret"  # the log shows lines of source
    with pytest.raises(gr.Error, match="went wrong") as error, one_sentence("generate"):
        raise KeyError(prompt)
    assert "secret" not in caplog.text and "KeyError" in caplog.text and "test_space_parts" in caplog.text
    assert "secret" not in str(error.value.message)
    with pytest.raises(gr.Error, match="Too long"), one_sentence("generate"):
        raise Refused("Too long.")


@pytest.mark.skipif(find_spec("spaces") is not None, reason="the package spaces is installed")
def test_gpu_changes_nothing_where_there_is_no_zerogpu():
    def function(): ...

    assert gpu(len)(function) is function


# Uploads


def _decode(path: Path, folder: Path, frames: int = 4, size: tuple[int, int] = (32, 32)) -> Upload:
    return list(decode_upload(path, decoder.Wanted(frames, size), LIMITS, folder))[-1].value


def test_an_upload_is_taken_evenly_and_cropped(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 30, 48, 96)
    upload = _decode(path, tmp_path)
    assert upload.frames.shape == (4, 32, 32, 3) and upload.numbers == [0, 10, 19, 29]
    assert upload.fps == pytest.approx(3 / upload.times[-1]) and upload.times == pytest.approx(np.array(upload.numbers) / 8)


def _decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "decoder"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("jog3r.space.guard.uploads.sys.executable", str(program))


def test_a_decoder_that_computes_too_long_is_not_the_files_fault(tmp_path, monkeypatch):
    _decoder(tmp_path, monkeypatch, "kill -XCPU $$")  # as the limit of its computing time does
    with pytest.raises(Refused, match="took too long"):
        _decode(write_video(tmp_path / "clip.mp4", 4), tmp_path)


def test_a_decoder_that_breaks_leaves_its_place_in_the_log_and_no_names(tmp_path, monkeypatch, caplog):
    _decoder(tmp_path, monkeypatch, """echo '  File "video.py", line 7, in read' >&2; echo "OSError: $3" >&2; exit 1""")
    with pytest.raises(Refused, match="cannot be decoded"):
        _decode(write_video(tmp_path / "holiday.mp4", 4), tmp_path)
    assert "line 7, in read" in caplog.text and "holiday" not in caplog.text


@pytest.mark.parametrize(
    "count, wanted, taken", [(30, 16, 16), (16, 16, 16), (17, 16, 16), (3, 16, 3), (2, 2, 2), (120, 64, 64), (16, 8, 8)]
)
def test_as_many_frames_as_asked_for_are_taken_to_the_end_of_the_clip(tmp_path, count, wanted, taken):
    upload = _decode(write_video(tmp_path / "clip.mp4", count), tmp_path, wanted)
    assert len(upload.frames) == len(upload.numbers) == taken
    assert upload.numbers[0] == 0 and upload.numbers[-1] == count - 1
    assert np.ptp(np.diff(upload.numbers)) <= 1


@pytest.mark.parametrize(("step", "kept"), [(1, 7), (4, 5), (2, 7)])
def test_as_many_frames_are_taken_of_a_short_clip_as_the_model_takes(tmp_path, step, kept):
    path = write_video(tmp_path / "short.mp4", 7)
    video, numbers = decoder._decode(path, decoder.Wanted(16, (16, 16), 0, step), LIMITS)
    assert len(video.frames) == len(numbers) == kept and (numbers[0], numbers[-1]) == (0, 6)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 12)
    content = bytearray(path.read_bytes())
    place, ticks = content.index(b"elst") + 12, struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    seconds, start, rate = struct.unpack_from(">Iii", content, place)
    struct.pack_into(">Iii", content, place, seconds * 8 // 12, start + 4 * ticks // 8, rate)
    path.write_bytes(content)
    upload = _decode(path, tmp_path, 16)
    assert upload.numbers == list(range(8)) and len(upload.frames) == 8


def test_pixels_of_an_upload_become_square_before_it_is_cropped(tmp_path):
    """Stored 64 x 64 of width 2, the left half dark: of 128 x 64 the centre is half dark, half light."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        image = np.full((64, 64, 3), 200, np.uint8)
        image[:, :24] = 20
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    frames = _decode(path, tmp_path, 4, (64, 64)).frames  # columns 16 to 48 of those stored
    assert (frames[:, :, :14].max(), frames[:, :, 18:].min()) < (60, 256) and frames[:, :, 18:].min() > 160


@pytest.mark.parametrize("name", ["live.mkv", "live.avi"])
def test_a_file_without_a_duration_is_refused_by_the_times_of_its_frames(tmp_path, name):
    with av.open(str(tmp_path / name), "w", options={"live": "1"} if name == "live.mkv" else {}) as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 64, "yuv420p", Fraction(1, 1)
        for hours in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 80, np.uint8), format="rgb24")
            frame.pts, frame.time_base = hours * 72_000 if name == "live.mkv" else hours * 100, Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Refused, match="seconds|s long") as error:
        _decode(tmp_path / name, tmp_path)
    assert "VideoLimits" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_the_decoder_gets_none_of_the_servers_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _decoder(tmp_path, monkeypatch, "env > environment; printf 'seen'; exit 2")
    with pytest.raises(Refused, match="^seen$"):
        _decode(write_video(tmp_path / "clip.mp4", 4), tmp_path)
    environment = (tmp_path / "environment").read_text()
    assert "PYTHONPATH=" in environment and "hf_secret" not in environment


def test_an_upload_without_frame_count_and_with_another_name_is_taken(tmp_path):
    path = write_video(tmp_path / "clip.webm", 6)
    assert _decode(path.rename(tmp_path / "..mp4.avi.txt"), tmp_path).frames.shape[0] == 4


def test_an_avi_with_a_gap_is_whole_and_one_that_is_cut_off_is_not(tmp_path):
    path = tmp_path / "gap.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for moment in (0, 1, 2, 6, 7, 8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * moment, np.uint8), format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert _decode(path, tmp_path, 16).frames.shape[0] == 6
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(Refused, match="cut off"):
        _decode(path, tmp_path)


def test_decoding_ends_with_its_request(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "begun")
    _decoder(tmp_path, monkeypatch, "echo $$ > begun; exec sleep 3600")
    events = decode_upload(write_video(tmp_path / "clip.mp4", 30), decoder.Wanted(4, (32, 32)), LIMITS, tmp_path)
    assert isinstance(next(events), Step)
    process = int((tmp_path / "begun").read_text())  # waits until the decoder writes it
    events.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not (tmp_path / "upload.npz").exists()


# Files


def test_request_folders_go_and_old_files_go(tmp_path):
    folder = ServerFolder(3600, tmp_path)
    with pytest.raises(ZeroDivisionError), folder.request() as request:
        (request / "half.mp4").write_bytes(b"x")
        raise ZeroDivisionError
    assert not request.exists()
    (folder.served / "abc").mkdir()
    for name, age in (("old", 4000), ("new", 10)):
        file = folder.served / "abc" / name
        file.write_bytes(b"x")
        os.utime(file, (time.time() - age,) * 2)
    assert folder.usage() == (2, 2)
    folder.remove_old()
    assert folder.usage() == (1, 1) and [path.name for path in (folder.served / "abc").iterdir()] == ["new"]
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.close()
    assert not folder.path.exists()


def test_upkeep_deletes_old_files_and_ends_with_the_folder(tmp_path):
    folder = ServerFolder(-1, tmp_path)
    (folder.served / "old").write_bytes(b"x")
    thread = start_upkeep(folder, LIMITS, every_seconds=0.01)
    wait_for(lambda: not (folder.served / "old").exists())
    folder.close()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_upkeep_deletes_the_oldest_of_too_many_files(tmp_path):
    folder = ServerFolder(10**6, tmp_path)
    for age in (300, 200, 0):
        (path := folder.served / str(age)).write_bytes(b"x")
        os.utime(path, (time.time() - age, time.time() - age))
    start_upkeep(folder, replace(LIMITS, keep_files=1), every_seconds=0.01)
    wait_for(lambda: [path.name for path in folder.served.iterdir()] == ["0"])
    folder.close()


@pytest.mark.parametrize("failures", [1, 10**9])
def test_upkeep_goes_on_after_rounds_that_failed(tmp_path, monkeypatch, caplog, failures):
    folder = ServerFolder(-1, tmp_path)
    (folder.served / "old").write_bytes(b"x")
    rounds, remove_old = SimpleQueue(), folder.remove_old

    def fail_at_first():
        rounds.put("begun")
        if rounds.qsize() <= failures:
            raise OSError(24, "Too many open files")
        remove_old()
        rounds.put("done")

    monkeypatch.setattr(folder, "remove_old", fail_at_first)
    thread = start_upkeep(folder, LIMITS, every_seconds=0.01)
    wait_for(lambda: rounds.qsize() >= 3)  # a failure, then a round and its end; or three failures
    assert (folder.served / "old").exists() == (failures > 1) and "Too many open files" in caplog.text
    assert thread.is_alive()
    folder.close()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory for each thread")
def test_freed_memory_goes_back_to_the_system():
    blocks = [np.ones(100_000, np.uint8) for _ in range(2000)]  # each too small for a mapping of its own: 200 MB of heap
    keep = blocks[1::50]  # so that the heap cannot shrink from its end alone
    before = _resident_pages()
    del blocks
    assert release_memory() and _resident_pages() < before - 20_000 and len(keep) == 40


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_a_new_server_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    code = "import sys, os, signal; from pathlib import Path; from jog3r.space.guard.storage import ServerFolder\n"
    code += "f = ServerFolder(3600, Path(sys.argv[1])); (f.served / 'half').write_bytes(b'x')\n"
    code += "print(f.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    root = Path(__file__).resolve().parents[1]
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root)
    left = Path(killed.stdout.strip())
    assert (left / "served" / "half").exists()
    living = ServerFolder(3600, tmp_path)
    second = ServerFolder(3600, tmp_path)
    assert not left.exists() and living.path.exists() and second.path.exists()
    living.close()
    second.close()


def test_all_files_of_a_result_are_written(tmp_path):
    clip = procedural_clip(9, split="test", num_frames=4)
    scene = Scene.from_depth(clip.frames, clip.depth, clip.poses, clip.intrinsics)
    files = write_scene_files(scene, tmp_path)
    shown = [files[name] for name in DOWNLOADS]
    archives, note = write_archives(scene, tmp_path, shown)
    names = [Path(path).name for path in shown + archives]
    assert names == ["video.mp4", "pointcloud.glb", "pointcloud.ply", "cameras.json", "colmap.zip", "everything.zip"] and not note
    with zipfile.ZipFile(tmp_path / "everything.zip") as archive:
        assert archive.testzip() is None and archive.read("cameras.json") == (tmp_path / "cameras.json").read_bytes()
        others = {"depth.mp4", "confidence.mp4", "scene.npz", "nerfstudio/transforms.json", "blender/camera.glb", "splats.ply"}
        assert {*others, *names[:4], "trajectory_tum.txt", "colmap/sparse/0/cameras.bin"} <= set(archive.namelist())
    with zipfile.ZipFile(tmp_path / "colmap.zip") as archive:
        assert archive.testzip() is None and "colmap/sparse/0/cameras.bin" in archive.namelist()
    matches = write_correspondences(scene, tmp_path)
    assert matches is not None and Path(matches).is_file()


def test_frames_that_share_nothing_have_no_colmap_files_and_no_matches(tmp_path):
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, :3] = np.diag([-1, 1, -1])
    frames = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    scene = Scene.from_depth(frames, np.full((2, 16, 16), 2.0), poses, np.tile([[9.0, 0, 8], [0, 9, 8], [0, 0, 1]], (2, 1, 1)))
    archives, note = write_archives(scene, tmp_path, [])
    assert "No COLMAP" in note and [path.name for path in tmp_path.iterdir()] == ["everything.zip"] and len(archives) == 1


# HTML and code


def test_what_comes_from_outside_is_escaped():
    assert "<script>" not in progress(Step(MARKUP, 0.5)) + banner(MARKUP)


def test_the_pose_table_holds_every_frame():
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[2, :3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    scene = Scene(np.zeros((3, 8, 8, 3), np.uint8), poses, np.tile(np.diag([8.0, 8.0, 1.0]), (3, 1, 1)))
    table = pose_table(Result(scene, ("", "", f"poor fit {MARKUP}")))
    assert table.count("<tr>") == 4 and "90.00" in table and "<script>" not in table and "<caption>" in table


@pytest.mark.parametrize("prompt", ['a "room"', "it's '''", "\\", "{braces}", 'x"""); import os; os.system("id")', MARKUP, "緑"])
def test_the_code_is_python_with_the_prompt_as_a_literal(prompt):
    tree = ast.parse(generate_code("", GenerateSettings(prompt, 1, 30, 2.5, 16)))
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert prompt in literals
    names = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert names == {"from_pretrained", "Generator", "manual_seed"}
    ast.parse(reconstruct_code(prompt, [0, 2, 4, 6], (64, 64)))
