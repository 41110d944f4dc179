"""Training halves that read places of their own: which place a clip comes from, what the log says, kills, refusals."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from seven_scenes import as_transforms
from tiny_components import tiny_pipeline
from training_cases import run_here, settings
from training_kill import prepare_shards, same_result
from training_runs import weights_of

from jog3r import Jog3rPipeline
from jog3r.data.cache import Cache, CachedCaption
from jog3r.data.procedural import procedural_clip
from jog3r.training.clips import clip_stream, video_stream
from jog3r.training.clips.clip_stream import ProceduralStream
from jog3r.training.clips.held_out import hold_out
from jog3r.training.clips.schedule import Schedule
from jog3r.training.clips.shard_stream import ShardStream
from jog3r.training.clips.step_batches import BatchShare
from jog3r.training.clips.streams import build_stream
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.run.step_log import read_steps
from jog3r.training.run.validation import Best, better
from jog3r.training.train_joint import Run, train

THREE = ("5 procedural varied", "3 cache {}", {"weight": 2, "data": "stream", "dataset": "{}", "open_shards": 2})


@pytest.fixture(scope="module")
def shards(init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(prepare_shards(init, tmp_path_factory.mktemp("shards") / "cache")["dataset"]))


def _three(shards: Path) -> tuple[object, ...]:
    """Places 5 : 3 : 2."""
    return (THREE[0], THREE[1].format(shards), {**THREE[2], "dataset": str(shards)})


@pytest.mark.parametrize("weights", [(5, 3, 2), (1, 1), (7,), ("0.5", "0.25", "0.2", "0.05"), (1, 100, 3, 3, 3)])
def test_counts_follow_the_weights_at_every_sample(weights: tuple[object, ...]) -> None:
    shares = [Fraction(str(weight)) for weight in weights]
    schedule, counts = Schedule(shares, seed=3), [0] * len(weights)
    for sample in range(1000):
        place, clip = schedule.locate(sample)
        assert clip == counts[place]  # no clip of a place is left out or repeated
        counts[place] += 1
        assert all(abs(count - (sample + 1) * share / sum(shares)) < 1 for count, share in zip(counts, shares, strict=True))
    assert [Schedule(shares, seed=3).locate(sample) for sample in range(50)] == [schedule.locate(k) for k in range(50)]


def test_the_seed_decides_between_places_that_are_due_alike_and_too_fine_weights_are_refused() -> None:
    assert len({Schedule([Fraction(1)] * 4, seed).locate(0) for seed in range(20)}) == 4
    with pytest.raises(ValueError, match=r"weights 1/2, 1/100000 repeat only after 50001 samples, at most 10000"):
        Schedule([Fraction("0.5"), Fraction("0.00001")], 0)


@pytest.fixture(scope="module")
def runs(init: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same one broken off in its last step but one and gone on with: benchmarks/training_kill.py does more."""
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    options = {
        "init_from": str(init), "num_steps": 5, "checkpoint_every": 2, "reconstruction_batch": 4,
        "generation_data": ("3 procedural", f"1 cache {shards}"), "reconstruction_data": _three(shards),
        "validate_every": 3, "validation_clips": 2, "keep_best": "l_gen",
    }  # fmt: skip
    run_here(whole, **options)
    with pytest.MonkeyPatch.context() as patch:
        step = Run.step

        def break_off(self: Run, number: int, batches: Iterator[dict[str, torch.Tensor]]) -> object:
            if number == 3:
                raise KeyboardInterrupt
            return step(self, number, batches)

        patch.setattr(Run, "step", break_off)
        with pytest.raises(KeyboardInterrupt):
            run_here(broken, **options)
    return whole / "run", run_here(broken, **options)


