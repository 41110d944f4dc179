"""The command line: results complete in one folder, or one line, exit code 2 and nothing written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from original_checkpoints import dust3r_arguments, dust3r_shapes, opensora_shapes, random_weights, save_dust3r
from safetensors.torch import load_file, save_file
from tiny_components import PROMPT

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel
from jog3r.commands import generate
from jog3r.commands.options import given_fields
from jog3r.commands.parser import _ended_by_signals, build_parser, main
from jog3r.commands.reconstruction.known_cameras import compare_cameras, doubtful_poses, read_true_cameras
from jog3r.data.procedural import procedural_caption

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ("--cameras", "network")  # the paper's V2C; tracks have a file of tests of their own
RESULTS = {"video.mp4", "pointcloud.ply", "pointcloud.glb", "cameras.json", "trajectory.png"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of good and bad videos."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "good.mp4", 5)
    write_video(folder / "one.mp4", 1)
    write_video(folder / "long.mp4", 70)
    content = (folder / "long.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(content[: len(content) * 2 // 3])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("these are words\n" * 100)
    return folder


def write_video(path, num_frames):
    generator = np.random.default_rng(0)
    background = generator.integers(0, 256, (48, 200, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(num_frames):
            window = np.ascontiguousarray(background[:, index : index + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window)))
        container.mux(stream.encode(None))


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, out, *arguments):
    """The one line of a refusal; nothing may have been written beside or at `out`."""
    before = sorted(out.parent.rglob("*"))
    code, printed, errors = run(capsys, *arguments, "--out", out)
    lines = errors.splitlines()
    assert (code, printed, len(lines)) == (2, "", 1), errors
    assert sorted(out.parent.rglob("*")) == before
    assert lines[0].startswith("jog3r: ") and "Traceback" not in errors
    return lines[0]


def test_generate_writes_every_file_and_again_the_same(capsys, model, tmp_path):
    out, options = tmp_path / "runs" / "first", ("--model", model, "--num_inference_steps", 20, "--seed", 1)
    code, printed, _ = run(capsys, "generate", PROMPT, "--out", out, *options, "--export", "npz")
    assert code == 0 and str(out) in printed
    assert {path.name for path in out.iterdir()} == RESULTS | {"scene.npz"}
    assert all(path.stat().st_size for path in out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == ["first"]  # nothing is left aside
    cameras = json.loads((out / "cameras.json").read_text())
    assert cameras["convention"] == "opencv_cam_to_world"
    assert (cameras["width"], cameras["height"], cameras["fps"]) == (16, 16, 8.0)
    assert len(cameras["frames"]) == 4 and cameras["frames"][0]["pose"] == np.eye(4).tolist()
    run(capsys, "generate", PROMPT, "--out", out, *options, "--overwrite", "--num-frames", 4)
    assert json.loads((out / "cameras.json").read_text()) == cameras


def test_what_the_tiny_model_has_never_seen_is_said():
    sizes = SimpleNamespace(output_size=lambda frames, height, width: (frames or 16, height or 64, width or 64))
    asked = SimpleNamespace(prompt="A dragon in a Room, with white walls", num_frames=None, height=128, width=None)
    (note,) = generate._strange_to_the_tiny_model(asked, sizes)
    assert "knows nothing of dragon and has never made pictures of 64 x 128, only of 64 x 64" in note
    asked.prompt, asked.height = procedural_caption(3), None
    assert generate._strange_to_the_tiny_model(asked, sizes) == []


def test_half_precision_and_no_text_encoder_where_no_text_is_read(capsys, model, clips, tmp_path):
    mute = shutil.copytree(model, tmp_path / "mute")
    (mute / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    options = ("--model", mute, "--dtype", "bfloat16")
    assert run(capsys, "reconstruct", clips / "good.mp4", "--out", tmp_path / "short", *options, *NETWORK)[0] == 0
    assert {path.name for path in (tmp_path / "short").iterdir()} == RESULTS
    # Window by window, too, it gets as far as finding that random weights give no poses.
    assert "do not join" in refused(
        capsys, tmp_path / "long", "reconstruct", clips / "good.mp4", *options, *NETWORK, "--window", 4
    )
    assert f"--model '{mute}' cannot be loaded" in refused(capsys, tmp_path / "out", "generate", PROMPT, *options)
    seen = []
    for dtype in ("float32", "bfloat16"):
        options = ("--model", model, "--dtype", dtype, "--num_inference_steps", 20, "--out", tmp_path / dtype)
        assert run(capsys, "generate", PROMPT, *options)[0] == 0
        seen.append((tmp_path / dtype / "cameras.json").read_text())
    assert seen[0] != seen[1]


def test_frames_without_a_trustworthy_pose_are_named(capsys, model, clips, tmp_path):
    """The heads' random pointmaps leave frames without overlap."""
    for arguments in (("reconstruct", clips / "good.mp4", *NETWORK), ("generate", PROMPT)):
        code, printed, _ = run(capsys, *arguments, "--model", model, "--out", tmp_path / "out", "--overwrite")
        (note,) = [
            line
            for line in printed.splitlines()
            if line.startswith("note: doubtful poses (of the frames taken, counted from 0): ")
        ]
        assert code == 0 and "no overlap, pose unknown" in note
    reasons = ["", "no overlap", "no overlap", "", "poor fit", "no overlap", "too few points"]
    (note,) = doubtful_poses(reasons)
    assert note.split("): ")[1] == (
        "frames 1-2, 5: no overlap, pose unknown; frame 4: poor fit; frame 6: too few points, pose unknown"
    )
    (note,) = doubtful_poses(["no overlap, moving objects", "planar scene, poor fit"])
    assert "frame 0: no overlap, moving objects, pose unknown; frame 1: planar scene, poor fit" in note
    assert doubtful_poses([""] * 3) == []


