"""The pipeline samples as OpenSora 1.0 does: its schedule, its variance, its guidance and its caption masks (tolerance 1e-4)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from original_checkpoints import original_weights

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel
from jog3r.pipelines.loading.assemble import opensora_scheduler

TOLERANCE = 1e-4
Parity = Callable[[str], tuple[dict, dict[str, torch.Tensor]]]


@pytest.fixture
def pipe(parity: Parity, tmp_path: Path) -> Jog3rPipeline:
    info, tensors = parity("iddpm_model")
    torch.save(original_weights(tensors), tmp_path / "model.pth")
    config = parity("iddpm_sample16")[0]["model_config"]
    transformer = Jog3rTransformer3DModel.from_single_file(
        tmp_path / "model.pth",
        num_attention_heads=config["num_heads"],
        space_scale=config["space_scale"],
        sample_size=config["input_size"][1],
        num_frames=config["input_size"][0],
    )
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=["DownEncoderBlock2D"] * 4, latent_channels=4, norm_num_groups=2
    )
    pipe = Jog3rPipeline(vae, None, None, transformer, None, opensora_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Run:
    """One call with the recorded noise; keeps the latents after each step."""

    def __init__(self, pipe: Jog3rPipeline, info: dict, tensors: dict, monkeypatch: pytest.MonkeyPatch, **options: Any):
        recorded: Iterator[torch.Tensor] = iter(tensors["noise"])
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *arguments, **named: next(recorded))
        self.states: list[torch.Tensor] = []
        self.timesteps: list[int] = []
        arguments = {
            "task": "t2v",
            "latents": tensors["in.z_T"],
            "prompt_embeds": tensors["in.y"][:, 0],
            "prompt_attention_mask": tensors["in.mask"],
            "num_inference_steps": info["num_sampling_steps"],
            "guidance_scale": info["cfg_scale"],
            "guidance_channels": 3,
            "num_frames": 4,
            "height": 64,
            "width": 64,
            "output_type": "latent",
            "callback_on_step_end": self.keep,
        }
        self.final = pipe(**arguments | options).frames

    def keep(self, pipe: Jog3rPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        self.states.append(tensors["latents"].clone())
        self.timesteps.append(int(timestep))
        return {}


@pytest.mark.parametrize("name", ["iddpm_sample16", "iddpm_sample100"])
def test_a_whole_run_follows_the_recorded_one(
    name: str, pipe: Jog3rPipeline, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, tensors = parity(name)
    run = Run(pipe, info, tensors, monkeypatch)
    assert run.timesteps == info["timesteps_seen_by_model"]
    for index, step in enumerate(info["kept_steps"]):
        assert (run.states[step] - tensors["traj"][index]).abs().max() < TOLERANCE, f"after step {step}"
    assert (run.final - tensors["final"]).abs().max() < TOLERANCE


def test_guiding_all_channels_is_not_what_opensora_does(
    pipe: Jog3rPipeline, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, tensors = parity("iddpm_sample16")
    run = Run(pipe, info, tensors, monkeypatch, guidance_channels=None)
    assert (run.final - tensors["final"]).abs().max() > 100 * TOLERANCE


def test_a_null_caption_that_sees_all_its_tokens_is_not_what_opensora_does(
    pipe: Jog3rPipeline, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, tensors = parity("iddpm_sample16")
    run = Run(pipe, info, tensors, monkeypatch, negative_prompt_embeds=pipe.transformer.null_caption[None].expand(2, -1, -1))
    assert (run.final - tensors["final"]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["iddpm_sample16", "iddpm_sample100"])
def test_single_steps_of_the_scheduler(name: str, parity: Parity, monkeypatch: pytest.MonkeyPatch) -> None:
    info, tensors = parity(name)
    scheduler = opensora_scheduler()
    scheduler.set_timesteps(info["num_sampling_steps"])
    noise = torch.ones_like(tensors["step.x"][:1])
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *arguments, **named: noise)
    for index, step in enumerate(tensors["step.t_index"].tolist()):
        timestep = scheduler.timesteps.flip(0)[step]
        sample = slice(index, index + 1)
        result = scheduler.step(tensors["step.model_out"][sample], timestep, tensors["step.x"][sample])
        assert torch.allclose(result.pred_original_sample, tensors["step.pred_x0"][sample], rtol=1e-4, atol=1e-4)
        std = (0.5 * tensors["step.log_variance"][sample]).exp() if timestep else 0.0
        assert torch.allclose(result.prev_sample, tensors["step.mean"][sample] + std, rtol=1e-4, atol=1e-4)


def test_the_scheduler_is_saved_with_opensoras_settings(tmp_path: Path) -> None:
    opensora_scheduler().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    expected = {"beta_schedule": "linear", "variance_type": "learned_range", "clip_sample": False, "timestep_spacing": "linspace"}
    assert {name: config[name] for name in expected} == expected
    assert DDPMScheduler.from_pretrained(tmp_path).betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