def test_the_best_by_validation_is_kept_and_survives_resuming(runs: tuple[Path, Path]) -> None:
    values, states = [], []
    for run in runs:
        values.append(json.loads((run / "best" / "validation.json").read_text()))
        states.append(json.loads((run / "step-0000005" / "run.json").read_text())["best"])
        assert states[-1] == {"name": "l_gen", "value": values[-1]["l_gen"], "step": values[-1]["step"]}
    assert values[0] == values[1] and {*values[0]} == {"step", "l_gen", "l_rec", "rotation", "direction", "maa"}
    assert values[0]["step"] in (3, 5) and 0 <= values[0]["rotation"] <= 180 and 0 <= values[0]["maa"] <= 100
    first, second = (weights_of(run / "best") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    Jog3rPipeline.from_pretrained(runs[0] / "best")
    one = Best("l_gen", 1.0, 2)
    assert better(0.9, "l_gen", one) and not better(1.0, "l_gen", one) and not better(float("nan"), "l_gen", None)
    assert better(5.0, "maa", one) and better(2.0, "maa", Best("maa", 1.0, 2)) and not better(0.5, "maa", Best("maa", 1.0, 2))


def test_a_stop_is_saved_before_the_validation_that_it_may_not_outlive(init: Path, tmp_path: Path, monkeypatch) -> None:
    def killed(self: Run, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "validate", killed)
    options = {"init_from": str(init), "num_steps": 3, "checkpoint_every": 3, "validate_every": 1, "validation_clips": 2}
    config = settings(**options, output_dir=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        train(config, SimpleNamespace(received=True))
    assert (tmp_path / "run" / "step-0000001").is_dir()


@pytest.mark.parametrize("data", [{}, {"data": "videos", "source": "posed", "frames": "{posed}", "default_caption": "a kitchen"}])
def test_held_out_clips_are_encoded_where_the_vae_is(data: dict, tmp_path: Path, shared_data, monkeypatch) -> None:
    """A validation moves it to the GPU."""
    if data:
        scene = min(shared_data("sevenscenes_redkitchen").glob("clip_*"))
        as_transforms(scene, tmp_path / "posed" / scene.name)
        data = data | {"frames": str(tmp_path / "posed")}
    stream = build_stream(settings(**data), pipeline := tiny_pipeline(), 8, BatchShare(2, 3))
    pipeline.vae.to("meta")
    seen = []

    def encode(vae: AutoencoderKL, frames: torch.Tensor) -> torch.Tensor:
        seen.append((vae.device, frames.device))
        return torch.zeros(1, 4, 3, 4, 4)

    for module in (clip_stream, video_stream):
        monkeypatch.setattr(module, "encode_frames", encode)
    assert stream[0]["latents"].device == torch.device("cpu") and seen == [(torch.device("meta"),) * 2]


def test_held_out_clips_are_never_trained_on(runs: tuple[Path, Path], shards: Path) -> None:
    options = {"validate_every": 1, "validation_clips": 5, "num_steps": 60, "reconstruction_data": _three(shards)}
    config = settings(**options, generation_data=f"cache {shards}")
    stream = build_stream(config, tiny_pipeline(), 8, BatchShare(2, 3))
    held = hold_out(stream, config)
    names = {half: [one.stream.sample_name(one.position).split()[0] for one in clips] for half, clips in held.items()}
    assert len({*names["generation"]}) == 5 and len(names["reconstruction"]) == 5
    assert sum(name.startswith("varied/validation/") for name in names["reconstruction"]) in (2, 3)
    trained = {name.split(": ")[1].split()[0] for name in map(stream.sample_name, range(300)) if "varied" not in name}
    assert len(trained) == 11 and not trained & {*names["generation"], *names["reconstruction"]}  # of 16 videos
    clip = held["generation"][0].clip(tiny_pipeline().vae)
    assert clip.frames.shape == (3, 16, 16, 3) and clip.caption
    drawn = next(one for one in held["reconstruction"] if isinstance(one.stream, ProceduralStream))
    true = procedural_clip(drawn.position, "validation", 3, 16, 16, "varied")
    assert np.array_equal(drawn.clip(None).frames, true.frames)
    logged = {name.split(": ")[1] for entry in read_steps(runs[0] / "steps.jsonl") for name in entry["samples"]}
    assert not any("validation" in name for name in logged)
    for clips, message in ((16, "to hold out 16 of the 16 videos of .*cache' leaves none"), (15, "")):
        config = settings(validate_every=1, validation_clips=clips, data="cache", cache_dir=str(shards))
        stream = build_stream(config, tiny_pipeline(), 8, BatchShare(2, 3))
        if message:
            with pytest.raises(ValueError, match=message):
                hold_out(stream, config)
        else:
            hold_out(stream, config)
            assert len(stream.videos) == 1


def test_a_run_that_was_broken_off_goes_on_to_the_same_weights_and_log(runs: tuple[Path, Path]) -> None:
    assert same_result(*runs, 6) == []


def test_the_log_and_the_card_have_weights_and_counts(runs: tuple[Path, Path], shards: Path) -> None:
    counts: Counter[str] = Counter()
    for entry in read_steps(runs[1] / "steps.jsonl"):
        assert [name.split(":")[0] for name in entry["samples"][:2]].count("procedural rooms") in (1, 2)
        for half, places in entry["mixture"].items():
            counts.update({f"{half} {name}, weight {place['weight']:g}": place["clips"] for name, place in places.items()})
    assert counts == {
        "generation procedural rooms, weight 3": 8, "generation cache cache, weight 1": 2,
        "reconstruction procedural varied, weight 5": 10, "reconstruction cache cache, weight 3": 6,
        "reconstruction stream cache, weight 2": 4,
    }  # fmt: skip
    card = (runs[1] / "pipeline" / "README.md").read_text()
    assert "reconstruction_data=5 procedural varied, 3 cache cache, 2 stream cache" in card and str(shards.parent) not in card


def test_a_thousand_samples_of_three_places_are_those_that_the_plan_says(init: Path, shards: Path) -> None:
    pipeline = tiny_pipeline()
    options = {"generation_batch": 1, "reconstruction_batch": 4, "reconstruction_data": _three(shards), "num_steps": 250}
    config = settings(**options)
    stream = build_stream(config, tiny_pipeline(), 8, BatchShare(1, 4))
    names = [stream.sample_name(position) for position in range(1250)]
    found = Counter(name.split(":")[0] for name in names)
    assert found == {"procedural rooms": 250, "procedural varied": 500, "cache cache": 300, "stream cache": 200}
    shown = Counter(name.split()[2] for name in names if name.startswith("stream"))
    assert {*shown.values()} <= {12, 13} and len(shown) == 16  # 200 clips of 16 videos: every video once an epoch
    again = build_stream(settings(**options), pipeline, 8, BatchShare(2, 2, num_processes=2))
    assert [again.sample_name(position) for position in range(1250)] != names  # 4 + 4 clips a step are another plan


def test_items_of_reconstruction_have_no_captions(shards: Path) -> None:
    stream = build_stream(settings(reconstruction_data=_three(shards)), tiny_pipeline(), 8, BatchShare(2, 3))
    kept = {"latents", "depth", "valid", "intrinsics", "poses"}
    assert {*stream[0]} == kept | {"caption_ids", "caption_mask"}
    assert all({*stream[position]} == kept for position in (2, 3, 4, 7, 8, 9))


@pytest.mark.parametrize(("places", "steps"), [("stream {}", 5), ("[5 procedural varied, 3 cache {}, 4 stream {}]", 16)])
def test_a_streamed_shard_is_read_by_one_worker(shards: Path, places: str, steps: int) -> None:
    words = ["--init_from", "a", "--output_dir", "b", "--num_frames", "3", "--height", "16", "--width", "16"]
    words += ["--generation_batch", "2", "--reconstruction_batch", "3", "--num_workers", "2", "--num_steps", "40"]
    config = load_config(TrainConfig, [*words, "--reconstruction_data", places.replace("{}", str(shards))])
    stream = build_stream(config, tiny_pipeline(), 8, BatchShare(2, 3))
    parts: dict[int, set[str]] = {0: set(), 1: set()}
    for step in range(steps):  # less than an epoch of the 16 videos
        for slot in range(3):
            _, place, clip = stream.locate(5 * step + 2 + slot)
            inner = stream.halves["reconstruction"].streams[place]
            if isinstance(inner, ShardStream):
                parts[step % 2].add(inner.cache.part(inner.video_at(clip)))
    assert parts[0] and parts[1] and not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_best": "maa"}, "keep_best=maa is found by validation: set validate_every above 0"),
        ({"keep_best": "l_rec", "validate_every": 2, "reconstruction_batch": 0}, "which reconstruction_batch=0 switches off"),
        ({"validation_clips": 4}, "validation_clips=4 means nothing to validate_every=0"),
        ({"generation_data": "procedural varied"}, "generation_data, procedural varied: .*varied have no captions"),
        ({"procedural_style": "varied"}, "procedural_style=varied have no captions.*reconstruction_data"),
        ({"reconstruction_data": "cache"}, "reconstruction_data, cache: data=cache and cache_dir belong together"),
        ({"reconstruction_data": "films x"}, "a place begins with procedural, cache, videos, stream, or .* got 'x'"),
        ({"reconstruction_data": "procedural flats"}, "procedural_style must be one of .* got 'flats'"),
        ({"reconstruction_data": "0 procedural"}, "the weight of a place must be above 0, got '0'"),
        ({"reconstruction_data": {"weight": float("nan"), "data": "procedural"}}, "weight of a place must be a number, got nan"),
        ({"reconstruction_data": {"weight": 2}}, "a place needs the option data, one of procedural, cache"),
        ({"reconstruction_data": {"data": "procedural", "cache": "x"}}, "unknown option cache; DataPlace knows"),
        ({"reconstruction_data": {"data": "procedural", "cache_dir": "x"}}, "data=cache and cache_dir belong together"),
        ({"reconstruction_data": ()}, "reconstruction_data lists no place"),
        ({"reconstruction_data": (["procedural"],)}, "a place is a text or a mapping of options, got list"),
        ({"reconstruction_data": "videos realestate10k x"}, "source=realestate10k has no depth"),
        ({"reconstruction_data": "procedural", "reconstruction_batch": 0}, "means nothing to reconstruction_batch=0"),
        (
            {"generation_data": "procedural", "reconstruction_data": "procedural", "first_clip": 5},
            "first_clip=5 is read by neither half",
        ),
        (
            {"model": "dust3r", "generation_batch": 0, "reconstruction_data": "cache c"},
            "needs generation_batch=0 and data=procedural or videos, got 0 and cache",
        ),
    ],
)
def test_places_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_what_the_files_show_is_refused_with_the_place(shards: Path) -> None:
    pipeline, other = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        next(other.vae.parameters()).view(-1)[0] += 1e-3  # the smallest change counts
    for form in (f"cache {shards}", f"[procedural, 2 stream {shards}]"):
        words = ["--init_from", "a", "--output_dir", "b", "--num_frames", "3", "--height", "16", "--width", "16"]
        config = load_config(TrainConfig, [*words, "--reconstruction_data", form])
        with pytest.raises(ValueError, match=r"reconstruction_data, (cache|stream) cache: .* made with another vae"):
            build_stream(config, other, 8, BatchShare(2, 3))
    with pytest.raises(ValueError, match="reconstruction_data: the weights 33333/100000, 1 repeat only after"):
        build_stream(settings(reconstruction_data=("0.33333 procedural", "procedural varied")), pipeline, 8, BatchShare(2, 3))