def test_generate_without_cameras(capsys, model, tmp_path):
    options = ("--task", "t2v", "--num_inference_steps", 2, "--out", tmp_path / "v", "--model", model)
    assert run(capsys, "generate", PROMPT, *options)[0] == 0
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["video.mp4"]
    (tmp_path / "v" / "cameras.json").touch()  # with --overwrite results of two runs may lie side by side
    printed = run(capsys, "generate", PROMPT, *options, "--overwrite")[1]
    assert printed.splitlines()[1] == "note: left from an earlier run: cameras.json"


def test_reconstruct_takes_any_size_and_length(capsys, model, clips, tmp_path):
    code, _, _ = run(
        capsys,
        *("reconstruct", clips / "long.mp4", "--stride", 2, "--start", 10, "--stop", 50, "--height", 16, "--width", 24),
        *("--resize", "stretch", "--out", tmp_path / "b", "--model", model, *NETWORK, "--registration", "fast"),
    )
    cameras = json.loads((tmp_path / "b" / "cameras.json").read_text())
    assert code == 0
    assert (len(cameras["frames"]), cameras["width"], cameras["height"], cameras["fps"]) == (20, 24, 16, 5.0)


def test_frames_without_a_pose_are_not_compared_as_if_they_stood_still():
    poses = np.tile(np.eye(4), (3, 1, 1))
    table = compare_cameras(poses, np.array([True, False, True]), poses).splitlines()
    assert [line.split()[2:4] for line in table[1:3]] == [["90.00", "deg"], ["0.00", "deg"]]  # mean of 180 and 0


