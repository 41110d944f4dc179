"""The evaluation command on tiny real components; feature networks; Hugging Face modules; resuming and refusals."""

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_components import save_clip, tiny_pipeline
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from jog3r.data.files import file_hash
from jog3r.data.procedural import procedural_caption
from jog3r.evaluation import evaluate_t2vc, evaluate_v2c, load_features, module_path, pose_errors, pose_metrics, run_evaluation
from jog3r.evaluation.clips.clip_sets import ProceduralClips
from jog3r.evaluation.evaluate import EvaluationOptions
from jog3r.evaluation.modules import module_names
from jog3r.evaluation.networks.i3d import I3D, load_i3d
from jog3r.evaluation.predictions import TEXT_PARTS, Predictions, pipeline_hash
from jog3r.evaluation.report import as_json, number, t2vc_report, table, v2c_report
from jog3r.evaluation.scoring import score_closed_loop, score_v2c
from jog3r.evaluation.statistics.per_clip import load_samples

SIZE = (4, 16, 16)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def clips():
    return ProceduralClips("validation", 0, 3, *SIZE)


def perfect(clip):
    return {"poses": clip.poses, "intrinsics": clip.intrinsics, "depth": clip.depth * 0.3, "seconds": np.array(0.5)}


# ---- scoring


def test_perfect_predictions_score_full_marks_beside_the_baselines(clips):
    result = score_v2c([perfect(clip) for clip in clips], list(clips))
    model = result["first"]["model"]
    assert model["rotation_deg"] < 1e-4
    assert model["maa@30"] == 100
    assert result["all"]["model"]["num_pairs"] == 18
    assert result["first"]["constant pose"]["translation_deg"] == 90
    assert result["ratios"]["rotation_over_constant"] < 1e-4
    assert result["geometry"]["depth AbsRel % (one scale a clip)"] < 1e-3
    assert result["geometry"]["focal error %"] == 0
    for key in ("by_baseline", "by_motion"):
        assert list(result[key]) == ["model", "constant pose", "always forward"]
        assert all(sum(row["num_pairs"] for row in rows) == 9 for rows in result[key].values())
    assert result["by_baseline"]["constant pose"][0]["translation_deg"] == 90
    assert (result["geometry"]["N"], result["geometry"]["failed"]) == (3, 0)


def test_failed_clips_count_and_are_named(clips):
    predictions = [perfect(clips[0]), {"error": np.array("broke")}, perfect(clips[2])]
    scored = score_v2c(predictions, list(clips))
    assert (scored["geometry"]["N"], scored["geometry"]["failed"]) == (2, 1)
    model = scored["first"]["model"]
    assert model["num_failed"] == 1
    assert model["rotation_deg"] == pytest.approx(60, abs=1e-3)
    loop = score_closed_loop([{**perfect(clips[0]), "v2c_poses": clips[0].poses}, {"error": np.array("broke")}])
    assert loop["own video"]["num_failed"] == 1
    assert loop["own video"]["num_pairs"] == 6 and loop["shuffled pairs"]["num_pairs"] == 5 * 6
    assert loop["own video"]["rotation_deg"] == pytest.approx(90, abs=1e-3)  # half of the pairs at 180


def test_frames_without_a_pose_count_as_failed_pairs_and_are_named(pipe, clips, tmp_path):
    lost = perfect(clips[0])
    lost["poses"] = lost["poses"].copy()
    lost["poses"][2] = np.eye(4)  # what registration gives where it found none
    lost["degenerate"] = np.array(["", "planar scene", "no overlap", ""])
    result = score_v2c([lost, perfect(clips[1])], [clips[0], clips[1]])
    for relative, pairs, failed in (("first", 6, 1), ("all", 12, 3)):
        model = result[relative]["model"]
        assert (model["num_pairs"], model["num_failed_pairs"], model["num_failed"]) == (pairs, failed, 0)
        assert model["rotation_deg"] == pytest.approx(180 * failed / pairs, abs=1e-3)
        assert model["translation_deg"] == pytest.approx(180 * failed / pairs, abs=1e-2)
    loop = score_closed_loop([{**lost, "v2c_poses": clips[0].poses}, {**perfect(clips[1]), "v2c_poses": clips[1].poses}])
    assert loop["own video"]["num_failed_pairs"] == 1

    class Blind:
        """The second frame of every clip cannot be registered."""

        components = pipe.components

        def __call__(self, **arguments):
            output = pipe(**arguments)
            output.registration[0] = replace(output.registration[0], degenerate=("", "too few points", "", ""))
            return output

    result = evaluate_v2c(Blind(), clips, tmp_path / "v2c")
    assert result["first"]["model"]["num_failed_pairs"] == 3
    assert result["errors"][0] == "clip validation/00000000: no pose for frames 1 (too few points)"
    assert "Failed clips and frames" in v2c_report(result)


