"""Every scheduler and number of steps: the tap lands in its range, or the call refuses before sampling and says what helps."""

import re

import diffusers
import pytest
import torch
from tiny_components import PROMPT, seeded, tiny_pipeline

from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.reconstruction import find_tap_step, is_flow_matching, noise_latents
from jog3r.training.losses import generation_target

PLAIN = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
SPACINGS = ("leading", "linspace", "trailing")
SCHEDULERS: list[tuple[str, dict]] = [
    *(("DDPMScheduler", {**PLAIN, "timestep_spacing": spacing, "clip_sample": False}) for spacing in SPACINGS),
    *(("DDIMScheduler", {**PLAIN, "timestep_spacing": spacing, "clip_sample": False}) for spacing in SPACINGS),
    *(("DPMSolverMultistepScheduler", {**PLAIN, "solver_order": order}) for order in (1, 2, 3)),
    *(("DPMSolverMultistepScheduler", {**PLAIN, "timestep_spacing": spacing}) for spacing in ("leading", "trailing")),
    ("DPMSolverMultistepScheduler", {**PLAIN, "use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {**PLAIN, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {**PLAIN, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("DPMSolverSinglestepScheduler", PLAIN),
    *(("EulerDiscreteScheduler", {**PLAIN, "timestep_spacing": spacing}) for spacing in SPACINGS),
    *(("EulerAncestralDiscreteScheduler", {**PLAIN, "timestep_spacing": spacing}) for spacing in SPACINGS),
    ("HeunDiscreteScheduler", PLAIN),
    ("HeunDiscreteScheduler", {**PLAIN, "timestep_spacing": "trailing"}),
    ("KDPM2DiscreteScheduler", PLAIN),
    *(("UniPCMultistepScheduler", {**PLAIN, "timestep_spacing": spacing}) for spacing in SPACINGS),
    *(("PNDMScheduler", {**PLAIN, "timestep_spacing": spacing}) for spacing in SPACINGS),
    ("PNDMScheduler", {**PLAIN, "skip_prk_steps": True}),
    ("LMSDiscreteScheduler", PLAIN),
    ("LMSDiscreteScheduler", {**PLAIN, "timestep_spacing": "trailing"}),
    ("DEISMultistepScheduler", PLAIN),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]
IDS = [f"{name}-{'-'.join(str(v) for k, v in config.items() if k not in PLAIN)}" for name, config in SCHEDULERS]


@pytest.fixture(scope="module")
def parts() -> dict[str, object]:
    """Of the pipelines of all schedulers; no test changes them."""
    return {name: part for name, part in tiny_pipeline(4).components.items() if name != "scheduler"}


def build(name: str, config: dict) -> object:
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    return getattr(diffusers, name)(**config)


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=IDS)
def test_tap_lands_in_range_or_is_refused_for_any_number_of_steps(parts, name, config):
    pipe = tiny_pipeline(4, **parts, scheduler=build(name, config))
    for num_steps in (1, 2, 3, 5, 10, 19, 20, 21, 30, 50, 100, 250):
        try:
            timesteps, tap = pipe.prepare_timesteps(num_steps, "t2v+c")
        except ValueError as error:
            assert name in str(error) and "num_inference_steps" in str(error)
            if "cannot be set" in str(error):  # Runge-Kutta warm-up of PNDM
                assert name == "PNDMScheduler" and num_steps < 4
                continue
            assert "reconstruction_timestep" in str(error)
            assert float(pipe.scheduler.timesteps.min()) > 50
        else:
            assert 0 <= float(timesteps[tap]) <= 50
            assert not ((timesteps[tap + 1 :] >= 0) & (timesteps[tap + 1 :] <= 50)).any()


def test_every_remedy_that_the_refusal_names_works(parts):
    refused = spacings = 0
    for name, config in SCHEDULERS:
        pipe = tiny_pipeline(4, **parts, scheduler=build(name, config))
        try:
            pipe.prepare_timesteps(5, "t2v+c")
        except ValueError as error:
            message, refused = str(error), refused + 1
            pipe.prepare_timesteps(int(re.findall(r"num_inference_steps to (\d+)", message)[0]), "t2v+c")
            pipe.prepare_timesteps(5, "t2v+c", int(re.findall(r"reconstruction_timestep=(\d+)", message)[0]))
            for spacing in re.findall(r"timestep_spacing='(\w+)'| or '(\w+)'", message.split("(now")[0]):
                pipe.scheduler, spacings = build(name, {**config, "timestep_spacing": "".join(spacing)}), spacings + 1
                pipe.prepare_timesteps(5, "t2v+c")
    assert refused >= 10 and spacings >= 5


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=IDS)
def test_samples_with_geometry_and_the_same_pixels_as_without(parts, name, config):
    pipe = tiny_pipeline(4, **parts, scheduler=build(name, config))
    arguments = dict(num_inference_steps=8, output_type="latent", registration=False)
    with_cameras = pipe(PROMPT, generator=seeded(), reconstruction_timestep=200, **arguments)
    without = pipe(PROMPT, task="t2v", generator=seeded(), **arguments)
    assert torch.equal(with_cameras.frames, without.frames)
    assert torch.isfinite(with_cameras.pointmaps).all() and without.pointmaps is None
    assert 0 <= with_cameras.reconstruction_timestep <= 200


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=IDS)
def test_video_to_cameras_needs_no_step_of_the_schedule(parts, name, config):
    pipe = tiny_pipeline(4, **parts, scheduler=build(name, config))
    video = torch.rand(3, 16, 16, 3, generator=seeded())
    output = pipe(video=video, generator=seeded(), registration=False)
    assert output.pointmaps.shape == (1, 3, 16, 16, 3) and output.reconstruction_timestep == 20