def test_known_cameras_are_compared(capsys, model, clips, tmp_path):
    rows = ["https://example.org"]
    for index in range(5):
        world_to_camera = np.eye(4)[:3]
        world_to_camera[0, 3] = -0.1 * index
        rows.append(" ".join(map(str, [index, 0.5, 0.8, 0.5, 0.5, 0, 0, *world_to_camera.ravel()])))
    (tmp_path / "true.txt").write_text("\n".join(rows))
    options = ("--model", model, *NETWORK, "--true_cameras")
    code, printed, _ = run(capsys, "reconstruct", clips / "good.mp4", "--out", tmp_path / "a", *options, tmp_path / "true.txt")
    assert code == 0 and {path.name for path in (tmp_path / "a").iterdir()} == RESULTS
    cameras = json.loads((tmp_path / "a" / "cameras.json").read_text())
    assert (len(cameras["frames"]), cameras["width"], cameras["height"], cameras["fps"]) == (5, 16, 16, 10.0)
    table = {line.split("  ")[1]: line.split()[-4:] for line in printed.splitlines() if line.endswith(" deg")}
    assert table["constant pose"] == ["0.00", "deg", "90.00", "deg"]
    assert table["always forward"] == ["0.00", "deg", "90.00", "deg"]
    assert np.allclose(read_true_cameras(tmp_path / "true.txt")[:, 0, 3], 0.1 * np.arange(5))
    for frame in cameras["frames"]:  # an untrained model knows few poses
        frame.pop("pose_known", None)
    (tmp_path / "sound.json").write_text(json.dumps(cameras))
    assert read_true_cameras(tmp_path / "sound.json").shape == (5, 4, 4)
    (tmp_path / "bad.txt").write_text("no cameras\n1 2 3")
    (tmp_path / "zero.txt").write_text("\n".join(["https://example.org", *[" ".join(["0"] * 19)] * 5]))
    holes = [frame | ({"pose_known": False} if index in (1, 3, 4) else {}) for index, frame in enumerate(cameras["frames"])]
    (tmp_path / "holes.json").write_text(json.dumps(cameras | {"frames": holes}))
    cameras["frames"][1]["pose"][0][0] = 1.01
    (tmp_path / "bent.json").write_text(json.dumps(cameras))
    for name, message in (
        ("bad.txt", "neither a cameras.json nor"),
        ("none.txt", "cannot be read: No such file"),
        ("holes.json", "has no pose for frames 1, 3-4;"),
        ("zero.txt", "frame 0: it has a focal length of 0 or less"),
        ("bent.json", "must be rigid 4x4 poses"),
    ):
        assert message in refused(capsys, tmp_path / "c", "reconstruct", clips / "good.mp4", *options, tmp_path / name)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("missing.mp4", "does not exist"),
        ("empty.mp4", "empty"),
        ("truncated.mp4", "cut off|damaged"),
        ("text.mp4", "opened as a video"),
        ("one.mp4", "at least 2"),
        ("long.mp4", "70 frames, more than .*64.*(cut|start).*stride"),
    ],
)
def test_bad_videos_are_refused(capsys, model, clips, tmp_path, video, message):
    line = refused(capsys, tmp_path / "out", "reconstruct", clips / video, "--model", model, *NETWORK)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", ""], "the prompt is empty"),
        (["generate", "  "], "the prompt is empty"),
        (["generate"], "the following arguments are required: prompt"),
        (["generate", PROMPT, "--task", "v2c"], "invalid choice: 'v2c'"),
        (
            ["generate", PROMPT, "--height", "20"],
            "got 20x16; the nearest sizes are 16x16 or 24x16",
        ),
        (["generate", PROMPT, "--num_frames", "1"], "num_frames must be at least 2"),
        (["generate", PROMPT, "--num_inference_steps", "0"], "num_inference_steps must be at least 1"),
        (["generate", PROMPT, "--num_inference_steps", "many"], "invalid int value: 'many'"),
        (["generate", PROMPT, "--guidance_scale", "nan"], "guidance_scale"),
        (["generate", PROMPT, "--negative_prompt", "a", "--guidance_scale", "1"], "--negative_prompt has no effect with"),
        (
            ["generate", "a", "red", "room"],
            "red room; put what belongs together, such as a prompt, in quotes",
        ),
        (["generate", PROMPT, "--fps", "0"], "--fps must be positive"),
        (["generate", PROMPT, "--fps", "nan"], "--fps must be positive and at most 100000, got nan"),
        (["generate", PROMPT, "--fps", "inf"], "at most 100000, got inf"),
        (["generate", PROMPT, "--seed", str(2**64)], "--seed must fit into 64 bits, got 18446744073709551616"),
        (["generate", PROMPT, "--export", "obj"], "unknown --export 'obj'; choose from colmap"),
        (["generate", PROMPT, "--task", "t2v", "--export", "npz"], "--export needs cameras"),
        (["generate", PROMPT, "--task", "t2v", "--focal_per_frame"], "finds no cameras: leave out"),
        (["generate", PROMPT, "--device", "abacus"], "--device 'abacus' cannot be used"),
        (["generate", PROMPT, "--offload"], "add --device cuda, got 'cpu'"),
        (["generate", PROMPT, "--offload", "--device", "mtia"], "--device 'mtia' cannot be used"),
        (["generate", PROMPT, "--dtype", "int8"], "invalid choice: 'int8'"),
        (["generate", PROMPT, "--sharpness", "3"], "unrecognized arguments: --sharpness 3"),
        (["reconstruct", "clip.mp4", "--height", "16"], "both --height and --width"),
        (["reconstruct", "clip.mp4", "--resize", "pad"], "invalid choice: 'pad'"),
        (["evaluate", "compare", "a", "--num_frames", "4", "b", "c"], "folders come right behind the task"),
    ],
)
def test_bad_arguments_are_refused(capsys, model, tmp_path, arguments, message):
    assert message in refused(capsys, tmp_path / "out", *arguments, "--model", model)