def test_closed_loop_compares_with_strangers(clips):
    predictions = [{**perfect(clip), "v2c_poses": clip.poses} for clip in clips]
    loop = score_closed_loop(predictions)
    assert loop["own video"]["rotation_deg"] < 1e-4
    assert loop["shuffled pairs"]["rotation_deg"] > 1
    assert loop["rotation_over_shuffled"] < 1e-3
    turned = score_v2c(predictions, list(clips))["first"]["constant pose"]["rotation_deg"]
    assert loop["constant pose"]["rotation_deg"] == pytest.approx(turned, abs=1e-4)


# ---- the two loops


def test_v2c_exports_once_and_scores_many_times(pipe, clips, tmp_path):
    result = evaluate_v2c(pipe, clips, tmp_path / "v2c")
    stored = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "v2c").iterdir()}
    assert set(stored) == {"config.json", "000000.npz", "000001.npz", "000002.npz"}
    assert evaluate_v2c(pipe, clips, tmp_path / "v2c") == result
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "v2c").iterdir()} == stored
    assert result["settings"]["N"] == 3
    assert result["settings"]["split"] == "validation"
    text = v2c_report(result)
    assert "| constant pose |" in text
    assert "seed 0" in text


def test_interrupted_export_resumes_to_the_same_result(pipe, clips, tmp_path):
    whole = evaluate_v2c(pipe, clips, tmp_path / "a")
    evaluate_v2c(pipe, ProceduralClips("validation", 0, 1, *SIZE), tmp_path / "b")
    resumed = evaluate_v2c(pipe, clips, tmp_path / "b")
    for key in ("first", "all", "by_motion"):
        assert resumed[key] == whole[key]


def test_changed_configuration_is_refused(pipe, clips, tmp_path):
    evaluate_v2c(pipe, clips, tmp_path / "v2c")
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        evaluate_v2c(pipe, clips, tmp_path / "v2c", seed=1)
    with pytest.raises(ValueError, match="clips"):
        evaluate_v2c(pipe, ProceduralClips("test", 0, 3, *SIZE), tmp_path / "v2c")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a folder of predictions"):
        evaluate_v2c(pipe, clips, tmp_path / "other")
    with pytest.raises(NotADirectoryError, match="is a file"):
        evaluate_v2c(pipe, clips, tmp_path / "other" / "letter.txt")


def test_both_directions_are_read_where_asked_for(pipe, clips, tmp_path):
    one, both = (evaluate_v2c(pipe, clips, tmp_path / str(k), **call) for k, call in enumerate(({}, {"both_directions": True})))
    assert "V2C both directions" in v2c_report(both) and "both directions" not in v2c_report(one)
    assert both["first"]["model"]["rotation_deg"] != one["first"]["model"]["rotation_deg"]
    captions = [procedural_caption(k, "validation") for k in range(2)]
    sampling = {"num_inference_steps": 20}
    found = evaluate_t2vc(pipe, captions, tmp_path / "t", sampling=sampling, both_directions=True)
    assert found["settings"]["V2C"] == "both directions" and found["closed_loop"]["own video"]["num_failed"] == 0


