"""Callbacks after each step: what they see, what they change, and that nothing of a call outlives it."""

from contextlib import nullcontext

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SD3CFGCutoffCallback, SDCFGCutoffCallback
from tiny_components import PROMPT, seeded, tiny_pipeline

from jog3r.pipelines.captions import CaptionBatch

FAST = dict(num_inference_steps=4, output_type="latent")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_callback_sees_and_changes_tensors(pipe):
    steps = []

    def stop_guiding(pipe, step, t, tensors):
        steps.append((step, int(t), sorted(tensors)))
        if step == 1:
            pipe._guidance_scale = 1.0
        return {"latents": tensors["latents"] * 1.0}

    kwargs = dict(task="t2v", generator=seeded(), **FAST)
    changed = pipe(
        PROMPT, callback_on_step_end=stop_guiding, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"], **kwargs
    )
    assert [step for step, *_ in steps] == [0, 1, 2, 3] and steps[0][2] == ["latents", "prompt_embeds"]
    assert pipe.num_timesteps == 4 and pipe.current_timestep is None
    plain = pipe(PROMPT, **{**kwargs, "generator": seeded()})
    assert not torch.equal(plain.frames, changed.frames)


def test_callback_may_exchange_the_prompt_midway(pipe):
    other = pipe.encode_prompt("a red chair")[0]
    swap = lambda pipe, step, t, tensors: {"prompt_embeds": other}
    kwargs = dict(task="t2v", callback_on_step_end_tensor_inputs=["prompt_embeds"], **FAST)
    swapped = pipe(PROMPT, callback_on_step_end=swap, generator=seeded(), **kwargs)
    assert not torch.equal(swapped.frames, pipe(PROMPT, generator=seeded(), **kwargs).frames)
    unasked = pipe(PROMPT, callback_on_step_end=swap, generator=seeded(), task="t2v", **FAST)  # what comes back counts
    assert torch.equal(unasked.frames, swapped.frames)


def test_callbacks_of_diffusers_name_their_tensors(pipe):
    run = lambda callback=None, **kwargs: (
        pipe(PROMPT, task="t2v", generator=seeded(), callback_on_step_end=callback, **kwargs, **FAST).frames
    )

    def stop_guiding(pipe, step, t, tensors):
        assert tensors == {}
        if step == 1:
            pipe._guidance_scale = 1.0

    by_hand = run(stop_guiding, callback_on_step_end_tensor_inputs=None)
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    assert torch.equal(run(cutoff), by_hand) and not torch.equal(by_hand, run())
    assert torch.equal(run(MultiPipelineCallbacks([cutoff, cutoff])), by_hand)
    with pytest.raises(ValueError, match=r"may name .*, got \['pooled_prompt_embeds'\]"):
        run(SD3CFGCutoffCallback(cutoff_step_ratio=0.5))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # two adapters are the point
def test_adapters_set_in_a_callback_reach_the_captions_too():
    peft = pytest.importorskip("peft")
    pipe = tiny_pipeline()
    for name, module in (("a", "cross_attn.to_k"), ("b", "cross_attn.to_v")):
        pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=[module], init_lora_weights=False), name)
    pipe.set_adapters("a")
    switch = lambda pipe, step, t, tensors: pipe.set_adapters("b") if step == 1 else None
    arguments = dict(task="t2v", callback_on_step_end_tensor_inputs=[], **FAST)
    switched = pipe(PROMPT, callback_on_step_end=switch, generator=seeded(), **arguments).frames
    assert not torch.equal(pipe(PROMPT, task="t2v", generator=seeded(), **FAST).frames, switched)  # "b" from the start
    pipe.set_adapters("a")
    assert not torch.equal(pipe(PROMPT, task="t2v", generator=seeded(), **FAST).frames, switched)  # "a" to the end


@pytest.mark.parametrize("fails", [False, True])
def test_public_steps_do_not_inherit_the_last_calls_settings(fails):
    pipe = tiny_pipeline()
    latents = torch.randn(1, 4, 4, 4, 4)
    before = pipe.extract_features(latents, 20, seeded())

    def callback(pipe, step, t, tensors):
        pipe._interrupt = True
        if fails:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") if fails else nullcontext():
        pipe(PROMPT, guidance_scale=7.0, attention_kwargs={"scale": 0.5}, callback_on_step_end=callback, **FAST)
    assert (pipe.guidance_scale, pipe.attention_kwargs, pipe.interrupt, pipe.current_timestep) == (1.0, None, False, None)
    assert torch.equal(pipe.extract_features(latents, 20, seeded()), before)
    timesteps, tap = pipe.prepare_timesteps(4, "t2v")
    denoised, _ = pipe.denoise(latents, CaptionBatch(*pipe.encode_prompt(PROMPT)), timesteps, tap)
    assert not torch.equal(denoised, latents)  # nothing is interrupted any more


def test_interrupting_skips_the_rest(pipe):
    def interrupt(pipe, step, t, tensors):
        pipe._interrupt = step == 1

    passes = []
    hook = pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    output = pipe(PROMPT, callback_on_step_end=interrupt, generator=seeded(), **FAST)
    hook.remove()
    assert len(passes) == 2 and output.poses is None and output.frames.shape == (1, 4, 4, 4, 4)
