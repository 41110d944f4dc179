"""Configurations: recipes load, overrides win, and what does not fit is refused by name."""

import dataclasses
from pathlib import Path

import pytest

from jog3r.evaluation.evaluate import EvaluationOptions
from jog3r.training import train_joint
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.option_help import option_texts
from jog3r.training.preparation.prepare_config import PrepareConfig
from jog3r.training.tiny_model import train_vae
from jog3r.training.tiny_model.train_vae import VaeConfig

RECIPES = Path(__file__).resolve().parents[1] / "training" / "recipes"
MINIMAL = ["--init_from", "a", "--output_dir", "b"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_opens_with_its_command(path: Path) -> None:
    config = load_config(VaeConfig if "vae" in path.stem else TrainConfig, ["--config", str(path)])
    assert config.output_dir
    assert path.name in "".join(line for line in path.read_text().splitlines()[:4] if line.startswith("#"))


def test_options_override_the_recipe() -> None:
    recipe = str(RECIPES / "tiny_joint.yaml")
    config = load_config(TrainConfig, ["--config", recipe, "--num_steps", "7", "--learning_rate=2e-4", "--tracker", "none"])
    assert (config.num_steps, config.learning_rate, config.tracker) == (7, 2e-4, "none")
    assert config.num_frames == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "1"], "unknown option learning_rat"),
        (["--num_steps", "many"], "num_steps must be"),
        (["--num_steps", "1.5"], "num_steps must be"),
        (["--num_steps", "true"], "num_steps must be"),
        (["--num_steps"], "needs a value"),
        (["--num_steps", "1", "--num_steps", "2"], "given twice"),
        (["num_steps", "1"], "expected an option"),
        (["--optimizer", "sgd"], "must be one of"),
        (["--attention_backend", "sage"], "must be one of"),  # it has no gradients
        (["--generation_batch", "0", "--reconstruction_batch", "0"], "not both 0"),
        (["--num_frames", "1"], "pairs of frames"),
        (["--pairs_per_clip", "0"], "pairs_per_clip"),
        (["--ema_decay", "1"], "ema_decay"),
        (["--caption_dropout", "2"], "caption_dropout is a share between 0 and 1"),
        (["--max_missing_share", "5"], "max_missing_share is a share"),
        (["--loader_timeout", "-1"], "loader_timeout must be at least 0"),
        (["--keep_checkpoints", "0"], "keep_checkpoints"),
        (["--sample_every", "-1"], "sample_every must be at least 0, got -1"),
        (["--max_reconstruction_timestep", "-1"], "max_reconstruction_timestep must be at least 0"),
        (["--trainable", "temporal", "--frozen_blocks", "-1"], "frozen_blocks must be at least 0"),
        (["--max_grad_norm", "-1"], "max_grad_norm must be at least 0"),
        (["--num_threads", "0"], "num_threads must be at least 1, got 0"),
        (["--train_text_encoder", "true", "--generation_batch", "0"], "train_text_encoder=true needs generation_batch > 0"),
        (["--trainable", "none", "--reconstruction_batch", "0"], "3D head"),
        (["--head_attention", "global", "--reconstruction_batch", "0"], "head_attention starts a fresh head"),
        (["--config", "nowhere.yaml"], "does not exist"),
        (["--data", "cache", "--cache_dir", "c", "--edge_threshold", "0"], "edge_threshold must be above 0"),
        (["--data", "cache", "--cache_dir", "c", "--agreement_threshold", "-1"], "agreement_threshold must be above 0"),
        (["--trainable", "lora", "--lora_alpha", "0"], "lora_alpha must be above 0"),
        (["--first_clip", "-3"], "first_clip must be at least 0, got -3"),
        (["--height", "0"], "height must be at least 1"),
        (["--warmup_steps", "-5"], "warmup_steps must be at least 0"),
        (["--reconstruction_warmup_steps", "-1"], "reconstruction_warmup_steps must be at least 0"),
        (["--confidence_alpha", "-1"], "confidence_alpha must be at least 0"),
        (["--learning_rate", "-1e-4"], "learning_rate must be at least 0"),
        (["--matrix_learning_rate", "0.5"], "matrix_learning_rate belongs to optimizer=muon, got optimizer=adamw"),
        (["--trainable", "all", "--frozen_blocks", "14"], "frozen_blocks=14 belongs to trainable=temporal, got trainable=all"),
        (["--optimizer", "muon", "--matrix_learning_rate", "-1"], "matrix_learning_rate must be at least 0"),
        (["--weight_decay", "-0.1"], "weight_decay must be at least 0"),
        (["--reconstruction_weight", "-1"], "reconstruction_weight must be at least 0"),
        (["--stop_after_minutes", "-1"], "stop_after_minutes must be at least 0"),
        (["--learning_rate", ".nan"], "learning_rate must be a finite number, got nan"),
        (["--reverse_probability", "0"], "reverse_probability=0.0 means nothing to data=procedural; it is for cache"),
        (["--edge_threshold", "null"], "edge_threshold=None means nothing to data=procedural"),
        (["--agreement_threshold", "0.1"], "agreement_threshold=0.1 means nothing to data=procedural"),
        (["--max_missing_share", "0.5"], "max_missing_share=0.5 means nothing to data=procedural"),
        (["--data", "cache", "--cache_dir", "c", "--first_clip", "7"], "first_clip=7 means nothing to data=cache"),
    ],
)
def test_refusals_name_the_option(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(TrainConfig, [*MINIMAL, *words])


def test_texts_on_the_command_line_stand_as_they_are_and_null_is_nothing() -> None:
    words = ["--output_dir", "5", "--model", "m", "--default_caption", "a room: the kitchen", "--captions", "*.json"]
    words += ["--frames", "[x", "--depth", "none", "--split", "null", "--source", "realestate10k", "--num_threads", "null"]
    config = load_config(PrepareConfig, words)
    assert (config.output_dir, config.default_caption, config.captions) == ("5", "a room: the kitchen", "*.json")
    assert (config.frames, config.depth, config.split, config.num_threads) == ("[x", "none", None, None)
    for nothing in ("~", "Null", "NULL", ""):
        assert load_config(TrainConfig, [*MINIMAL, f"--compile_backend={nothing}"]).compile_backend is None
    assert load_config(TrainConfig, [*MINIMAL, "--push_to_hub", "true", "--hub_model_id", "@me/x"]).hub_model_id == "@me/x"


def test_what_is_no_yaml_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, line in (("seed: 1\n\tnum_steps: 2\n", 2), ("seed: 1\nlora_targets: [a\n", 3), ("a: 1\nb: @x\n", 2)):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"recipe .*recipe.yaml', line {line} is no yaml"):
            load_config(TrainConfig, ["--config", str(path)])
    for word in ("[a", "@x", "*.json"):
        with pytest.raises(ValueError, match="the value of --lora_targets, line 1 is no yaml"):
            load_config(TrainConfig, [*MINIMAL, "--lora_targets", word])
    path.write_text("1: 2\nother: 3\n")
    with pytest.raises(ValueError, match="unknown option 1, other"):
        load_config(TrainConfig, ["--config", str(path)])