def test_registration_options_stand_in_the_settings(pipe, clips, tmp_path):
    call = {"registration_kwargs": {"method": "fast", "shared_focal": False}}
    text = v2c_report(evaluate_v2c(pipe, [clips[0]], tmp_path, **call))
    assert "registration shared_focal False" in text and "registration method" not in text


def test_given_clips_are_told_apart_by_their_content(pipe, clips, tmp_path):
    evaluate_v2c(pipe, [clips[0]], tmp_path / "v2c")
    with pytest.raises(ValueError, match="sha256"):
        evaluate_v2c(pipe, [clips[1]], tmp_path / "v2c")


def test_wrong_calls_raise_and_broken_clips_are_recorded(pipe, clips, tmp_path, caplog):
    with pytest.raises(ValueError, match="backwards"):
        evaluate_v2c(pipe, clips, tmp_path / "a", registration_kwargs={"method": "backwards"})
    assert not list((tmp_path / "a").iterdir())  # a call that cannot work does not claim the folder

    class SometimesBroken:
        components, calls = pipe.components, 0

        def __call__(self, **arguments):
            SometimesBroken.calls += 1
            output = pipe(**arguments)
            if SometimesBroken.calls == 2:
                output.poses = output.poses * float("nan")
            if SometimesBroken.calls == 3:
                raise torch.linalg.LinAlgError("singular")
            return output

    with caplog.at_level(logging.WARNING):
        result = evaluate_v2c(SometimesBroken(), clips, tmp_path / "b")
    assert result["first"]["model"]["num_failed"] == 2
    assert [line for line in result["errors"] if "no pose" not in line] == [
        "clip validation/00000001: poses not finite",
        "clip validation/00000002: singular",
    ]
    assert "singular" in caplog.text


def test_a_first_clip_that_fails_stops_nothing(pipe, clips, tmp_path):
    class FailsOn:
        components = pipe.components

        def __init__(self, *numbers, same=True):
            self.numbers, self.same, self.calls = numbers, same, 0

        def __call__(self, **arguments):
            self.calls += 1
            if self.calls - 1 in self.numbers:
                raise ValueError("broken" if self.same else f"broken {self.calls}")
            return pipe(**arguments)

    for failing in ((0,), (0, 1)):
        folder = tmp_path / str(len(failing))
        result = evaluate_v2c(FailsOn(*failing), clips, folder)
        assert result["first"]["model"]["num_failed"] == len(failing)
        assert [line for line in result["errors"] if "broken" in line] == [f"clip validation/0000000{k}: broken" for k in failing]
        assert {path.name for path in folder.iterdir()} == {"config.json", *(f"00000{k}.npz" for k in range(3))}
    with pytest.raises(ValueError, match="broken"):
        evaluate_v2c(FailsOn(0, 1, 2), clips, tmp_path / "all")
    assert not list((tmp_path / "all").iterdir())
    assert evaluate_v2c(FailsOn(0, 1, 2, same=False), clips, tmp_path / "unlike")["first"]["model"]["num_failed"] == 3


