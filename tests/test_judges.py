"""Outside judges: tracks put real clips first and are not fooled; a pipeline's scores are what its own geometry gives."""

import json
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sfm_scenes import make_room, path, render
from tiny_components import tiny_pipeline

from jog3r.commands.parser import main
from jog3r.data.procedural import procedural_clip
from jog3r.evaluation import met3r_pairs
from jog3r.evaluation.judges import choosing, track_judge
from jog3r.evaluation.judges.choosing import choose_judge
from jog3r.evaluation.judges.judging import JudgedRow, judge_rows, sanity_rows
from jog3r.evaluation.judges.network_judge import NetworkJudge
from jog3r.evaluation.judges.sanity import SANITY_ROWS, sanity_video
from jog3r.evaluation.judges.track_judge import TrackJudge
from jog3r.evaluation.options import EvaluationOptions
from jog3r.evaluation.processes import Processes
from jog3r.evaluation.tasks import videos_of


@pytest.fixture(scope="module")
def clips():
    return [render(make_room(seed), path(3, sideways=0.5, forward=0.5, turn_deg=8), (144, 192), 150.0) for seed in (1, 2)]


def test_tracks_like_real_clips_alone(clips, tmp_path, monkeypatch):
    pytest.importorskip("pycolmap")
    monkeypatch.setattr(track_judge, "LEAST_SIDE", 144)  # as they are, which is quicker
    still = np.tile(np.eye(4), (3, 1, 1))
    cameras = [{"poses": clips[0].poses, "degenerate": np.array([""] * 3)}, {"error": np.array("broke")}]
    rows = [
        JudgedRow("generated", lambda k: clips[0].frames if k == 0 else None, range(2), cameras),
        *(JudgedRow(row, lambda k, row=row: sanity_video(row, k, 2, lambda n: clips[n].frames), [0]) for row in SANITY_ROWS),
    ]
    judge = TrackJudge(focal_px=150.0)
    result, samples = judge_rows(judge, rows, ["a", "b"], tmp_path, {}, Processes())
    table = result["rows"]
    assert result["in_order"] is True
    assert table["real clips"]["placed %"] == 100 and table["real clips"]["points"] > 50
    assert table["frozen video"]["registered %"] == 100 and table["frozen video"]["placed %"] == 0  # all found, nothing shown
    assert table["noise"]["failed %"] == 100 and "reprojection px" not in table["noise"]
    assert table["generated"]["without video"] == 1 and table["generated"]["points"].n == 1
    agreement = result["agreement"]["generated"]
    assert agreement["num_failed"] == 1 and agreement["rra@5"] == 50  # the failed one counts with as many pairs
    assert set(samples.tables()) == {*table, "agreement, generated"}
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")}
    rows[0] = JudgedRow("generated", lambda k: 1 / 0, range(2), [{**cameras[0], "poses": still}, cameras[1]])
    again, _ = judge_rows(judge, rows, ["a", "b"], tmp_path, {}, Processes())  # nothing is looked at twice
    assert again["rows"] == table and {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.npz")} == before
    assert again["agreement"]["generated"]["rotation_deg"] > agreement["rotation_deg"] + 1
    assert [row.name for row in sanity_rows(lambda k: clips[k].frames, range(2))] == list(SANITY_ROWS)
    with pytest.raises(ValueError, match="focal_px"):
        judge_rows(TrackJudge(151.0), rows, ["a", "b"], tmp_path, {}, Processes())


def test_verdicts_stay_with_their_videos_when_others_are_added(tmp_path):
    def row(numbers):
        return JudgedRow("generated", lambda k: np.full((2, 8, 8, 3), numbers[k], np.uint8), range(len(numbers)), numbers=numbers)

    class Brightness:
        name, order = "brightness", ()

        def describe(self):
            return {"judge": self.name}

        def look(self, frames, number):
            return {"figure brightness": frames.mean(), "figure number": np.array(float(number))}

    for numbers in ([3, 5], [3, 103, 5, 105], [5, 105]):  # a second video of each; then a clip is missing
        result, _ = judge_rows(Brightness(), [row(numbers)], list("abcd"), tmp_path, {}, Processes())
        found = result["rows"]["generated"]
        assert found["brightness"] == found["number"] == np.mean(numbers)
    assert len(list(tmp_path.rglob("*.npz"))) == 4


def test_sanity_videos_are_what_they_say(clips):
    def video(row):
        return sanity_video(row, 0, 2, lambda k: clips[k].frames)

    real, shuffled, frozen, noise = (video(row) for row in SANITY_ROWS)
    np.testing.assert_array_equal(real, clips[0].frames)
    assert (frozen == real[0]).all() and noise.shape == real.shape and 120 < noise.mean() < 135
    sources = [k for frame in shuffled for k in range(2) if any((frame == other).all() for other in clips[k].frames)]
    assert sorted(sources) == [0, 0, 1]
    np.testing.assert_array_equal(video(SANITY_ROWS[1]), shuffled)


def test_a_pipeline_judges_by_its_own_geometry(tmp_path):
    pipe = tiny_pipeline()
    frames = procedural_clip(0, "validation", 4, 16, 16).frames

    def features(pictures):
        return torch.cat((pictures, pictures.flip(1)), 1)

    judge = NetworkJudge(pipe, features, "stand-in")
    found = judge.look(frames, 0)
    pairs = pipe(video=frames, generator=torch.Generator().manual_seed(0)).pairwise
    maps = features(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
    expected = met3r_pairs(
        torch.stack([maps[pairs.pairs[:, side]] for side in (0, 1)], 1),
        torch.stack((pairs.anchor_pointmaps[0], pairs.pointmaps[0]), 1),
        torch.stack((pairs.anchor_confidence[0], pairs.confidence[0]), 1),
    )
    assert not expected.overlap_mask.any() and found["figure overlapping pairs %"] == 0  # of a random head nothing overlaps
    assert np.isnan(found["figure met3r_pairs"])
    still = judge.look(np.repeat(frames[:1], 4, 0), 0)
    assert set(still) == set(found) and "poses" in still
    assert "figure met3r_pairs" not in NetworkJudge(pipe, None, "colours").look(frames, 0)
    pipe.save_pretrained(tmp_path / "m")
    options = EvaluationOptions(task="t2vc", model="m", out="o", judge=str(tmp_path / "m"))
    with pytest.raises(ValueError, match="it would praise itself"):
        choose_judge(options, pipe, None, Processes())
    assert isinstance(choose_judge(options, None, None, Processes()), NetworkJudge)


def test_folders_of_videos_are_judged(clips, tmp_path, capsys, monkeypatch):
    pytest.importorskip("pycolmap")
    monkeypatch.setattr(track_judge, "LEAST_SIDE", 144)  # as they are, which is quicker
    for name, frames in (("real", clips[0].frames), ("grey", np.full_like(clips[0].frames, 128))):
        (tmp_path / name).mkdir()
        with av.open(str(tmp_path / name / "a.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
    folders = [str(tmp_path / name) for name in ("real", "grey")]
    assert main(["evaluate", "judge", *folders, "--judge", "sfm", "--focal_px", "150", "--out", str(tmp_path / "out")]) == 0
    assert "grey minus real" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["judge"]["rows"]
    assert rows["real"]["placed %"]["value"] == 100 and rows["grey"]["failed %"]["value"] == 100
    made = tmp_path / "made" / "first"  # as `generate` writes it: its pictures are no videos
    made.mkdir(parents=True)
    shutil.copy(tmp_path / "real" / "a.mp4", made / "video.mp4")
    shutil.copy(tmp_path / "grey" / "a.mp4", made / "turntable.mp4")
    Image.new("RGB", (8, 8)).save(made / "trajectory.png")
    (made / "cameras.json").write_text("{}")
    for number, folder in enumerate((made, made.parent)):
        out = tmp_path / f"out {number}"
        assert main(["evaluate", "judge", str(folder), "--judge", "sfm", "--focal_px", "150", "--out", str(out)]) == 0
        (row,) = json.loads((out / "results.json").read_text())["judge"]["rows"].values()
        assert row["N"] == 1 and row["placed %"]["value"] == 100
    (tmp_path / "runs" / "alone").mkdir(parents=True)  # without cameras
    shutil.copy(tmp_path / "real" / "a.mp4", tmp_path / "runs" / "alone" / "video.mp4")
    words = ["evaluate", "judge", str(tmp_path / "runs"), "--judge", "sfm"]
    assert main([*words, "--focal_px", "150", "--out", str(tmp_path / "alone")]) == 0
    assert main([*words, "--focal_px", "0.3", "--out", str(tmp_path / "millimetres")]) == 2
    assert "focal_px must be in pixels" in capsys.readouterr().err
    (made / "video.mp4").write_bytes(b"torn")
    assert main(["evaluate", "judge", str(made), "--judge", "sfm", "--out", str(tmp_path / "none")]) == 2
    assert "the judge could look at none of 1 videos" in capsys.readouterr().err


def test_long_videos_are_read_and_what_cannot_be_looked_at_is_named(tmp_path, capsys):
    videos = tmp_path / "videos"
    frames = np.random.default_rng(0).integers(0, 255, (81, 16, 16, 3), dtype=np.uint8)
    for name, shown in (("long", frames), ("odd", frames[:4, :, :15]), ("right", frames[:4])):
        (videos / name).mkdir(parents=True)
        for number, frame in enumerate(shown):
            Image.fromarray(frame).save(videos / name / f"{number:03d}.png")
    assert len(choosing._row("videos", [videos / "long"], ["long"]).load(0)) == 81
    tiny_pipeline().save_pretrained(tmp_path / "judge")
    assert main(["evaluate", "judge", str(videos), "--judge", str(tmp_path / "judge"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["judge"]
    row = found["rows"]["videos"]
    assert (row["N"], row["without video"], row["not looked at"]) == (3, 0, 2)
    long, odd = found["errors"]
    assert long.startswith("videos, long: the video has 81 frames") and odd.startswith("videos, odd: height and width must")
    assert "Videos that the judge could not look at:" in capsys.readouterr().out
    options = EvaluationOptions(task="judge", judged=(str(videos),), judge=str(tmp_path / "judge"), out="o")
    with pytest.raises(ValueError, match="device 'cuda:7' cannot be used"):
        choose_judge(options, None, None, Processes(device="cuda:7"))


def test_pairs_that_share_nothing_are_no_perfect_ones():
    frames = procedural_clip(0, "validation", 3, 16, 16).frames
    points = torch.zeros(1, 2, 16, 16, 3)  # (B,P,H,W,3)
    points[..., 2] = 2
    points[..., :2] = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="xy"), -1)
    apart = points.clone()
    apart[:, 1, ..., 0] += 50
    pairs = SimpleNamespace(
        pairs=torch.tensor([[0, 1], [0, 2]]), anchor_pointmaps=points, pointmaps=apart,
        anchor_confidence=torch.ones(1, 2, 16, 16), confidence=torch.ones(1, 2, 16, 16),
    )  # fmt: skip
    judge = NetworkJudge(None, lambda pictures: pictures, "colours")
    one, both = judge._pairs(frames, pairs), judge._pairs(frames, SimpleNamespace(**vars(pairs) | {"pointmaps": points}))
    assert one["overlapping pairs %"] == 50 and both["overlapping pairs %"] == 100
    first = {name: value[:1] if name == "pairs" else value[:, :1] for name, value in vars(pairs).items()}
    assert both["met3r_pairs"] != pytest.approx(one["met3r_pairs"], rel=0.1)
    assert one["met3r_pairs"] == pytest.approx(judge._pairs(frames, SimpleNamespace(**first))["met3r_pairs"])
    none = judge._pairs(frames, SimpleNamespace(**vars(pairs) | {"pointmaps": points + 50}))
    assert np.isnan(none["met3r_pairs"]) and none["overlapping pairs %"] == 0


def test_a_mixture_of_other_clips_is_looked_at_anew(clips, tmp_path):
    seen = []

    class Looks:
        name, order = "looks", ()

        def describe(self):
            return {"judge": self.name}

        def look(self, frames, number):
            seen.append(number)
            return {"figure brightness": frames.mean()}

    def judged(count):
        rows = sanity_rows(lambda k: clips[k % 2].frames, range(count))
        return judge_rows(Looks(), [replace(row, owners=[0] * count) for row in rows], ["a"], tmp_path, {}, Processes())

    judged(2)
    assert seen == [0, 1] * 4
    judged(3)  # of the other rows the new clip alone
    assert sorted(seen[8:]) == [0, 1, 2, 2, 2, 2]
    judged(2)
    judged(3)
    assert len(seen) == 14


def test_windows_of_several_seeds_have_verdicts_of_their_own(tmp_path):
    videos = videos_of([window * 1_000_000 + video for video in range(4) for window in range(3)], 4, True)
    assert len({video.seed for video in videos}) == len({video.key for video in videos}) == 48
    assert [video.seed for video in videos if video.repeat == 0] == [video.number for video in videos if video.repeat == 0]
    assert [video.seed for video in videos_of([0, 7], 3, False)] == [0, 1_000_003, 2_000_006, 7, 1_000_010, 2_000_013]

    class Number:
        name, order = "number", ()

        def describe(self):
            return {"judge": self.name}

        def look(self, frames, number):
            return {"figure place": frames.mean()}

    row = JudgedRow("generated", lambda k: np.full((2, 8, 8, 3), k, np.uint8), [0] * 48, keys=[video.key for video in videos])
    row = replace(row, numbers=[video.seed for video in videos])
    result, _ = judge_rows(Number(), [row], ["a"], tmp_path, {}, Processes())
    assert len(list(tmp_path.rglob("*.npz"))) == 48 and result["rows"]["generated"]["place"] == pytest.approx(np.mean(range(48)))


def test_agreement_holds_one_video_in_memory(tmp_path):
    held = []

    class Item(dict):
        def __init__(self):
            super().__init__(poses=np.tile(np.eye(4), (2, 1, 1)))
            held.append(weakref.ref(self))
            assert sum(ref() is not None for ref in held) < 4

    class Cameras(Sequence):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index >= 8:
                raise IndexError(index)
            return Item()

    class Still:
        name, order = "still", ()

        def describe(self):
            return {"judge": self.name}

        def look(self, frames, number):
            return {"poses": np.tile(np.eye(4), (len(frames), 1, 1)), "figure number": np.array(float(number))}

    row = JudgedRow("generated", lambda k: np.zeros((2, 8, 8, 3), np.uint8), range(8), Cameras())
    result, _ = judge_rows(Still(), [row], list("abcdefgh"), tmp_path, {}, Processes())
    assert result["agreement"]["generated"]["num_pairs"] == 8 and len(held) >= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "judge"}, "needs the option judge"),
        ({"task": "judge", "judge": "sfm"}, "needs at least one"),
        ({"task": "t2vc", "model": "m", "judge": "sfm", "sanity_clips": 1}, "sanity_clips must be at least 2, got 1"),
        ({"task": "v2c", "model": "m", "judge": "sfm"}, "a judge looks at generated videos"),
        ({"task": "t2vc", "model": "m", "focal_px": 3.0}, "focal_px is for cameras from tracks as judge"),
        ({"task": "t2vc", "model": "m", "judge": "sfm", "focal_px": -3.0}, "above 0, got -3.0"),
        ({"task": "t2vc", "model": "m", "judged": ("x",)}, "folders of videos belong to task judge"),
    ],
)
def test_options_of_judges_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**{"out": "o", **change})
