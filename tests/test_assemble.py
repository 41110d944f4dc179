"""A checkpoint becomes a complete pipeline folder, or nothing at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from huggingface_hub.utils import filter_repo_objects
from original_checkpoints import dust3r_arguments, dust3r_shapes, opensora_shapes, random_weights, save_dust3r
from safetensors.torch import load_file
from tiny_components import PROMPT, tiny_pipeline, tiny_text_encoder, tiny_vae
from transformers import T5Config, T5ForConditionalGeneration

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel
from jog3r.models.conversion.convert import inspect_opensora
from jog3r.pipelines.loading.assemble import (
    _component_folder,
    _write_text_encoder,
    convert_opensora,
    opensora_scheduler,
    write_conversion,
)

CONFIG = {"num_attention_heads": 4, "sample_size": 4, "num_frames": 4, "space_scale": 1.0}
HEAD = {"head_hidden_dim": 24, "head_num_layers": 1, "head_num_attention_heads": 3}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"ema": random_weights(opensora_shapes(captions=16, length=8))}, tmp_path / "opensora.pth")
    return tmp_path / "opensora.pth"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A pipeline folder whose VAE, text encoder and tokenizer are taken."""
    tiny_pipeline().save_pretrained(tmp_path / "parts")
    return tmp_path / "parts"