def test_too_few_frames_for_fvd_are_refused_at_the_start(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    save_file(I3D(num_classes=2).state_dict(), tmp_path / "i3d.safetensors")
    options = {"model": str(tmp_path / "model"), "out": str(tmp_path / "out"), "fvd": str(tmp_path / "i3d.safetensors")}
    with pytest.raises(ValueError, match="FVD needs clips of at least 9 frames, these have 4"):
        run_evaluation(task="t2vc", num_frames=4, captions=2, **options)
    assert not (tmp_path / "out").exists()


def test_results_are_json_that_every_reader_takes():
    results = {"a": float("nan"), "b": [np.float64(1.5), float("inf")], "c": {"d": np.int64(3), "e": None, "f": True}}
    plain = as_json(results)
    assert json.dumps(plain, allow_nan=False) == '{"a": null, "b": [1.5, null], "c": {"d": 3, "e": null, "f": true}}'
    assert table({"row": plain}, {"a": "A"}).endswith("| row | - |")


def test_t2vc_makes_every_table(pipe, clips, tmp_path):
    captions = [procedural_caption(k, "validation") for k in range(3)]
    result = evaluate_t2vc(pipe, captions, tmp_path, clips, sampling={"num_inference_steps": 2})
    assert set(result["captions"]) == {
        "generated, motion by V2C",
        "chance (other captions)",
        "real clips through the VAE, motion by V2C",
        "real clips as rendered, true motion",
    }
    assert result["captions"]["real clips as rendered, true motion"]["motion"] == 100
    assert result["consistency"]["real as rendered, true geometry"]["met3r_self"] < 0.05
    assert all("frame_difference" in row for row in result["consistency"].values())
    assert result["distributions"] == {}
    assert json.loads(json.dumps(as_json({name: part for name, part in result.items() if name != "samples"})))
    text = t2vc_report(result)
    assert "shuffled pairs" in text
    assert "num_inference_steps 2" in text
    with pytest.raises(ValueError, match="one real clip for each"):
        evaluate_t2vc(pipe, captions[:2], tmp_path, clips)


def test_t2vc_with_free_captions_and_a_feature_network(pipe, tmp_path, dino, caplog):
    with caplog.at_level(logging.WARNING):
        result = evaluate_t2vc(
            pipe, ["a red chair", "blue walls"], tmp_path, features=load_features(dino), sampling={"num_inference_steps": 2}
        )
    assert result["captions"] == {}
    assert "not a procedural caption" in caplog.text
    assert result["settings"]["features"].startswith("vit at 32 px, sha256 ")
    assert set(result["consistency"]) == {"generated, geometry of T2V+C", "generated, geometry of V2C"}


def test_run_evaluation_from_a_folder(pipe, tmp_path, dino):
    pipe.save_pretrained(tmp_path / "model")
    places = dict(model=str(tmp_path / "model"), out=str(tmp_path / "out"), features=str(dino))
    places |= dict(text_network=str(save_clip(tmp_path / "clip")))
    options = dict(task="all", clips=1, captions=4, split="validation", num_inference_steps=2, **places)
    results = run_evaluation(**options)
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["v2c"]["first"]["model"]["num_pairs"] == 3
    assert set(stored["v2c"]["first"]["model"]["rotation_deg"]) == {"value", "low", "high", "n"}
    assert {path.name for path in (tmp_path / "out").glob("*.*")} == {
        *("results.json", "results.md", "results.tex", "per_clip.npz", "timings.json")
    }
    assert (tmp_path / "out" / "results.md").read_text() == results["markdown"]
    (network,) = results["t2vc"]["distributions"]
    assert network.startswith("vit at 32 px")
    rows = results["t2vc"]["distributions"][network]
    assert rows["Fréchet"]["distance"].n == 4 and rows["kernel floor, real against real"]["distance"].n == 2
    ((name, rows),) = results["t2vc"]["text agreement"].items()
    assert name.startswith("clip at 16 px") and rows["generated"]["N"] == rows["real clips through the VAE"]["N"] == 4
    assert f"agreement with the caption: {name}" in results["markdown"]
    assert results["v2c"]["settings"]["weights"] == pipeline_hash(pipe, TEXT_PARTS) != pipeline_hash(pipe)
    # video to cameras goes on from there, and reads no text encoder
    (tmp_path / "model" / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    unused = dict.fromkeys(("text_network", "features", "videos"))
    again = run_evaluation(**{**options, **unused, "task": "v2c", "captions": None, "num_inference_steps": 30})
    assert again["v2c"]["settings"]["weights"] == results["v2c"]["settings"]["weights"]
    # what was there of the other task stays, to the letter; of another model it is refused
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == stored and again["markdown"] == results["markdown"]
    assert set(load_samples(tmp_path / "out")) == {"v2c", "t2vc"}
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds results of t2vc of .*model' by jog3r .*, not of .*other' by"):
        run_evaluation(task="v2c", model=tmp_path / "other", out=tmp_path / "out", clips=1)


def test_fingerprint_sees_weights_and_settings(pipe):
    before = pipeline_hash(pipe)
    assert pipeline_hash(tiny_pipeline()) == before
    other = tiny_pipeline()
    with torch.no_grad():
        next(other.pointmap_head.parameters()).view(-1)[0] += 1e-3
    assert pipeline_hash(other) != before
    other = tiny_pipeline()
    other.scheduler = type(other.scheduler).from_config(other.scheduler.config, beta_end=0.03)
    assert pipeline_hash(other) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "t2v"}, "v2c, t2vc, all"),
        ({"split": "train"}, "held-out"),
        ({"captions": 1}, "videos must be at least 2"),
        ({"smoothness_translation": -1.0}, "weights must be >= 0"),
        ({"smoothness_focal": 1.0}, "add focal_per_frame"),
        ({"features_sha256": "0"}, "without features"),
        ({"fvd_sha256": "0"}, "without fvd"),
    ],
)
def test_options_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**{"task": "all", "model": "m", "out": "o", **change})