def test_videos_without_captions_are_for_reconstruction_alone(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    scene = min(shared_data("sevenscenes_redkitchen").glob("clip_*"))
    as_transforms(scene, tmp_path / "posed" / scene.name)
    place = {"reconstruction_data": f"videos posed {tmp_path / 'posed'}"}
    stream = build_stream(settings(**place), tiny_pipeline(), 8, BatchShare(2, 3))
    assert stream.sample_name(2).startswith(f"videos posed posed: {scene.name} ")
    for captions, message in (
        ({}, "generation_data, videos posed posed: there is nothing to train on"),
        ({"default_caption": ""}, "no video has a caption"),
    ):
        place = {"generation_data": {"data": "videos", "source": "posed", "frames": str(tmp_path / "posed"), **captions}}
        with pytest.raises(ValueError, match=message):
            build_stream(settings(**place), tiny_pipeline(), 8, BatchShare(2, 3))


def test_a_cache_without_captions_is_not_for_the_generator(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "caption", lambda *_: CachedCaption("", np.zeros(1, np.int64), np.zeros((1, 16), np.float16)))
    for places in ({"generation_data": f"cache {shards}"}, {"data": "cache", "cache_dir": str(shards)}):
        with pytest.raises(ValueError, match="the first video of the cache .* has no caption"):
            build_stream(settings(**places), tiny_pipeline(), 8, BatchShare(2, 3))


def test_cameras_alone_learn_from_varied_scenes() -> None:
    config = settings(generation_batch=0, procedural_style="varied", first_clip=4)
    stream = build_stream(config, tiny_pipeline(), 8, BatchShare(0, 3))
    assert stream.sample_name(1).split()[0] == "varied/train/00000005"
    assert stream.describe() == {"kind": "procedural", "first_clip": 4, "seed": 0, "style": "varied"}