def test_both_or_neither_of_prompt_and_video_cannot_be_said(capsys, clips, tmp_path):
    line = refused(capsys, tmp_path / "out", "generate", PROMPT, clips / "good.mp4")
    assert "unrecognized arguments" in line
    assert "required: video" in refused(capsys, tmp_path / "out", "reconstruct")


def test_unknown_commands_are_refused(capsys):
    ports = [([*words, "--port", "99999"], "from 0 to 65535, got '99999'") for words in (["serve"], ["view", "x"])]
    for arguments, message in ((["dream"], "invalid choice: 'dream'"), ([], "required: COMMAND"), *ports):
        code, printed, errors = run(capsys, *arguments)
        assert (code, printed) == (2, "") and len(errors.splitlines()) == 1 and message in errors


def test_nan_latents_are_refused(capsys, model, tmp_path):
    broken = shutil.copytree(model, tmp_path / "broken")
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["proj_out.bias"] = torch.full_like(weights["proj_out.bias"], torch.nan)
    save_file(weights, path)
    line = refused(capsys, tmp_path / "out", "generate", PROMPT, "--task", "t2v", "--num_inference_steps", "2", "--model", broken)
    assert "the denoised latents hold 256 NaN or infinite values" in line


@pytest.mark.parametrize("change", [{"num_layers": 4}, {"num_layers": 2}, {"num_attention_heads": 4}, {"in_channels": "four"}])
def test_a_checkpoint_that_does_not_fit_is_refused(capsys, model, tmp_path, change):
    broken = shutil.copytree(model, tmp_path / "broken")
    path = broken / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for command in (["generate", PROMPT], ["reconstruct", "clip.mp4"]):
        if command[0] == "reconstruct":
            write_video(tmp_path / "clip.mp4", 3)
            command[1:] = [tmp_path / "clip.mp4", *NETWORK]
        line = refused(capsys, tmp_path / "out", *command, "--model", broken)
        assert "cannot be loaded" in line and len(line) < 600


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c", "file.txt"])
def test_a_model_that_is_not_there_is_refused(capsys, tmp_path, name):
    (tmp_path / "file.txt").touch()
    path = tmp_path / name if name == "file.txt" else name
    assert "is no folder of a pipeline" in refused(capsys, tmp_path / "out", "generate", PROMPT, "--model", path)