def test_registration_options_reach_the_call():
    plain, paper = (
        EvaluationOptions(task="all", model="m", out="o", **change)
        for change in ({}, {"registration": "reference", "smoothness_focal": 0.1, "focal_per_frame": True})
    )
    assert plain.registration_kwargs() == {"method": "fast"}  # as in folders of predictions made before
    assert paper.registration_kwargs() == {"method": "reference", "smoothness_focal": 0.1, "shared_focal": False}


def test_unknown_options_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown evaluation option clip; there are source"):
        run_evaluation(task="all", model="m", out="o", clip=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        run_evaluation(task="all", model="m", out=str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"clips 0\.\.9999"):
        ProceduralClips("test", 9999, 2, *SIZE)


def test_predictions_leave_no_half_written_file(tmp_path):
    store = Predictions(tmp_path / "p", {"a": (1, 2)})
    assert store.missing(["000000", "1"]) == ["000000", "1"]
    store.save("000000", {"x": np.arange(3)})
    assert store.missing(["000000", "1"]) == ["1"]
    assert store.load("000000")["x"].tolist() == [0, 1, 2]
    assert {path.name for path in store.folder.iterdir()} == {"config.json", "000000.npz"}
    Predictions(tmp_path / "p", {"a": [1, 2]})


def test_table_of_numbers():
    assert number(float("nan")) == number(None) == "-"
    assert [number(value) for value in (123.456, 12.345, 0.1234, 7, "x")] == ["123.5", "12.35", "0.123", "7", "x"]
    assert table({"r": {"a": 1.0}}, {"a": "A", "b": "B"}) == "|  | A | B |\n|---|---|---|\n| r | 1.00 | - |"


# ---- feature networks


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A ViT of DINO v1's format: config, preprocessor config, safetensors."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ViTModel(ViTConfig(**settings, image_size=32, patch_size=8)).save_pretrained(folder)
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def test_dino_features_equal_the_model_itself(dino):
    network = load_features(dino, file_hash(dino / "model.safetensors"))
    pictures = torch.rand(2, 3, 32, 48)
    dense = network.dense(pictures)
    assert dense.shape == (2, 16, 4, 6)
    model = ViTModel.from_pretrained(dino).eval()
    with torch.no_grad():
        tokens = model(pixel_values=(pictures - 0.5) / 0.5, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(dense, tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    torch.testing.assert_close(network.pooled(pictures), tokens[:, 0])
    assert network.clip((np.random.default_rng(0).random((5, 20, 24, 3)) * 255).astype(np.uint8)).shape == (32,)
    with pytest.raises(ValueError, match=r"\(N,3,H,W\)"):
        network.dense(pictures[0])


def test_dinov2_with_another_patch_size(tmp_path):
    settings = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1)
    Dinov2Model(Dinov2Config(**settings, image_size=28, patch_size=14)).save_pretrained(tmp_path)
    network = load_features(tmp_path, image_size=30)
    assert network.dense(torch.rand(1, 3, 64, 64)).shape == (1, 16, 2, 2)
    assert network.pooled(torch.rand(3, 3, 64, 64)).shape == (3, 16)


def test_feature_networks_are_pinned(dino, tmp_path):
    with pytest.raises(ValueError, match="not the network that was pinned"):
        load_features(dino, "0" * 64)
    with pytest.raises(ValueError, match="must be pinned"):
        load_features("facebook/dino-vits16")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="convert them to safetensors"):
        load_features(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "t5", "d_model": 8, "num_layers": 1, "d_kv": 4, "num_heads": 2})
    )
    save_file({"shared.weight": torch.zeros(1, 1)}, tmp_path / "model.safetensors")
    with pytest.raises((ValueError, RuntimeError)):
        load_features(tmp_path)


