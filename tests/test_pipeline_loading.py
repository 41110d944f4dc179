"""Saving and loading: folder, offline hub cache, fresh process, no remote code; what does not fit is refused."""

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import PixArtAlphaPipeline
from safetensors.torch import load_file, save_file
from tiny_components import PROMPT, seeded, tiny_pipeline
from tiny_generators import CALLS, tiny_generator

from jog3r import Jog3rPipeline, tiny_checkpoint
from jog3r.models import saving
from jog3r.pipelines.latents import decode_frames, encode_frames

ROOT = Path(__file__).resolve().parents[1]
RUN = dict(num_inference_steps=2, output_type="latent", registration=False)


@pytest.fixture
def copy(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected():
    return tiny_pipeline()(PROMPT, generator=seeded(), **RUN)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_index_names_the_package(model):
    index = json.loads((model / "model_index.json").read_text())
    assert index["_class_name"] == "Jog3rPipeline"
    assert index["transformer"] == ["jog3r", "Jog3rTransformer3DModel"] and index["pointmap_head"] == ["jog3r", "Pointmap3DHead"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]


def test_round_trip_is_exact(model, expected):
    pipe = quiet(Jog3rPipeline.from_pretrained(model))
    output = pipe(PROMPT, generator=seeded(), **RUN)
    assert torch.equal(output.frames, expected.frames) and torch.equal(output.pointmaps, expected.pointmaps)
    assert pipe.name_or_path == str(model)


def test_optional_components_may_be_left_out_at_loading(model):
    pipe = Jog3rPipeline.from_pretrained(model, text_encoder=None, tokenizer=None, pointmap_head=None)
    assert pipe.text_encoder is None and pipe.pointmap_head is None and pipe.transformer is not None


def test_a_pipeline_without_head_saves_and_loads(tmp_path):
    tiny_pipeline(pointmap_head=None).save_pretrained(tmp_path)
    assert Jog3rPipeline.from_pretrained(tmp_path).pointmap_head is None


def test_half_precision_variant(model, tmp_path):
    Jog3rPipeline.from_pretrained(model).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    pipe = Jog3rPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert pipe.transformer.dtype == pipe.pointmap_head.dtype == torch.float16


def test_sharded_weights(model, tmp_path):
    Jog3rPipeline.from_pretrained(model).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    Jog3rPipeline.from_pretrained(tmp_path)


FRESH = """
import gc
gc.disable()
import sys
import torch
from jog3r import Jog3rPipeline, tiny_checkpoint
pipe = Jog3rPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
output = pipe("a room with blue walls", generator=torch.Generator().manual_seed(0), num_inference_steps=2,
              output_type="latent", registration=False)
print(f"{output.frames.double().sum().item():.3f}")
"""
GENERIC = """
import jog3r
from diffusers import AutoModel, DiffusionPipeline
folder = sys.argv[2]
print(type(AutoModel.from_pretrained(folder, subfolder="transformer")) is jog3r.Jog3rTransformer3DModel)
print(type(DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)) is Jog3rPipeline)
"""
OTHER_GENERATOR = """
pipes = [cls.from_pretrained(sys.argv[3]) for cls in (jog3r.Jog3rWanPipeline, DiffusionPipeline)]
print(all(type(pipe) is jog3r.Jog3rWanPipeline and pipe.makes_cameras for pipe in pipes))
outputs = []
for pipe in pipes:
    pipe.set_progress_bar_config(disable=True)
    outputs.append(pipe("a red room", generator=torch.Generator().manual_seed(0), **{call}).pointmaps)
torch.save(outputs, sys.argv[4])
"""


def run_fresh(code, *arguments, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_a_fresh_process_loads_from_an_offline_hub_cache_and_by_generic_loaders(model, expected, tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--jog3r-tiny"
    shutil.copytree(model, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    other = quiet(tiny_generator("wan"))
    other.save_pretrained(tmp_path / "wan")
    call = CALLS["wan"] | RUN | dict(output_type="pt", guidance_scale=1.0, reconstruction_timestep=900)
    places = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    code = FRESH + GENERIC + OTHER_GENERATOR.replace("{call}", repr(call))
    total, *found = run_fresh(code, "someone/jog3r-tiny", model, tmp_path / "wan", tmp_path / "maps.pt", **places).split()
    assert float(total) == pytest.approx(expected.frames.double().sum().item(), abs=0.01)
    assert found == ["True"] * 3
    here = other("a red room", generator=seeded(), **call).pointmaps
    for there in torch.load(tmp_path / "maps.pt"):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("component", "change", "message"),
    [
        ("transformer", {"num_layers": 4}, r"'transformer' do not fit its config: \d+ weights are missing, such as"),
        ("transformer", {"num_layers": 2}, r"'transformer' do not fit its config: \d+ weights belong to no layer"),
        (
            "pointmap_head",
            {"attention": "global"},
            r"'pointmap_head' do not fit its config: \d+ weights are missing.*belong to no",
        ),
        ("transformer", {"num_attention_heads": 3}, "shape"),
        ("vae", {"layers_per_block": 2}, "'vae' do not fit its config"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(copy, component, change, message):
    path = copy / component / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        Jog3rPipeline.from_pretrained(copy)


def test_in_half_precision_the_points_are_projected_in_float32(copy):
    video = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = Jog3rPipeline.from_pretrained(copy)(video=video, generator=seeded(), registration=False).pointmaps
    pipe = Jog3rPipeline.from_pretrained(copy, dtype=torch.bfloat16)
    head = pipe.pointmap_head
    assert head.dtype == head.proj_in.weight.dtype == torch.bfloat16
    assert head.norm_out.weight.dtype == head.proj_points_other.bias.dtype == torch.float32
    kept = pipe(video=video, generator=seeded(), registration=False).pointmaps
    for module in (head.norm_out, head.proj_points_anchor, head.proj_points_other):
        module.to(torch.bfloat16)
    rounded = pipe(video=video, generator=seeded(), registration=False).pointmaps
    errors = [float((points - exact).norm(dim=-1).median()) for points in (kept, rounded)]
    assert kept.dtype == torch.float32 and errors[0] < errors[1]


def test_a_missing_tensor_is_refused(copy):
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["null_caption"]
    save_file(weights, path)
    with pytest.raises(ValueError, match="1 weights are missing, such as 'null_caption'"):
        Jog3rPipeline.from_pretrained(copy)


def test_a_vae_under_diffusers_older_names_is_whole(copy):
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(path)
    renamed = {re.sub(r"to_q|to_k|to_v|to_out\.0", lambda found: older[found[0]], name): value for name, value in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, path, {"format": "pt"})
    vae = Jog3rPipeline.from_pretrained(copy).vae
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


def test_a_missing_tensor_of_a_pickled_file_is_refused(copy):
    folder = copy / "transformer"
    Jog3rPipeline.from_pretrained(copy).transformer.save_pretrained(folder, safe_serialization=False)
    (folder / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    assert Jog3rPipeline.from_pretrained(copy).transformer.null_caption.isfinite().all()
    file = folder / "diffusion_pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    del weights["null_caption"]
    torch.save(weights, file)
    with pytest.raises(ValueError, match="1 weights are missing, such as 'null_caption'"):
        Jog3rPipeline.from_pretrained(copy)


def test_a_missing_tensor_of_the_text_encoder_is_refused(copy):
    path = copy / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="'text_encoder' do not fit its config: 1 weights are missing, such as .*SelfAttention.q"
    ):
        Jog3rPipeline.from_pretrained(copy)


def test_a_decoder_beside_the_text_encoder_does_not_matter(copy):
    path = copy / "text_encoder" / "model.safetensors"
    save_file({**load_file(path), "decoder.final_layer_norm.weight": torch.ones(4)}, path, metadata={"format": "pt"})
    assert Jog3rPipeline.from_pretrained(copy).text_encoder is not None


@pytest.mark.parametrize("component", ["text_encoder/model", "vae/diffusion_pytorch_model"])
def test_a_file_that_is_cut_off_is_refused(copy, component):
    path = copy / f"{component}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises((ValueError, OSError), match="damaged|[Uu]nable to load|incomplete"):
        Jog3rPipeline.from_pretrained(copy)


def test_card_and_shim_are_written_but_never_over_existing_ones(model, tmp_path):
    card = (model / "README.md").read_text()
    assert "from jog3r import Jog3rPipeline" in card and "Pointmap3DHead" in card
    assert "Jog3rPipeline" in (model / "pipeline.py").read_text()
    (tmp_path / "README.md").write_text("mine")
    tiny_pipeline().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_parts_that_were_taken_out_and_put_back_are_saved(tmp_path):
    pipe = tiny_pipeline()
    parts = {name: getattr(pipe, name) for name in ("text_encoder", "pointmap_head")}
    for name in parts:
        setattr(pipe, name, None)
    pipe.register_modules(**pipe.components)  # as a pipeline that was loaded without them
    for name, part in parts.items():
        setattr(pipe, name, part)
    pipe.save_pretrained(tmp_path)
    again = Jog3rPipeline.from_pretrained(tmp_path)
    assert again.text_encoder is not None and again.pointmap_head is not None


@torch.compiler.set_stance("force_eager")  # wrapped, and not traced, which takes seconds
def test_a_compiled_vae_is_still_one_of_images():
    pipe = tiny_pipeline()
    frames = torch.rand(1, 2, 3, 16, 16, generator=seeded())
    latents = encode_frames(pipe.vae, frames)
    shown = decode_frames(pipe.vae, latents)
    compiled = torch.compile(pipe.vae, backend="eager")
    torch.testing.assert_close(encode_frames(compiled, frames), latents)
    torch.testing.assert_close(decode_frames(compiled, latents), shown)


def test_from_pipe_shares_components():
    pipe = tiny_pipeline()
    again = Jog3rPipeline.from_pipe(pipe)
    assert again.transformer is pipe.transformer and again.scheduler is pipe.scheduler
    plain = Jog3rPipeline.from_pipe(pipe, pointmap_head=None)
    assert plain.pointmap_head is None and plain.vae is pipe.vae
    other = PixArtAlphaPipeline(pipe.tokenizer, pipe.text_encoder, pipe.vae, None, pipe.scheduler)
    mixed = Jog3rPipeline.from_pipe(other, transformer=pipe.transformer, pointmap_head=pipe.pointmap_head)
    assert mixed.text_encoder is pipe.text_encoder and mixed.transformer is pipe.transformer


def test_full_size_card_and_properties():
    pipe = tiny_pipeline()
    assert (pipe.token_size, pipe.default_size, pipe.max_video_frames) == (8, 16, 64)
    assert pipe.output_size(None, None, None) == (4, 16, 16)


def test_the_example_of_the_docstring_runs_on_the_bundled_checkpoint():
    if not Path(tiny_checkpoint()).is_dir():
        pytest.skip("the bundled checkpoint is not there")
    text = Jog3rPipeline.__call__.__doc__.split("Examples:")[1]
    assert "num_inference_steps=30" in text
    text = text.replace("num_inference_steps=30", "num_inference_steps=4, reconstruction_timestep=300")  # quicker
    example = doctest.DocTestParser().get_doctest(textwrap.dedent(text).replace("```", ""), {}, "example", None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert len(example.examples) == 9 and runner.run(example).failed == 0


def test_a_pipeline_without_transformer_encodes_prompts_saves_and_loads(model, tmp_path, expected):
    nothing = dict(transformer=None, vae=None, scheduler=None, pointmap_head=None)
    pipe = Jog3rPipeline.from_pretrained(model, **nothing)
    embeds, mask, negative, negative_mask = pipe.encode_prompt(PROMPT)
    assert negative is None and negative_mask is None  # the null caption is the transformer's: left to the call
    assert pipe.encode_prompt(PROMPT, negative_prompt="a chair")[2].shape == embeds.shape
    whole = quiet(Jog3rPipeline.from_pretrained(model, text_encoder=None, tokenizer=None))
    output = whole(prompt_embeds=embeds, prompt_attention_mask=mask, generator=seeded(), **RUN)
    torch.testing.assert_close(output.frames, expected.frames, rtol=1e-4, atol=1e-4)
    pipe.save_pretrained(tmp_path / "text")
    again = Jog3rPipeline.from_pretrained(tmp_path / "text")
    assert torch.equal(again.encode_prompt(PROMPT)[0], embeds)
    assert "not a whole pipeline: vae, transformer, scheduler must be passed" in (tmp_path / "text" / "README.md").read_text()
    with pytest.raises(ValueError, match="loaded without vae, transformer, scheduler"):
        again(PROMPT)
    again.tokenizer.model_max_length = int(1e30)
    with pytest.raises(ValueError, match="pass max_sequence_length"):
        again.encode_prompt(PROMPT)
    assert torch.equal(again.encode_prompt(PROMPT, max_sequence_length=8)[0], embeds)
    with pytest.raises(ValueError, match="no text encoder or no tokenizer"):
        whole.encode_prompt(PROMPT)


def test_without_a_head_a_prompt_means_video_alone(model, expected):
    pipe = quiet(Jog3rPipeline.from_pretrained(model, pointmap_head=None))
    output = pipe(PROMPT, generator=seeded(), num_inference_steps=2, output_type="latent")
    torch.testing.assert_close(output.frames, expected.frames, rtol=1e-4, atol=1e-4)
    assert output.pointmaps is None


def test_uploaded_parts_say_what_they_are(monkeypatch, tmp_path):
    """The upload itself needs the hub; what would go up is looked at here."""
    pipe, cards = tiny_pipeline(), []
    monkeypatch.setattr(saving, "create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(saving, "file_exists", lambda *_, **__: False)
    for part in (pipe, pipe.transformer, pipe.pointmap_head):
        monkeypatch.setattr(
            type(part), "_upload_folder", lambda _, folder, *__, **___: cards.append(Path(folder, "README.md").read_text())
        )
        part.push_to_hub("me/mine")
        with pytest.raises(ValueError, match="call push_to_hub"):
            part.save_pretrained(tmp_path, push_to_hub=True)
    assert "Jog3rPipeline.from_pretrained" in cards[0]
    assert "The video transformer" in cards[1] and "Jog3rTransformer3DModel.from_pretrained" in cards[1]
    assert "The 3D head" in cards[2] and "from jog3r import Pointmap3DHead" in cards[2] and "- feature_dim: 16" in cards[2]