def test_existing_and_unwritable_folders_are_refused(capsys, model, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path / "there", "exists already; name a new folder or add --overwrite"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "cannot be written"),
        (Path("/proc/nowhere"), "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written: File name too long"),
    ):
        code, _, errors = run(capsys, "generate", PROMPT, "--out", out, "--model", model)
        assert code == 2 and message in errors and len(errors.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def test_overwriting_replaces_results_and_keeps_other_files(capsys, model, tmp_path):
    (tmp_path / "video.mp4").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    options = ("--task", "t2v", "--num_inference_steps", 2, "--model", model, "--out", tmp_path, "--overwrite")
    assert run(capsys, "generate", PROMPT, *options)[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "video.mp4").stat().st_size > 100


def test_defects_are_exit_code_1_with_traceback(capsys, model, tmp_path, monkeypatch):
    monkeypatch.setattr("jog3r.commands.generate.write_video", lambda *_: int("no number"))
    options = ("--task", "t2v", "--num_inference_steps", 1, "--model", model, "--out", tmp_path / "out")
    # the innermost frame lies in this test, outside the package
    code, _, errors = run(capsys, "generate", PROMPT, *options)
    assert code == 1 and "Traceback" in errors and not (tmp_path / "out").exists()


def test_interrupting_leaves_nothing(capsys, model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jog3r.commands.generate.write_video", interrupt)
    options = ("--task", "t2v", "--num_inference_steps", 1, "--model", model, "--out", tmp_path / "out")
    code, _, errors = run(capsys, "generate", PROMPT, *options)
    assert code == 1 and errors == "jog3r: interrupted\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(capsys, model, tmp_path, monkeypatch, number):
    monkeypatch.setattr("jog3r.commands.generate.write_video", lambda *_: os.kill(os.getpid(), number))
    options = ("--task", "t2v", "--num_inference_steps", 1, "--model", model, "--out", tmp_path / "out")
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            run(capsys, "generate", PROMPT, *options)
        assert ended.value.code == 128 + number and not list(tmp_path.iterdir()) and signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        run(capsys, "generate", PROMPT, *options)
        assert (tmp_path / "out").is_dir() and signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_second_signal_does_not_break_off_the_clearing_up():
    before, cleared = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM)}, []
    try:
        with pytest.raises(SystemExit), _ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGHUP)
                cleared.append(True)
        assert cleared
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_options_of_several_words_may_be_repeated():
    given = build_parser("reconstruct").parse_args(
        ["reconstruct", "a", "--out", "b", "--export", "tum", "npz", "--export", "kitti"]
    )
    assert given.export == ["tum", "npz", "kitti"]
    given = build_parser("convert").parse_args(["convert", "opensora", "a", "--out", "b", "--set", "c=1", "--set", "d=2"])
    assert given.set == ["c=1", "d=2"]


def test_help_in_a_fresh_process():
    code = (
        "import runpy, sys, jog3r.commands.parser as parser; parser.build_parser('reconstruct'); sys.argv[1:] = ['--help']\n"
        "assert 'diffusers' not in sys.modules  # --help stays quick\n"
        "runpy.run_module('jog3r', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in ("generate", "reconstruct", "serve"))


def test_convert_makes_a_model_or_a_whole_pipeline(capsys, model, tmp_path):
    original = tmp_path / "opensora.pth"
    torch.save({"ema": random_weights(opensora_shapes(captions=16, length=8))}, original)
    settings = ("--set", "num_attention_heads=4", "sample_size=4", "num_frames=4")
    code, printed, _ = run(capsys, "convert", "opensora-transformer", original, "--out", tmp_path / "one", *settings)
    assert code == 0 and "Jog3rTransformer3DModel" in printed and (tmp_path / "one" / "conversion.json").is_file()
    assert Jog3rTransformer3DModel.from_pretrained(tmp_path / "one").config.num_attention_heads == 4
    head = ("head_hidden_dim=24", "head_num_layers=1", "head_num_attention_heads=3")
    parts = ("--vae", model, "--text-encoder", model, *settings, *head)
    code, printed, _ = run(capsys, "convert", "opensora", original, "--out", tmp_path / "all", *parts)
    assert code == 0 and "note: the 3D head is not trained yet" in printed
    assert Jog3rPipeline.from_pretrained(tmp_path / "all").token_size == 8
    dust3r = save_dust3r(tmp_path / "dust3r.pth", random_weights(dust3r_shapes()), dust3r_arguments())
    for layers, is_noted in ((3, False), (2, True)):
        settings = ("--set", f"num_layers={layers}")
        code, printed, _ = run(capsys, "convert", "dust3r-head", dust3r, "--out", tmp_path / f"head{layers}", *settings)
        assert code == 0 and ("note: the 3D head is not trained yet" in printed) == is_noted


def test_convert_reports_what_it_cannot_read(capsys, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"no checkpoint")
    out = tmp_path / "out"
    assert "weights.pth" in refused(capsys, out, "convert", "opensora-transformer", file)
    assert "missing.pth" in refused(capsys, out, "convert", "dust3r-head", tmp_path / "missing.pth")
    assert "missing.pth" in refused(capsys, out, "convert", "opensora", tmp_path / "missing.pth")
    assert "NAME=VALUE" in refused(capsys, out, "convert", "dust3r", file, "--set", "heads")
    assert "belongs to `convert opensora`" in refused(capsys, out, "convert", "dust3r", file, "--vae", tmp_path)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("prepare", "--min_frames VALUE, --min-frames VALUE shorter videos are skipped (default: 16)"),
        ("prepare", "of all videos; above it the run stops (default: 0.05)"),
        ("evaluate", '--procedural-split validation|test procedural: part of the scenes; "train" is refused'),
        ("evaluate", "--height HEIGHT None: what the model was made for; with tracks or predictions: that of the videos"),
        ("evaluate", "--focal_per_frame, --focal-per-frame a focal length for each frame, not one for all (default: False)"),
        ("evaluate", "of a pipeline; tracks and predictions need none (default: the bundled tiny checkpoint)"),
        ("prepare", "--dtype float32|bfloat16|float16 of the models while they run (default: float32)"),
    ],
)
def test_options_in_the_help_have_a_meaning(capsys, command, text):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert text in " ".join(capsys.readouterr().out.split())