def test_the_folder_is_a_pipeline_that_runs(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "folder"
    report = convert_opensora(checkpoint, out, vae=parts, text_encoder=parts, **CONFIG, **HEAD)
    assert json.loads((out / "conversion.json").read_text()) == report
    assert set(report["transformer"]["ignored"]) == {"pos_embed", "pos_embed_temporal"}
    assert [path.name for path in out.parent.iterdir()] == ["folder"]
    pipe = Jog3rPipeline.from_pretrained(out)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.config.space_scale == 1.0
    assert not pipe.pointmap_head.config.trained and "3D head is not trained yet" in (out / "README.md").read_text()
    assert pipe.pointmap_head.config.patch_size == 8 and pipe.pointmap_head.config.feature_dim == 32
    result = pipe(PROMPT, num_inference_steps=20, guidance_channels=3, output_type="pt", registration=False)
    assert result.frames.shape == (1, 4, 3, 16, 16) and result.pointmaps.shape == (1, 4, 16, 16, 3)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    pipe.save_pretrained(tmp_path / "again")
    assert files - {"conversion.json"} == {
        str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*") if p.is_file()
    }
    index = json.loads((out / "model_index.json").read_text())
    assert {
        name: value for name, value in json.loads((tmp_path / "again/model_index.json").read_text()).items() if name in index
    } == index


def test_components_may_lie_in_folders_of_their_own(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    convert_opensora(
        checkpoint,
        tmp_path / "out",
        vae=parts / "vae",
        text_encoder=parts / "text_encoder",
        tokenizer=parts / "tokenizer",
        **CONFIG,
        **HEAD,
    )
    original = (parts / "text_encoder" / "model.safetensors").read_bytes()
    assert (tmp_path / "out/text_encoder/model.safetensors").read_bytes() == original


def test_a_whole_t5_is_reduced_to_its_encoder(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    encoder = tiny_text_encoder()
    whole = T5ForConditionalGeneration(
        T5Config(**encoder.config.to_dict() | {"is_encoder_decoder": True, "num_decoder_layers": 1})
    )
    whole.save_pretrained(tmp_path / "t5")
    convert_opensora(checkpoint, tmp_path / "out", vae=parts, text_encoder=tmp_path / "t5", tokenizer=parts, **CONFIG, **HEAD)
    pipe = Jog3rPipeline.from_pretrained(tmp_path / "out")
    expected, ours = whole.encoder.state_dict(), pipe.text_encoder.encoder.state_dict()
    assert all(torch.equal(expected[name], ours[name]) for name in ours)
    assert not any("decoder" in name for name in pipe.text_encoder.state_dict())


def test_the_head_may_start_from_dust3r(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    dust3r = save_dust3r(
        tmp_path / "dust3r.pth", random_weights(dust3r_shapes(dec_depth=7, patch=8)), dust3r_arguments(dec_depth=7)
    )
    report = convert_opensora(checkpoint, tmp_path / "out", vae=parts, text_encoder=parts, dust3r=dust3r, **CONFIG)
    assert "norm_features.weight" in report["pointmap_head"]["missing"]
    head = Jog3rPipeline.from_pretrained(tmp_path / "out").pointmap_head
    assert not head.config.trained  # its decoder is, but not on what the fresh input layer gives
    assert head.config.num_layers == 6 and head.config.feature_dim == 32


def test_streamed_shards_equal_the_file(checkpoint: Path, tmp_path: Path) -> None:
    write_conversion(inspect_opensora(Jog3rTransformer3DModel, checkpoint, **CONFIG), tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    ours = Jog3rTransformer3DModel.from_pretrained(tmp_path / "sharded").state_dict()
    expected = Jog3rTransformer3DModel.from_single_file(checkpoint, **CONFIG).state_dict()
    assert set(ours) == set(expected) and all(torch.equal(ours[name], expected[name]) for name in ours)


def test_what_is_refused_leaves_nothing_behind(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    weights = random_weights(opensora_shapes(captions=16, length=8))
    weights["blocks.1.mlp.fc2.weight"][3, 5] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="nan.pth: blocks.1.mlp.fc2.weight has 1 of 4096 values that are NaN"):
        convert_opensora(tmp_path / "nan.pth", tmp_path / "out", vae=parts, text_encoder=parts, **CONFIG, **HEAD)
    assert {path.name for path in tmp_path.iterdir()} == {"nan.pth", "opensora.pth", "parts"}


def test_an_existing_folder_is_not_touched(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        convert_opensora(checkpoint, tmp_path / "out", vae=parts, text_encoder=parts, **CONFIG)


def test_components_that_do_not_fit_are_refused(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    def refuse(message: str, **sources: Path) -> None:
        with pytest.raises(ValueError, match=message):
            convert_opensora(checkpoint, tmp_path / "out", **{"vae": parts, "text_encoder": parts} | sources, **CONFIG, **HEAD)

    refuse("is a 'None' model|is a None model|T5 encoder", text_encoder=parts / "vae")
    refuse("is a T5EncoderModel|takes AutoencoderKL|cannot read", vae=parts / "text_encoder")
    refuse("has no vae", vae=tmp_path)
    refuse("cannot read .*/nowhere", vae=tmp_path / "nowhere")
    tiny_vae().__class__.from_config(dict(tiny_vae().config) | {"latent_channels": 8}).save_pretrained(tmp_path / "vae8")
    refuse("8 latent channels, the transformer 4", vae=tmp_path / "vae8")
    config = parts / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"d_model": 16', '"d_model": 24'))
    refuse("embeddings of 24 channels, the transformer reads 16", text_encoder=parts)
    (parts / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    config.write_text(config.read_text().replace('"d_model": 24', '"d_model": 16'))
    refuse("cannot read", text_encoder=parts)


def test_a_tokenizer_that_nothing_here_can_read_names_the_extra(
    checkpoint: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "spiece.model").write_bytes(b"")
    monkeypatch.setattr("jog3r.pipelines.loading.assemble.is_sentencepiece_available", lambda: False)
    with pytest.raises(ImportError, match=r"words is a spiece.model alone, .* pip install '\.\[convert\]' in the checkout"):
        convert_opensora(
            checkpoint, tmp_path / "out", vae=parts, text_encoder=parts, tokenizer=tmp_path / "words", **CONFIG, **HEAD
        )
    assert not (tmp_path / "out").exists()


def test_the_scheduler_visits_opensoras_steps() -> None:
    scheduler = opensora_scheduler()
    assert isinstance(scheduler, DDPMScheduler)
    scheduler.set_timesteps(100)
    assert scheduler.timesteps[-7:].tolist() == [61, 50, 40, 30, 20, 10, 0]


def test_pickled_text_encoders_become_safetensors(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    """The hub's XXL encoder has pickled weights only."""
    encoder = tiny_text_encoder()
    folder = tmp_path / "pickled"
    encoder.config.save_pretrained(folder)
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    convert_opensora(checkpoint, tmp_path / "out", vae=parts, text_encoder=folder, tokenizer=parts, **CONFIG, **HEAD)
    assert [path.name for path in (tmp_path / "out/text_encoder").glob("*model*")] == ["model.safetensors"]
    ours = Jog3rPipeline.from_pretrained(tmp_path / "out").text_encoder.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in encoder.state_dict().items())


def test_of_a_pipeline_on_the_hub_the_component_alone_is_fetched(parts: Path, tmp_path: Path, monkeypatch) -> None:
    asked: list[dict] = []

    def download(repository: str, **filters: list[str]) -> str:
        asked.append(filters)
        chosen = filter_repo_objects(["vae/config.json", "unet/config.json", "unet/model.safetensors", "config.json"], **filters)
        for name in chosen if repository == "a/pipeline" else [name for name in chosen if "/" not in name]:
            (tmp_path / repository / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / repository / name).touch()
        (tmp_path / repository).mkdir(parents=True, exist_ok=True)
        return str(tmp_path / repository)

    monkeypatch.setattr("jog3r.pipelines.loading.assemble.snapshot_download", download)
    patterns = ["*.json", "*.safetensors"]
    assert _component_folder("a/pipeline", "vae", patterns) == tmp_path / "a" / "pipeline" / "vae"
    assert not (tmp_path / "a" / "pipeline" / "unet").exists() and len(asked) == 1
    assert _component_folder("a/vae", "vae", patterns) == tmp_path / "a" / "vae"
    assert len(asked) == 3 and asked[-1]["ignore_patterns"] == ["*/*"]


def test_variants_of_a_text_encoder_are_not_copied(checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    tiny_text_encoder().save_pretrained(tmp_path / "both" / "text_encoder")
    tiny_text_encoder().save_pretrained(tmp_path / "both" / "text_encoder", variant="fp16")
    _write_text_encoder(tmp_path / "both", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def test_pickles_of_the_old_form_are_checked_too(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "old")
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save(weights, folder / "text_encoder" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert Jog3rPipeline.from_pretrained(folder).text_encoder is not None
