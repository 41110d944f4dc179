"""Pipelines of other generators from plain folders of diffusers, saved with the head, from other pipelines, and with LoRA."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline
from peft import LoraConfig
from tiny_components import seeded
from tiny_generators import CALLS, OURS, tiny_generator, tiny_parent

import jog3r
from jog3r import Jog3rCogVideoXPipeline, Jog3rWanPipeline
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.build import build_model
from jog3r.training.config import TrainConfig

SETTINGS = dict(num_inference_steps=2, output_type="pt", guidance_scale=1.0, reconstruction_timestep=900, registration=False)


def made(pipe: Any, name: str, **options: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red room", **CALLS[name] | SETTINGS | {"generator": seeded()} | options)


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)  # weights of a file lie elsewhere in memory


def test_wans_vae_stays_in_float32_whatever_the_rest_computes_in(plain: Path) -> None:
    pipe = load_pipeline(str(plain / "wan"), dtype=torch.bfloat16)
    assert (pipe.vae.dtype, pipe.transformer.dtype, pipe.text_encoder.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    pipe.register_modules(pointmap_head=tiny_generator("wan").pointmap_head.to(torch.bfloat16))
    found = made(pipe, "wan")
    assert torch.isfinite(found.frames).all() and torch.isfinite(found.pointmaps).all()
    assert torch.isfinite(pipe(video=found.frames, registration=False, max_sequence_length=8).pointmaps).all()
    assert load_pipeline(str(plain / "cogvideox"), dtype=torch.bfloat16).vae.dtype == torch.bfloat16


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    for name in ("wan", "cogvideox", "ltx"):
        tiny_parent(name).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_a_plain_folder_of_diffusers_loads_without_a_head(plain: Path, name: str) -> None:
    pipe = OURS[name].from_pretrained(plain / name)
    assert type(pipe) is type(load_pipeline(str(plain / name))) is OURS[name] and pipe.pointmap_head is None
    parents = {"task": "t2v", "reconstruction_timestep": None}
    close(made(pipe, name, **parents).frames, made(tiny_generator(name), name, **parents).frames)
    with pytest.raises(ValueError, match="loaded without"):
        made(pipe, name, task="t2v+c")
    pipe.pointmap_head = tiny_generator(name).pointmap_head
    assert made(pipe, name).pointmaps.isfinite().all()


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx"])
def test_saved_with_the_head_it_loads_again_with_a_card_of_its_own(tmp_path: Path, name: str) -> None:
    pipe = tiny_generator(name)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == OURS[name].__name__ and index["pointmap_head"] == ["jog3r", "Pointmap3DHead"]
    card = (tmp_path / "README.md").read_text()
    assert f"from jog3r import {OURS[name].__name__}" in card and "pointmap_head | Pointmap3DHead" in card
    assert "own licence" in card and "Warning" not in card
    close(made(load_pipeline(str(tmp_path)), name).pointmaps, made(pipe, name).pointmaps)
    without = OURS[name].from_pretrained(tmp_path, pointmap_head=None)
    assert without.pointmap_head is None and "no trained 3D head" in without.card()
    without.save_pretrained(tmp_path / "without")
    assert OURS[name].from_pretrained(tmp_path / "without").pointmap_head is None


def test_a_damaged_head_and_pipelines_of_others_are_refused(tmp_path: Path) -> None:
    pipe = tiny_generator("wan")
    pipe.save_pretrained(tmp_path)
    config = tmp_path / "pointmap_head" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"num_layers": 2}))
    with pytest.raises(ValueError, match="'pointmap_head' do not fit its config: .* are missing"):
        Jog3rWanPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a StableDiffusionPipeline; this works with Jog3rPipeline, .*WanPipeline"):
        index = json.loads((tmp_path / "model_index.json").read_text())
        (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
        load_pipeline(str(tmp_path))


def test_training_names_the_frames_that_they_take(plain: Path) -> None:
    with pytest.raises(ValueError, match="num_frames must be 1 more than a multiple of 4.*got 16; the nearest are 13 or 17"):
        build_model(tiny_generator("wan"), TrainConfig(init_from=str(plain / "wan"), output_dir="run", model="wan"))


def test_from_pipe_takes_the_parents_components_and_gives_them_back() -> None:
    parent, ours = tiny_parent("wan"), tiny_generator("wan")
    pipe = Jog3rWanPipeline.from_pipe(parent, pointmap_head=ours.pointmap_head)
    assert pipe.transformer is parent.transformer and pipe.pointmap_head is ours.pointmap_head
    assert torch.equal(made(pipe, "wan").pointmaps, made(ours, "wan").pointmaps)
    assert Jog3rWanPipeline.from_pipe(parent).pointmap_head is None
    parent.transformer.to(torch.bfloat16)
    types = {name: part.dtype for name, part in parent.components.items() if isinstance(part, torch.nn.Module)}
    mixed = Jog3rWanPipeline.from_pipe(parent, pointmap_head=ours.pointmap_head)
    assert types == {name: getattr(parent, name).dtype for name in types} and len(set(types.values())) == 2
    assert made(mixed, "wan").pointmaps.isfinite().all()
    Jog3rWanPipeline.from_pipe(parent, dtype=torch.float32)
    assert parent.transformer.dtype == torch.float32
    back = WanPipeline.from_pipe(pipe)
    assert type(back) is WanPipeline and back.transformer is parent.transformer


def test_the_parents_lora_loaders_work(tmp_path: Path) -> None:
    pipe = tiny_generator("cogvideox")
    before = made(pipe, "cogvideox").pointmaps
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    with_layers = made(pipe, "cogvideox").pointmaps
    with pytest.raises(ValueError, match="LoRA layers in place"):
        pipe.save_pretrained(tmp_path / "whole")
    from peft.utils import get_peft_model_state_dict

    Jog3rCogVideoXPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    other = tiny_generator("cogvideox")
    other.load_lora_weights(tmp_path)
    close(made(other, "cogvideox").pointmaps, with_layers)
    assert (with_layers - before).abs().max() > 1e-3
    other.fuse_lora()
    close(made(other, "cogvideox").pointmaps, with_layers)
    other.unfuse_lora()
    other.unload_lora_weights()
    close(made(other, "cogvideox").pointmaps, before)


def test_names_are_public_lazy_and_in_the_order_of_their_work() -> None:
    for cls in set(OURS.values()):
        assert getattr(jog3r, cls.__name__) is cls and cls.__name__ in jog3r.__all__
        assert cls.model_cpu_offload_seq.endswith("vae->pointmap_head") and "pointmap_head" in cls._optional_components
        assert issubclass(cls, DiffusionPipeline) and "video: path" in cls.__call__.__doc__