def test_options_of_a_dataclass_keep_what_was_given_and_no_defaults(capsys):
    from jog3r.evaluation.evaluate import EvaluationOptions
    from jog3r.training.preparation.prepare_config import PrepareConfig

    words = ["evaluate", "--both-directions", "v2c", "--out", "o", "--guidance_scale", "2"]
    given = given_fields(build_parser("evaluate").parse_args(words), EvaluationOptions)
    assert given == {"task": "v2c", "out": "o", "both_directions": True, "guidance_scale": 2.0}
    given = given_fields(build_parser("prepare").parse_args(["prepare", "--align-scale", "no", "--height", "32"]), PrepareConfig)
    assert given == {"align_scale": "no", "height": "32"}  # words, which `load_config` reads
    assert main(["evaluate", "v2c", "--out", "o", "--clips", "few"]) == 2
    assert "--clips: invalid int value: 'few'" in capsys.readouterr().err
    assert main(["evaluate", "v2c"]) == 2
    assert "required: --out" in capsys.readouterr().err
    assert main(["prepare", "--output_dir", "o", "--dtype", "int8"]) == 2
    assert "option dtype must be one of ('float32', 'bfloat16', 'float16'), got 'int8'" in capsys.readouterr().err


def test_evaluate_knows_the_options_of_the_evaluation(capsys, tmp_path):
    assert "split must be validation or test" in refused(capsys, tmp_path / "out", "evaluate", "v2c", "--split", "train")
    assert "unrecognized arguments: --speed" in refused(capsys, tmp_path / "out", "evaluate", "v2c", "--speed", 3)
    out = tmp_path / "out"
    assert "registration must be fast or reference, got 'fats'" in refused(
        capsys, out, "evaluate", "v2c", "--registration", "fats"
    )
    for model in ("./missing", "a/b/c"):
        assert "is no folder of a pipeline" in refused(capsys, out, "evaluate", "v2c", "--model", model)
    assert "device 'abacus' cannot be used" in refused(capsys, out, "evaluate", "v2c", "--device", "abacus")
    (tmp_path / "weights.pt").write_text("no weights")
    assert "cannot be read as weights" in refused(capsys, out, "evaluate", "t2vc", "--fvd", tmp_path / "weights.pt")


def test_serve_refuses_a_model_that_is_not_there(capsys):
    pytest.importorskip("gradio")
    assert main(["serve", "--model", "./missing"]) == 2
    assert "'./missing' is no folder of a pipeline" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "extra", "arguments"), [("gradio", "demo", ["serve"]), ("viser", "viewer", ["view", "."])])
def test_a_missing_extra_is_named(capsys, monkeypatch, package, extra, arguments):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"pip install '.[{extra}]'" in error and len(error.strip().splitlines()) == 1


def test_view_refuses_a_folder_without_a_scene(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and len(error.strip().splitlines()) == 1
