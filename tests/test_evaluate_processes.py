"""One process, two, one that is killed again and again, batches and seeds: the same figures."""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_components import tiny_pipeline
from training_runs import CONTEXT

from jog3r.evaluation import evaluate_v2c
from jog3r.evaluation.clips.clip_sets import ProceduralClips, UnreadableClip
from jog3r.evaluation.evaluate import run_evaluation
from jog3r.evaluation.exporting import NetworkCameras, export
from jog3r.evaluation.predictions import Predictions
from jog3r.evaluation.processes import Processes, join_processes
from jog3r.evaluation.tasks import Plan, text_to_video, video_to_cameras

SIZE = (4, 16, 16)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def options(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder / "m")
    return {"task": "v2c", "model": str(folder / "m"), "clips": 7, "procedural_split": "validation"}


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    run_evaluation(**options, out=out)
    return (out / "results.json").read_text()


def run_here(environment, options):
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    PartialState._reset_state()
    os.environ.update(environment)
    run_evaluation(**options)


def start(options, **environment):
    """Not forked from this process: whoever is killed would take locks along that both share."""
    process = CONTEXT.Process(target=run_here, args=(environment, options))
    process.start()
    return process


def test_two_processes_give_the_same_results(options, alone, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both = [start({**options, "out": tmp_path / "out"}, RANK=str(k), LOCAL_RANK=str(k), **common) for k in range(2)]
    for process in both:
        process.join(1800)
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "out" / "results.json").read_text() == alone


def test_a_run_killed_five_times_goes_on_to_the_same_results(options, alone, tmp_path):
    folder = tmp_path / "out" / "v2c"

    def made():
        return len(list(folder.glob("*.npz")))

    for _ in range(5):
        before, process = made(), start({**options, "out": tmp_path / "out"})
        while made() == before and process.is_alive():
            time.sleep(0.005)
        process.kill()
        process.join()
    (folder / ".000006.npz.partial-1").write_bytes(b"half")  # what a kill in the middle of a file leaves
    assert made() >= 5
    run_evaluation(**options, out=tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_text() == alone


def test_processes_share_the_work_once():
    shares = [Processes(k, 3).share(range(10)) for k in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(10))
    assert [Processes(k, 3).first for k in range(3)] == [True, False, False]


def test_launches_that_cannot_work_are_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes("cuda:1").device == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="give a kind, such as cuda"):
        join_processes("cuda:0")


def test_batches_and_seeds(pipe, tmp_path):
    clips = ProceduralClips("validation", 0, 3, *SIZE)
    single = evaluate_v2c(pipe, clips, tmp_path / "single")["first"]["model"]["rotation_deg"]
    batched = video_to_cameras(NetworkCameras(pipe, {}), clips, tmp_path / "batched", Plan(batch_size=2))
    assert batched["first"]["model"]["rotation_deg"] == pytest.approx(single, rel=1e-3)
    captions = [clips.caption(k) for k in range(2)]
    plan = Plan(seeds=2, batch_size=3, sampling={"num_inference_steps": 20})
    found = text_to_video(pipe, captions, None, tmp_path / "t", plan, {})
    own = found["closed_loop"]["own video"]
    assert (own["num_clips"], own["rotation_deg"].n, found["settings"]["videos a caption"]) == (4, 2, 2)
    names = {path.name for path in (tmp_path / "t" / "t2vc").glob("*.npz")}
    assert names == {"000000.npz", "000000-seed1.npz", "000001.npz", "000001-seed1.npz"}
    once = text_to_video(pipe, captions, None, tmp_path / "t", Plan(sampling=plan.sampling), {})  # the first seeds are there
    assert once["closed_loop"]["own video"]["num_clips"] == 2
    with pytest.raises(ValueError, match="captions: .* -> "):
        text_to_video(pipe, captions[::-1], None, tmp_path / "t", Plan(sampling=plan.sampling), {})
    assert json.loads((tmp_path / "t" / "t2vc" / "config.json").read_text())["seed"] == 0


def test_failures_among_damaged_clips_are_said_or_stored(tmp_path: Path) -> None:
    """Two of four clips cannot be read: too few are left to tell by three alike that the call is wrong."""

    def predict(reasons: Sequence[str]) -> Callable[[Sequence[int]], list]:
        def made(batch: Sequence[int]) -> list:
            if batch[0] % 2:
                raise UnreadableClip("cut off")
            raise ValueError(reasons[batch[0] // 2])

        return made

    keys = [f"{k:06d}" for k in range(4)]
    store = Predictions(tmp_path / "alike", {})
    with pytest.raises(ValueError, match="cameras: no overlap"):
        export(store, keys, predict(["no overlap"] * 2), "cameras", join_processes("cpu"))
    assert store.missing(keys) == keys
    store = Predictions(tmp_path / "different", {})
    export(store, keys, predict(["no overlap", "too few points"]), "cameras", join_processes("cpu"))
    assert store.missing(keys) == keys[1::2]
