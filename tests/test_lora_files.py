"""LoRA files of several origins, hot swapping, and what is saved while layers are in place."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_components import PROMPT, seeded, tiny_pipeline

from jog3r import Jog3rPipeline

peft = pytest.importorskip("peft")
LAYER = "transformer_blocks.0.spatial_attn.to_q"
RANKS = {"to_q": 2, "to_k": 3}


def adapter(transformer, alpha: float | None = None, **patterns: object) -> dict[str, torch.Tensor]:
    """Layers of rank 2, of `to_k` 3, as peft names them, and in the transformer, too; alpha None is the rank."""
    config = peft.LoraConfig(
        r=2,
        lora_alpha=alpha or 2,
        target_modules=list(RANKS),
        rank_pattern={"to_k": 3},
        alpha_pattern={"to_k": 3} if alpha is None else {},
        init_lora_weights=False,
        **patterns,
    )
    transformer.add_adapter(config)
    return {name: value.clone() for name, value in peft.get_peft_model_state_dict(transformer).items()}


def frames(pipe) -> torch.Tensor:
    return pipe(PROMPT, task="t2v", num_inference_steps=1, output_type="latent", generator=seeded()).frames


@torch.compiler.set_stance("force_eager")  # wrapped, and not traced, which takes seconds
def test_layers_are_loaded_into_a_compiled_model(tmp_path: Path, trained: tuple) -> None:
    layers, expected = trained
    Jog3rPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe = tiny_pipeline()
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(frames(pipe), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Layers, and what a pipeline makes with them."""
    pipe = tiny_pipeline()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return adapter(pipe.transformer), frames(pipe)


@pytest.mark.parametrize("prefix", ["transformer.", "", "base_model.model.", "diffusion_model.", "base_model.model.transformer."])
def test_names_of_every_origin_load(trained, prefix: str) -> None:
    layers, expected = trained
    pipe = tiny_pipeline()
    assert not torch.equal(frames(pipe), expected)
    pipe.load_lora_weights({prefix + name: value for name, value in layers.items()})
    assert pipe.get_list_adapters() == {"transformer": ["default_0"]}
    torch.testing.assert_close(frames(pipe), expected, rtol=1e-4, atol=1e-4)


def test_alphas_scale_the_layers(trained) -> None:
    layers, expected = trained
    pipe, given = tiny_pipeline(), {}
    for name, value in layers.items():
        path, half = name.split(".lora_")
        given[f"diffusion_model.{path}.lora_{'down' if half[0] == 'A' else 'up'}.weight"] = value / (4 if half[0] == "B" else 1)
        given[f"diffusion_model.{path}.alpha"] = torch.tensor(4.0 * RANKS[path.rpartition(".")[2]])
    pipe.load_lora_weights(given)
    torch.testing.assert_close(frames(pipe), expected, rtol=1e-4, atol=1e-4)


def test_a_folder_of_peft_loads_with_its_rank_and_alpha_patterns(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["to_q", "to_v"],
        rank_pattern={"to_v": 1},
        alpha_pattern={"to_v": 5},
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(pipe.transformer, config)
    wrapped.save_pretrained(tmp_path)
    expected = frames(pipe)
    again = tiny_pipeline()
    again.load_lora_weights(tmp_path)
    torch.testing.assert_close(frames(again), expected, rtol=1e-4, atol=1e-4)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 6  # else the test says nothing
    again.unload_lora_weights()
    again.load_lora_weights(tmp_path / "adapter_model.safetensors")
    torch.testing.assert_close(frames(again), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda layers: {f"unet.{name}": value for name, value in layers.items()},
            "'unet.*belongs to no layer of Jog3rTransformer3D",
        ),
        (lambda layers: {f"pointmap_head.{name}": value for name, value in layers.items()}, "belongs to no layer"),
        (lambda layers: {f"lora_unet_{name.replace('.', '_')}": value for name, value in layers.items()}, "belongs to no layer"),
        (lambda layers: {name: value for name, value in layers.items() if ".lora_B" not in name}, "has no other half"),
        (lambda layers: {name: value.new_zeros(3, 3) for name, value in layers.items()}, "has shape .*in_features=16"),
        (lambda layers: {}, "holds no layer"),
        (lambda layers: {**layers, f"{LAYER}.weight": torch.zeros(1)}, "no LoRA layers"),
        (lambda layers: {**layers, f"{LAYER}x.alpha": torch.zeros(1)}, "belongs to no pair"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(trained, tmp_path: Path, change, message: str) -> None:
    pipe, layers = tiny_pipeline(), change(trained[0])
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights(layers)
    if layers:
        save_file({name: value.contiguous() for name, value in layers.items()}, tmp_path / "any.safetensors")
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(tmp_path, weight_name="any.safetensors")
    assert pipe.get_list_adapters() == {}


def test_saving_takes_diffusers_arguments_in_diffusers_order(trained, tmp_path: Path) -> None:
    layers, expected = trained
    Jog3rPipeline.save_lora_weights(tmp_path, layers, True, "mine.safetensors", None, True)
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path, weight_name="mine.safetensors", adapter_name="mine")
    torch.testing.assert_close(frames(pipe), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="unknown options for loading LoRA weights: strength"):
        pipe.load_lora_weights(tmp_path, strength=1)


def test_adapters_are_swapped_in_a_compiled_model_without_compiling_again(trained) -> None:
    layers, expected = trained
    other = {name: value * 0.5 for name, value in layers.items()}
    fresh = tiny_pipeline()
    fresh.load_lora_weights(other)
    pipe = tiny_pipeline()
    pipe.enable_lora_hotswap(target_rank=4)
    pipe.load_lora_weights(layers, adapter_name="swapped")
    torch.compiler.reset()
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(frames(pipe), expected, rtol=1e-4, atol=1e-4)
    with torch._dynamo.config.patch(error_on_recompile=True):
        pipe.load_lora_weights(other, adapter_name="swapped", hotswap=True)
        torch.testing.assert_close(frames(pipe), frames(fresh), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # several adapters are the point
@pytest.mark.parametrize("part", ["transformer", "pointmap_head"])
def test_nothing_is_saved_while_layers_are_in_place(tmp_path: Path, part: str) -> None:
    pipe = tiny_pipeline()
    model = getattr(pipe, part)
    for name in ("first", "second"):
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), name)
    for saved in (pipe, model):
        with pytest.raises(ValueError, match=r"has LoRA layers in place.*fuse_lora\(\) and unload_lora\(\)"):
            saved.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    run = dict(num_inference_steps=1, output_type="latent", registration=False, reconstruction_timestep=999)
    expected = pipe(PROMPT, generator=seeded(), **run)
    model.fuse_lora()  # the remedy
    model.unload_lora()
    pipe.save_pretrained(tmp_path / "folder")
    output = Jog3rPipeline.from_pretrained(tmp_path / "folder")(PROMPT, generator=seeded(), **run)
    torch.testing.assert_close(output.frames, expected.frames, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.pointmaps, expected.pointmaps, rtol=1e-3, atol=1e-3)