def test_help_shows_all_options_with_meaning_and_default(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        train_joint.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"  --{field.name} " in text
    assert "--init_from TEXT\n      pipeline folder to start from (must be given)" in text
    assert "what is trained:\n  --trainable all|temporal|lora|named|none\n      of the transformer; temporal is" in text
    assert "--num_threads INTEGER\n      of torch, on a CPU (default: null)" in text
    for config in (TrainConfig, PrepareConfig, EvaluationOptions):
        assert [name for name, meaning in option_texts(config).items() if not meaning] == []


def test_a_mistyped_option_of_a_plain_script_ends_in_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        train_vae.main(["--output_dir", "x", "--num_step", "3"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown option num_step; VaeConfig knows batch_size")


def test_preparing_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        load_config(PrepareConfig, ["--output_dir", "a", "--model", "b", "--num_threads", "0"])


def test_missing_options_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="init_from must be given"):
        load_config(TrainConfig, ["--output_dir", "b"])
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="yaml mapping"):
        load_config(TrainConfig, ["--config", str(tmp_path / "list.yaml")])
    with pytest.raises(ValueError, match="decoder_only"):
        load_config(VaeConfig, ["--output_dir", "x", "--decoder_only", "true"])
    (tmp_path / "notepad.yaml").write_text("num_steps: 3", encoding="utf-16")
    with pytest.raises(ValueError, match=r"notepad.yaml' is no UTF-8 text"):
        load_config(VaeConfig, ["--config", str(tmp_path / "notepad.yaml")])
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        load_config(VaeConfig, ["--output_dir", "x", "--checkpoint_every", "0"])


def test_a_choice_of_a_recipe_is_undone_by_null() -> None:
    config = load_config(TrainConfig, [*MINIMAL, "--keep_best", "null", "--attention_backend", "null"])
    assert config.keep_best is None and config.attention_backend is None


def test_no_text_encoder_where_no_caption_is_read() -> None:
    assert load_config(TrainConfig, MINIMAL).embeds_captions
    assert not load_config(TrainConfig, [*MINIMAL, "--generation_batch", "0"]).embeds_captions