def test_i3d_has_the_published_size_and_names():
    with torch.device("meta"):
        network = I3D()
    state = network.state_dict()
    assert sum(value.numel() for value in network.parameters()) == 12_697_264
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4e.b2b.conv3d.weight"].shape == (64, 32, 3, 3, 3)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)


def test_i3d_from_both_formats_gives_the_same_logits(tmp_path):
    torch.manual_seed(0)
    state = I3D(num_classes=5).state_dict()
    save_file(state, tmp_path / "i3d.safetensors")
    torch.save(state, tmp_path / "i3d.pt")
    clip = np.random.default_rng(0).integers(0, 255, (9, 24, 32, 3), dtype=np.uint8)
    first = load_i3d(tmp_path / "i3d.safetensors", file_hash(tmp_path / "i3d.safetensors"))
    logits = first.clip(clip)
    assert logits.shape == (5,)
    np.testing.assert_array_equal(load_i3d(tmp_path / "i3d.pt").clip(clip), logits)
    with pytest.raises(ValueError, match="at least 9 frames"):
        first.clip(clip[:8])
    with pytest.raises(ValueError, match="pinned"):
        load_i3d(tmp_path / "i3d.pt", "0" * 64)
    with pytest.raises(ValueError, match="is no file"):
        load_i3d(tmp_path / "none.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no I3D state dict"):
        load_i3d(tmp_path / "other.pt")
    torch.save({"logits.conv3d.weight": torch.zeros(5, 1024, 1, 1, 1)}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="does not fit I3D"):
        load_i3d(tmp_path / "part.pt")


# ---- Hugging Face evaluate


def test_evaluate_modules_equal_the_functions(clips, tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert module_names() == ["frechet_distance", "kernel_distance", "met3r_self", "pose_errors", "pose_metrics"]

    def load(name):
        return evaluate.load(module_path(name), cache_dir=str(tmp_path / "cache"))

    true = [clip.poses for clip in clips]
    predicted = [clips[k].poses for k in (1, 2, 0)]
    expected = pose_metrics([pose_errors(a, b, "all") for a, b in zip(predicted, true, strict=True)])
    got = load("pose_metrics").compute(predictions=predicted, references=true, relative="all")
    assert got == pytest.approx(expected, nan_ok=True)
    errors = load("pose_errors").compute(predictions=predicted, references=true)
    assert errors["rotation_deg"][0] == pytest.approx(pose_errors(predicted[0], true[0]).rotation_deg.tolist())

    from jog3r.evaluation import frechet_distance

    a, b = np.random.default_rng(0).normal(size=(2, 12, 3))
    assert load("frechet_distance").compute(predictions=a, references=b)["frechet_distance"] == pytest.approx(
        frechet_distance(a, b)
    )
    assert load("kernel_distance").compute(predictions=a, references=b)["subset_size"] == 12
    grid = np.stack([*np.meshgrid(np.arange(6) / 6 - 0.5, np.arange(6) / 6 - 0.5), np.ones((6, 6))], -1)
    points = [np.stack([grid, grid]).astype(np.float32)] * 2
    frames = [np.full((2, 6, 6, 3), 0.5, np.float32)] * 2
    cameras = [np.tile(np.array([[6.0, 0, 3], [0, 6, 3], [0, 0, 1]], np.float32), (2, 1, 1))] * 2
    score = load("met3r_self").compute(frames=frames, pointmaps=points, intrinsics=cameras)
    assert score["frame_difference"] == 0
    assert score["met3r_self"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="'fid'"):
        module_path("fid")
