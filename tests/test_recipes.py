"""Recipes: each loads, says what to expect, and builds the model it is for; `base` names the recipe it differs from."""

from pathlib import Path

import pytest
import torch

from jog3r.training.build import select_trainable
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.memory import build_without_weights

RECIPES = Path(__file__).resolve().parents[1] / "training" / "recipes"
FULL_SIZE = sorted([*RECIPES.glob("paper*.yaml"), *RECIPES.glob("dust3r*.yaml")])
ROWS = {  # of the paper's tables: taps, attention of the head, millions of trained weights
    "paper": ([26], "pairwise", (127.5, 115.9)),
    "paper_frozen": ([26], "pairwise", (0.0, 115.9)),
    "paper_reconstruction": ([26], "pairwise", (116.9, 115.9)),
    "paper_generation": ([26], "pairwise", (127.5, 0.0)),
    "paper_tap10": ([10], "pairwise", (127.5, 115.9)),
    "paper_tap20": ([20], "pairwise", (127.5, 115.9)),
    "paper_tap27": ([27], "pairwise", (127.5, 115.9)),
    "paper_fusion": ([10, 20, 26], "pairwise", (127.5, 115.9)),
    "paper_global": ([26], "global", (127.5, 45.0)),
    "paper_lora": ([26], "pairwise", (12.4, 115.9)),
}


def load(name: str, *words: str) -> TrainConfig:
    return load_config(TrainConfig, ["--config", str(RECIPES / f"{name}.yaml"), *words])


@pytest.mark.parametrize("path", FULL_SIZE, ids=lambda path: path.stem)
def test_recipes_open_with_command_hours_and_the_papers_result(path: Path) -> None:
    opening = path.read_text().split("\nbase:")[0].split("\ninit_from:")[0]
    assert f"accelerate launch training/train_joint.py --config training/recipes/{path.name}" in opening
    assert "Estimate" in opening and " hours on one A100" in opening and "The paper's result:" in opening


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_tables_builds_its_model(name: str) -> None:
    taps, attention, millions = ROWS[name]
    config = load(name)
    with torch.device("meta"):
        joint = build_without_weights(config)
    trained = select_trainable(joint, config)
    assert joint.transformer.feature_layers == taps and joint.pointmap_head.config.attention == attention
    assert joint.transformer.config.num_layers == 28 and joint.transformer.width == 1152
    counts = [
        sum(value.numel() for key, value in trained if key.startswith(part)) / 1e6 for part in ("transformer.", "pointmap_head.")
    ]
    assert counts == pytest.approx(millions, abs=0.6)


GENERATORS = ("wan_1_3b_head", "wan_1_3b_lora", "cogvideox_2b_lora", "ltx_lora")


@pytest.mark.parametrize("name", GENERATORS)
def test_recipes_of_other_generators_open_with_command_and_estimate(name: str) -> None:
    opening = (RECIPES / f"{name}.yaml").read_text()
    assert f"--config training/recipes/{name}.yaml" in opening and "Estimate, not run by us: about " in opening
    config = load(name)
    assert f"--window_frames {config.num_frames} --height {config.height} --width {config.width} " in opening
    assert config.init_from in opening and config.model == name.split("_")[0]


def test_a_recipe_of_another_generator_builds_its_model() -> None:
    config = load("ltx_lora")
    with torch.device("meta"):
        joint = build_without_weights(config)
    transformer, head = joint.transformer, joint.pointmap_head.config
    assert type(transformer).__name__ == "LTXVideoTransformer3DModel" and transformer.config.num_layers == 28
    assert head.feature_layers == [9, 18] and head.noise_embedding and tuple(head.noise_range) == (0.0, 0.2)
    trained = select_trainable(joint, config)
    parts = ("transformer.", "pointmap_head.")
    counts = [sum(value.numel() for key, value in trained if key.startswith(part)) / 1e6 for part in parts]
    assert counts == pytest.approx((29.4, 134.7), abs=0.1)
    frozen = [value for key, value in transformer.named_parameters() if "attn" in key and "lora" not in key]
    assert {value.dtype for value in frozen} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["dust3r", "dust3r_scratch"])
def test_the_dust3r_rows_build_the_baseline(name: str) -> None:
    config = load(name)
    with torch.device("meta"):
        model = build_without_weights(config)
    assert sum(value.numel() for _, value in select_trainable(model, config)) / 1e6 == pytest.approx(532.4, abs=1)


def test_a_recipe_states_its_difference_from_another(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "first.yaml").write_text("init_from: a\noutput_dir: b\nnum_steps: 5\nlearning_rate: 0.1\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nnum_steps: 6\n")
    (tmp_path / "deep" / "third.yaml").write_text("base: ../second.yaml\nseed: 3\n")
    config = load_config(TrainConfig, ["--config", str(tmp_path / "deep" / "third.yaml"), "--learning_rate", "0.2"])
    assert (config.num_steps, config.seed, config.learning_rate, config.init_from) == (6, 3, 0.2, "a")


def test_bases_in_a_circle_or_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    (tmp_path / "c.yaml").write_text("base: nowhere.yaml\n")
    (tmp_path / "d.yaml").write_text("base: 3\n")
    for name, message in (("a", "its own base"), ("c", "does not exist; .*c.yaml names it"), ("d", "must be the path")):
        with pytest.raises(ValueError, match=message):
            load_config(TrainConfig, ["--config", str(tmp_path / f"{name}.yaml")])


def test_the_word_no_is_a_choice_and_not_false(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("init_from: a\noutput_dir: b\nmixed_precision: no\n")
    config = load_config(TrainConfig, ["--config", str(tmp_path / "plain.yaml")])
    assert config.mixed_precision == "no"
    minimal = ["--init_from", "a", "--output_dir", "b"]
    assert load_config(TrainConfig, [*minimal, "--mixed_precision", "no"]).mixed_precision == "no"
    assert load_config(TrainConfig, [*minimal, "--train_text_encoder", "no"]).train_text_encoder is False


def test_a_rank_on_the_command_line_makes_any_recipe_lora() -> None:
    config = load("tiny_joint", "--lora_rank", "4")
    assert (config.trainable, config.lora_rank, config.train_text_encoder) == ("lora", 4, False)
    with pytest.raises(ValueError, match="lora_rank belongs to trainable=lora, got trainable=all"):
        load("tiny_joint", "--lora_rank", "4", "--trainable", "all")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push_to_hub", "true"], "push_to_hub and hub_model_id belong together"),
        (["--hub_model_id", "a/b"], "push_to_hub and hub_model_id belong together"),
        (["--model", "dust3r"], "needs generation_batch=0"),
        (["--model", "dust3r", "--generation_batch", "0", "--trainable", "none"], "is trained whole"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(TrainConfig, ["--init_from", "a", "--output_dir", "b", *words])
