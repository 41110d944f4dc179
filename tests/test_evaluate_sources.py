"""Real clips as they are evaluated: windows, clip lists, anybody's cameras, planted bugs; no network, no pycolmap."""

import json
import logging
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from jog3r.commands.parser import main
from jog3r.data.source_options import SourceOptions, build_source
from jog3r.evaluation import constant_poses, pose_errors, pose_metrics
from jog3r.evaluation.clips.choosing import choose_clips
from jog3r.evaluation.clips.clip_list import ClipList, packaged_lists
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.clips.given_cameras import GivenCameras
from jog3r.evaluation.clips.windows import WindowedClips, WindowRule, cut_windows, find_entries, places_of
from jog3r.evaluation.evaluate import earlier_results, run_evaluation
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.scoring import Items, score_closed_loop
from jog3r.geometry.cameras import so3_exp

FRAMES = 40


def camera_path(seed, count=FRAMES):
    """World-to-camera poses (F,4,4) that turn and move."""
    import torch

    generator = np.random.default_rng(seed)
    time = np.linspace(0, 1, count)[:, None]
    turn, move = generator.normal(size=(2, 3)) * [[0.4], [1.0]]
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = so3_exp(torch.tensor(time * turn + 0.05 * np.sin(5 * time))).numpy()
    poses[:, :3, 3] = time * move + 0.3 * np.sin(3 * time)
    return poses


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """RealEstate10K as files: four videos of moving texture with cameras, one of them too short, and captions of all but one."""
    root = tmp_path_factory.mktemp("data")
    for name in ("cameras", "videos"):
        (root / name).mkdir()
    for seed, (name, count) in enumerate({"aa": FRAMES, "bb": FRAMES, "cc": 5, "dd": FRAMES}.items()):
        texture = np.random.default_rng(seed).integers(0, 255, (32, 128, 3), dtype=np.uint8)
        with av.open(str(root / "videos" / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for number in range(count):
                frame = np.ascontiguousarray(texture[:, number : number + 48])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        rows = [pose[:3].ravel() for pose in camera_path(seed, count)]
        lines = [f"{k * 33333} 0.5 0.9 0.5 0.5 0 0 " + " ".join(f"{x:.9f}" for x in row) for k, row in enumerate(rows)]
        (root / "cameras" / f"{name}.txt").write_text("\n".join(["https://a.video", *lines]))
    (root / "captions.json").write_text(json.dumps({"aa.mp4": ["a red room"], "bb.mp4": ["a blue room"], "cc.mp4": ["c"]}))
    return root


def options(data: Path, **more) -> dict:
    places = {"source": "realestate10k", "cameras": str(data / "cameras"), "frames": str(data / "videos")}
    return {"task": "v2c", "num_frames": 8, **places, **more}


def words(data: Path, *more) -> list[str]:
    return [f"--{name}={value}" for name, value in options(data).items() if name != "task"] + [str(word) for word in more]


def write_predictions(folder: Path, change=lambda poses: poses, names=("aa", "bb", "dd")) -> Path:
    """The true cameras of whole videos, in another world and scale, after `change`."""
    folder.mkdir()
    for seed, name in ((0, "aa"), (1, "bb"), (3, "dd")):
        if name in names:
            poses = np.linalg.inv(camera_path(seed))
            poses[:, :3, 3] = 3 * poses[:, :3, 3] + 5
            np.savez(folder / f"{name}.npz", poses=change(poses))
    return folder


def score(data, tmp_path, change=lambda poses: poses, **more):
    predictions = tmp_path / f"p{len(list(tmp_path.iterdir()))}"
    write_predictions(predictions, change)
    return run_evaluation(**options(data, predictions=predictions, out=tmp_path / f"{predictions.name}-out", **more))["v2c"]


# ---- windows


def test_windows_follow_each_other_at_the_longest_stride_of_training_that_fits():
    def found(num_available, num_frames, stride, windows="all"):
        rule = WindowRule(num_frames, stride, windows)
        return [[frames[0], frames[1] - frames[0], frames[-1]] for frames in cut_windows(num_available, rule, "a")]

    assert found(16, 16, None) == [[0, 1, 15]]
    assert found(80, 16, None) == [[0, 4, 60]]
    assert found(300, 16, None) == [[0, 8, 120], [121, 8, 241]]
    assert found(300, 16, None, "first") == [[0, 8, 120]]
    assert found(40, 16, 1) == [[0, 1, 15], [16, 1, 31]]
    with pytest.raises(ValueError, match="'a' has 15 frames, a window of num_frames=16 at stride 1 takes 16"):
        found(15, 16, None)


def test_windows_of_one_video_are_one_clip_of_the_intervals(data, tmp_path):
    result = score(data, tmp_path, windows="all", stride=1)
    assert (result["settings"]["N"], result["settings"]["videos"]) == (15, 3)
    assert result["first"]["model"]["rotation_deg"].n == 3
    assert result["settings"]["windows"] == "all" and result["settings"]["stride"] == 1 and result["settings"]["left out"] == 1
    assert any(line.startswith("left out: cc: 'cc' has 5 frames") for line in result["errors"])


def test_windows_of_one_video_are_drawn_together_and_are_no_strangers():
    clips = ProceduralClips("validation", 0, 3, 4, 16, 16)
    alone = [{"poses": clip.poses, "v2c_poses": clip.poses} for clip in clips]
    windows = [item for item in alone for _ in range(2)]
    loop = score_closed_loop(windows, Items(["a", "b", "c"], range(6), [0, 0, 1, 1, 2, 2]))
    assert loop["own video"]["rotation_deg"].n == 3
    pairs = score_closed_loop(windows[:4], Items(["a", "b"], range(4), [0, 0, 1, 1]))["shuffled pairs"]["rotation_deg"]
    assert pairs == pytest.approx(score_closed_loop(alone[:2])["shuffled pairs"]["rotation_deg"]) and pairs > 1


def test_clips_are_the_windows_of_the_videos(data):
    config = SourceOptions(source="realestate10k", cameras=str(data / "cameras"), frames=str(data / "videos"), default_caption="")
    source = build_source(config, (16, 16), 1, 8)
    entries, left_out = find_entries(source, WindowRule(8, 2, "all"), 2)
    clips = WindowedClips(source, entries, left_out, {})
    assert clips.names == ["aa", "aa@15", "bb", "bb@15"] and list(clips.owners) == [0, 0, 1, 1]
    assert list(clips.keys) == [0, 1_000_000, 1, 1_000_001]  # neither changes when a video comes or goes
    whole = source.load(0)
    np.testing.assert_array_equal(clips[1].frames, whole.frames[15:30:2])
    assert pose_metrics([pose_errors(clips[1].poses, whole.poses[15:30:2])])["rotation_deg"] < 1e-3
    stretched = build_source(SourceOptions(**{**vars(config), "resize_mode": "stretch"}), (16, 16), 1, 8).load(0)
    cropped = build_source(SourceOptions(**{**vars(config), "resize_mode": "crop"}), (16, 16), 1, 8).load(0)
    native = build_source(config, None, 1, 8).load(0)
    assert native.size == (32, 48) and native.intrinsics[0, 0, 0] == pytest.approx(24) and source.settings() is not None
    assert stretched.intrinsics[0, 0, 0] == pytest.approx(8) and cropped.intrinsics[0, 0, 0] == pytest.approx(12)


# ---- lists


def test_a_list_fixes_the_clips(data, tmp_path, capsys, caplog):
    path = tmp_path / "list.json"
    assert main(["evaluate", "list", *words(data, "--out", path, "--stride", 2, "--height", 16, "--width", 16)]) == 0
    assert "3 clips of 3 videos; left out: 1" in capsys.readouterr().out
    document = json.loads(path.read_text())
    assert [clip["name"] for clip in document["clips"]] == ["aa", "bb", "dd"]
    assert document["clips"][0]["frames"] == [*range(0, 16, 2)] and document["clips"][0]["stride"] == 2
    assert (document["size"], document["resize_mode"]) == ([16, 16], "crop")
    assert main(["evaluate", "list", *words(data, "--out", path)]) == 2
    assert "exists" in capsys.readouterr().err

    same = score(data, tmp_path, clip_list=path, height=16, width=16)
    assert same["settings"]["windows"] == "of the list" and same["first"]["model"]["rotation_deg"] < 1e-3
    document["clips"][1]["pixels_sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        assert (
            score(data, tmp_path, clip_list=path, height=16, width=16)["settings"]["clips with other pixels than the list's"] == 1
        )
    assert "bb has other pixels than the clip list" in caplog.text
    assert "clips with other pixels than the list's" not in score(data, tmp_path, clip_list=path)["settings"]  # of another size
    document["clips"][1]["poses_sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="'bb' has other cameras than the clip list"):
        score(data, tmp_path, clip_list=path)
    with pytest.raises(ValueError, match="states the frames: leave out stride"):
        score(data, tmp_path, clip_list=path, stride=1)
    with pytest.raises(ValueError, match=r"has clips of \[8\] frames, the evaluation takes 4"):
        score(data, tmp_path, clip_list=path, num_frames=4)


def test_lists_of_names_and_bad_lists(data, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"format": 1, "clips": [{"name": "dd"}, {"name": "gone"}, {"name": "aa"}]}))
    result = score(data, tmp_path, clip_list=path)
    assert (result["settings"]["N"], result["settings"]["left out"]) == (2, 1)
    assert result["samples"].clips == ["dd", "aa"]
    for text, message in (
        ("[]", "is no clip list"),
        ('{"clips": [{"name": "a"}]}', "has format None and 1 clips"),
        ('{"format": 1, "clips": [{"name": "a", "frames": [0, 2, 3]}]}', "at one stride"),
        ('{"format": 1, "clips": [{"name": "a", "frames": [0, 2]}, {"name": "b"}]}', "of all, or of none"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            ClipList(str(path))
    with pytest.raises(ValueError, match="no file, nor one of dl3dv_70, realestate10k_test_180"):
        ClipList("nothing")
    assert [len(set(ClipList(name).names)) for name in packaged_lists()] == [70, 180]


def test_a_list_names_folders_wherever_they_lie():
    places = places_of(["1K/aa/nerfstudio", "2K/bb/nerfstudio", "cc"])
    assert [places[name] for name in ("aa", "bb", "cc", "2K/bb/nerfstudio")] == [0, 1, 2, 1]
    assert "nerfstudio" not in places  # of two


# ---- videos that cannot be read


def test_a_damaged_video_is_left_out_named_and_taken_up_once_it_is_whole(data, tmp_path, model, capsys):
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    video = copied / "videos" / "bb.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    lines = [f"left out: {name}: " for name in ("cc", "bb")]

    def counts(result):
        found = [next((n for n, start in enumerate(lines) if line.startswith(start)), None) for line in result["errors"]]
        return result["settings"]["N"], result["settings"].get("left out"), [n for n in found if n is not None]

    given = run_evaluation(**options(copied, predictions=write_predictions(tmp_path / "p"), out=tmp_path / "given"))["v2c"]
    assert counts(given) == (2, 2, [0, 1]) and given["first"]["model"]["num_failed"] == 0
    assert given["samples"].clips == ["aa", "dd"] and given["first"]["model"]["rotation_deg"] < 1e-3
    assert main(["evaluate", "list", *words(copied, "--out", tmp_path / "list.json")]) == 0
    assert "2 clips of 3 videos; left out: 2" in capsys.readouterr().out
    made = options(copied, task="all", model=str(model), out=tmp_path / "made", num_frames=4, height=16, width=16)
    made |= {"num_inference_steps": 2, "default_caption": "a red room"}
    results = run_evaluation(**made)
    assert counts(results["v2c"]) == counts(results["t2vc"]) == (3, 1, [1])  # the short one has the 4 frames
    assert results["t2vc"]["samples"].clips == ["aa", "cc", "dd"]
    assert results["t2vc"]["consistency"]["generated, geometry of V2C"]["N"] == 3
    video.write_bytes(whole)
    results = run_evaluation(**made)
    assert counts(results["v2c"]) == counts(results["t2vc"]) == (4, None, [])
    for name in ("aa", "bb", "dd"):
        (copied / "videos" / f"{name}.mp4").write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="none of 3 clips can be read; the first: aa: "):
        run_evaluation(**options(copied, predictions=tmp_path / "p", out=tmp_path / "none"))


# ---- anybody's cameras, and planted bugs


def test_true_cameras_score_full_marks_whatever_their_world_and_form(data, tmp_path):
    from jog3r.data.realestate10k.camera_files import read_camera_file

    result = score(data, tmp_path)
    model = result["first"]["model"]
    assert model["rotation_deg"] < 1e-3 and model["translation_deg"] < 0.1 and model["maa@30"] == 100
    assert (model["num_clips"], model["num_failed"]) == (3, 0)
    folder = write_predictions(tmp_path / "mixed", names=("aa",))
    np.savez(folder / "bb.npz", extrinsics=camera_path(1)[:, :3])
    poses = read_camera_file(data / "cameras" / "dd.txt").poses
    frames = [{"pose": pose.tolist(), "intrinsics": np.eye(3).tolist(), "registered": k != 1} for k, pose in enumerate(poses)]
    (folder / "dd").mkdir()
    (folder / "dd" / "cameras.json").write_text(json.dumps({"convention": "opencv_cam_to_world", "frames": frames}))
    found = run_evaluation(**options(data, predictions=folder, out=tmp_path / "o", stride=1))["v2c"]["first"]["model"]
    assert found["num_failed_pairs"] == 1 and found["rotation_deg"] == pytest.approx(180 / 21, abs=1e-3)


def test_results_of_other_weights_are_not_put_beside_each_other(data, tmp_path):
    score(data, tmp_path)
    (out,) = tmp_path.glob("*-out")
    results = json.loads((out / "results.json").read_text())
    of = {"model": results["model"], "jog3r": results["jog3r"], "weights": "one"}
    (out / "results.json").write_text(json.dumps(results | {"weights": "another"}))
    with pytest.raises(ValueError, match="holds results of v2c of .* with other weights: give another folder"):
        earlier_results(out, ("t2vc",), of)
    assert set(earlier_results(out, ("t2vc",), of | {"weights": "another"})) == {"v2c"}
    del results["weights"]  # as earlier versions wrote them
    (out / "results.json").write_text(json.dumps(results))
    assert set(earlier_results(out, ("t2vc",), of)) == {"v2c"}


def test_missing_and_unusable_predictions_count_as_180(data, tmp_path):
    folder = write_predictions(tmp_path / "p", names=("aa",))
    np.savez(folder / "bb.npz", poses=np.eye(4)[None].repeat(5, 0))
    result = run_evaluation(**options(data, predictions=folder, out=tmp_path / "o"))["v2c"]
    model = result["first"]["model"]
    assert (
        model["num_failed"] == 2
        and model["rotation_deg"] == pytest.approx(120, abs=1e-2)
        and model["rra@5"] == pytest.approx(100 / 3)
    )
    assert result["errors"][:2] == [
        "clip bb: bb.npz: it has 5 cameras, the clip has 8 frames, the last of them number 28 of the video",
        "clip dd: no prediction for 'dd'",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has a file for none of 3 clips; for the first it would be aa.npz"):
        run_evaluation(**options(data, predictions=tmp_path / "empty", out=tmp_path / "e"))


def test_later_windows_are_not_scored_by_the_first_ones_cameras(data, tmp_path):
    (tmp_path / "p").mkdir()
    settings = EvaluationOptions(**options(data, predictions="p", out="o", windows="all", stride=1, height=16, width=24))
    clips = choose_clips(settings, 8, (16, 24))
    later = next(k for k, name in enumerate(clips.names) if name.startswith("aa@"))
    moving = np.tile(np.eye(4), (40, 1, 1))
    moving[:, 0, 3] = np.arange(40)
    for count, known in ((8, False), (40, True)):  # of the first window, and of the whole video
        np.savez(tmp_path / "p" / "aa.npz", poses=moving[:count])
        found = GivenCameras(tmp_path / "p", clips)[later]
        assert ("error" not in found) == known
        if known:
            assert found["poses"][:, 0, 3].tolist() == list(clips.entries[later].frames)
        else:
            assert "it has 8 cameras, the clip has 8 frames, the last of them number" in str(found["error"])


def test_files_that_cannot_be_used_are_failures_with_a_reason(data, tmp_path):
    folder = write_predictions(tmp_path / "p")
    clips = choose_clips(EvaluationOptions(**options(data, predictions="p", out="o", height=16, width=24)), 8, (16, 24))

    def found(**arrays):
        np.savez(folder / "aa.npz", **arrays)
        item = GivenCameras(folder, clips)[0]
        return str(item["error"]) if "error" in item else item

    poses = np.tile(np.eye(4), (8, 1, 1))
    assert "intrinsics must have an entry for each of 8 frames of 3 x 3, got (3,)" in found(poses=poses, intrinsics=np.ones(3))
    assert "intrinsics must have an entry for each of 40 frames of 3 x 3, got (8, 3, 3)" in found(
        poses=np.tile(np.eye(4), (40, 1, 1)), intrinsics=np.tile(np.eye(3), (8, 1, 1))
    )
    assert "depth must have the clip's 16 x 24 pixels, got (5, 5)" in found(poses=poses, depth=np.ones((8, 5, 5)))
    assert "depth must have an entry" in found(poses=poses, depth=np.ones((8, 16)))
    whole = (folder / "aa.npz").read_bytes()
    for size in (6, len(whole) // 2):
        (folder / "aa.npz").write_bytes(whole[:size])
        assert str(GivenCameras(folder, clips)[0]["error"]).startswith("aa.npz: ")
    (folder / "aa.npz").unlink()
    matrix = [[30.0, 0.0, 23.5], [0.0, 30.0, 15.5], [0.0, 0.0, 1.0]]  # of the video's own 48 x 32 pixels
    document = {"convention": "opencv_cam_to_world", "width": 48, "height": 32}
    document |= {"frames": [{"pose": pose.tolist(), "intrinsics": matrix} for pose in poses]}
    (folder / "aa.json").write_text(json.dumps(document))
    half = [[15.0, 0.0, 11.5], [0.0, 15.0, 7.5], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(GivenCameras(folder, clips)[0]["intrinsics"], [half] * 8)
    (folder / "aa.json").write_text(json.dumps(document | {"width": 40}))  # of another aspect: what was cut off is not known
    assert "intrinsics" not in GivenCameras(folder, clips)[0]


def test_planted_bugs_move_the_right_figure_the_right_way(data, tmp_path):
    axes = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's cameras taken for OpenCV's

    def backwards(poses):
        changed = poses.copy()
        changed[:, :3, 3] = -poses[:, :3, 3]
        return changed

    clips = choose_clips(EvaluationOptions(**options(data, predictions="p", out="o")), 8, None)

    def figures(name, change):
        found = GivenCameras(write_predictions(tmp_path / name, change), clips)
        return pose_metrics([pose_errors(item["poses"], clip.poses) for item, clip in zip(found, clips, strict=True)])

    right = figures("right", lambda poses: poses)
    swapped = figures("swapped", lambda poses: poses @ axes)
    inverted = figures("inverted", np.linalg.inv)
    opposite = figures("opposite", backwards)
    frozen = figures("frozen", lambda poses: poses[:1].repeat(FRAMES, 0))
    turned = pose_metrics([pose_errors(constant_poses(8), clip.poses) for clip in clips])
    assert swapped["rotation_deg"] > 3 > right["rotation_deg"] and swapped["translation_deg"] > 45
    assert inverted["rotation_deg"] > 3 and inverted["translation_deg"] > 90
    # the rotation does not see it, the folded angle hides it, the unfolded one has all of it
    assert opposite["rotation_deg"] < 1e-3 and opposite["translation_deg"] > 179.9 and opposite["translation_folded_deg"] < 0.1
    assert opposite["rta@5"] == opposite["maa@30"] == 0 and opposite["auc@30"] == pytest.approx(100)
    assert frozen["translation_deg"] == 90 and frozen["num_undefined"] == 21
    assert frozen["rotation_deg"] == pytest.approx(turned["rotation_deg"], abs=1e-3)


# ---- options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "procedural"}, "means nothing to source=procedural"),
        ({"image_folder": "x"}, "image_folder=x means nothing to source=realestate10k"),
        ({"predictions": "p", "cameras_from": "tracks"}, "two answers"),
        ({"predictions": "p", "task": "all"}, "generate none: use task v2c"),
        ({"cameras_from": "tracks", "both_directions": True}, "both_directions has no effect with tracks"),
        ({"predictions": "p", "pixel_aspect": 1.2}, "pixel_aspect is for cameras from tracks"),
        ({}, "model is needed"),
        ({"height": 16, "model": "m"}, "both height and width"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"windows": "last"}, "windows must be first or all"),
        ({"seeds": 2, "model": "m"}, "seeds is for generated videos: it means nothing to task v2c"),
        ({"features": "f", "model": "m"}, "features is for generated videos"),
        ({"dtype": "int8"}, "dtype must be float32 or bfloat16 or float16"),
    ],
)
def test_options_that_make_no_sense_are_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**options(data, out="o") | change)


def test_old_spellings_and_both_meanings_of_cameras(data, capsys, tmp_path):
    old = EvaluationOptions(task="all", model="m", out="o", captions="8", split="validation")
    assert (old.videos, old.captions, old.procedural_split, old.split) == (8, None, "validation", None)
    file = EvaluationOptions(**options(data, model="m", out="o", captions=str(data / "captions.json")))
    assert (file.videos, file.captions) == (None, str(data / "captions.json"))
    assert (
        main(["evaluate", "v2c", *words(data, "--cameras", "tracks", "--registration", "reference", "--out", tmp_path / "o")])
        == 2
    )
    assert "registration has no effect with tracks" in capsys.readouterr().err
    assert main(["evaluate", "v2c", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "v2c takes no folders" in capsys.readouterr().err


def test_captions_of_the_data_are_the_prompts(data):
    config = EvaluationOptions(**options(data, model="m", out="o", task="t2vc", captions=str(data / "captions.json")))
    clips = choose_clips(config, 8, (16, 16), generate=True)
    assert clips.caption(0) == "a red room"
    with pytest.raises(ValueError, match="no caption for clip 'dd'"):
        clips.caption(2)