def test_tap_is_the_last_step_in_range():
    assert find_tap_step(torch.tensor([900.0, 45.0, 20.0, 3.0]), 50) == 3
    assert find_tap_step(torch.tensor([900.0, 45.0, 60.0]), 50) == 1
    assert find_tap_step(torch.tensor([900, 51]), 50) is None
    assert find_tap_step(torch.tensor([900, 50]), 50) == 1
    assert find_tap_step(torch.tensor([900, 0]), 50) == 1


def test_sampling_is_refused_before_the_transformer_runs():
    pipe = tiny_pipeline()
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    pipe.scheduler = diffusers.DDPMScheduler(**PLAIN, timestep_spacing="trailing")
    with pytest.raises(
        ValueError, match=r"\[0, 50\].*DDPMScheduler with 10 steps visits t = 999, \.\.\., 399, 299, 199, 99.*trailing"
    ):
        pipe(PROMPT, num_inference_steps=10)
    assert not calls
    pipe(PROMPT, num_inference_steps=10, task="t2v", output_type="latent")  # plain video needs no tap


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=IDS)
def test_noise_is_what_the_scheduler_itself_mixes_in(name, config):
    """Its own noising knows the steps of a sampling alone, and the model sees the result after `scale_model_input`."""
    scheduler = build(name, config)
    latents, noise = torch.randn(3, 4, 3, 2, 2), torch.randn(3, 4, 3, 2, 2)
    levels = torch.tensor([10, 500, 990])
    early = noise_latents(scheduler, latents, noise, levels)
    scheduler.set_timesteps(50)
    assert torch.equal(noise_latents(scheduler, latents, noise, levels), early)  # of the training schedule alone
    one = noise_latents(scheduler, latents[1:2], noise[1:2], 500.0)
    torch.testing.assert_close(one, early[1:2])
    if config.get("use_karras_sigmas") or config.get("shift"):
        return  # steps that are whole numbers no more
    step = scheduler.timesteps[30:31]
    mix = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
    expected = mix(latents, step, noise) if mix else scheduler.add_noise(latents, noise, step.expand(3))
    if hasattr(scheduler, "scale_model_input"):
        scheduler.is_scale_input_called = True
        expected = scheduler.scale_model_input(expected, step[0])
    torch.testing.assert_close(noise_latents(scheduler, latents, noise, float(step)), expected, rtol=5e-3, atol=5e-3)


def test_flow_sigmas_of_a_solver_are_flow_matching_in_training_too():
    clean, noise, timesteps = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2), torch.tensor([0, 500, 1000])
    solver = build("DPMSolverMultistepScheduler", {**PLAIN, "use_flow_sigmas": True, "prediction_type": "flow_prediction"})
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), solver):
        assert is_flow_matching(scheduler)
        noisy = noise_latents(scheduler, clean, noise, timesteps)
        torch.testing.assert_close(noisy, torch.stack([clean[0], (clean[1] + noise[1]) / 2, noise[2]]))
        assert torch.equal(generation_target(clean, noise, timesteps, scheduler), noise - clean)
    assert not is_flow_matching(diffusers.DDPMScheduler(**PLAIN))
    mixed = build("DPMSolverMultistepScheduler", {**PLAIN, "use_flow_sigmas": True, "prediction_type": "v_prediction"})
    with pytest.raises(ValueError, match="without flow matching, v_prediction"):
        generation_target(clean, noise, timesteps, mixed)
    with pytest.raises(ValueError, match="EDMEulerScheduler has no training schedule"):
        noise_latents(diffusers.EDMEulerScheduler(), clean, noise, timesteps)


def test_variance_channels_go_to_schedulers_that_learn_variance_only():
    pipe = tiny_pipeline(8)
    for scheduler, width in (
        (pipe.scheduler, 8),
        (diffusers.DDPMScheduler(**PLAIN, variance_type="fixed_small"), 4),
        (diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config), 4),
        (diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, variance_type=None), 4),
    ):
        pipe.scheduler = scheduler
        timesteps, _ = pipe.prepare_timesteps(2, "t2v")
        prediction, _ = pipe.predict_noise(torch.randn(1, 4, 4, 4, 4), timesteps[0], CaptionBatch(*pipe.encode_prompt(PROMPT)))
        assert prediction.shape[1] == width


def test_variance_misfits_are_explained():
    pipe = tiny_pipeline(8)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=r"from_config\(config, variance_type=None\)"):
        pipe(PROMPT)
    with pytest.raises(ValueError, match="predicts no variance"):
        tiny_pipeline(4, scheduler=diffusers.DDPMScheduler(**PLAIN, variance_type="learned_range"))(PROMPT)


def test_opensora_steps_are_the_default_of_the_full_size_scheduler():
    pipe = tiny_pipeline()
    timesteps, tap = pipe.prepare_timesteps(100, "t2v+c")
    assert timesteps[:3].tolist() == [999, 989, 979] and timesteps[-4:].tolist() == [30, 20, 10, 0] and tap == 99
