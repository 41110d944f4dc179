"""The modular blocks: bit for bit the classic pipeline, from components, from its folder and from a folder of their own."""

import inspect
import logging
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from diffusers.modular_pipelines import ComponentSpec, SequentialPipelineBlocks
from tiny_components import PROMPT, seeded, tiny_head, tiny_pipeline

from jog3r import Jog3rPipeline, Jog3rTransformer3DModel, tiny_checkpoint
from jog3r.pipelines.captions import CaptionBatch
from jog3r.pipelines.modular import (
    Jog3rModularBlocks,
    Jog3rModularBlocksT2V,
    Jog3rModularBlocksT2VC,
    Jog3rModularBlocksV2C,
)
from jog3r.pipelines.modular.block_base import ARGUMENTS, COMPONENTS, Jog3rBlock

GEOMETRY = ("pointmaps", "confidence", "depth", "poses", "intrinsics")
FAST = dict(num_inference_steps=4, output_type="pt")
VIDEO = torch.rand(1, 4, 16, 16, 3, generator=seeded(3))
BLOCKS = {"t2v": Jog3rModularBlocksT2V, "t2v+c": Jog3rModularBlocksT2VC, "v2c": Jog3rModularBlocksV2C}
# For each task, calls that reach its options.
CALLS = {
    "t2v": [
        dict(prompt=PROMPT, negative_prompt="a red chair", num_videos_per_prompt=2, **FAST),
        dict(prompt=[PROMPT, "the floor"], guidance_scale=1.0, num_frames=1, height=8, width=24, **FAST),
    ],
    "t2v+c": [
        dict(prompt=PROMPT, **FAST),
        dict(prompt=PROMPT, guidance_channels=3, reconstruction_timestep=400, registration=False, decode_chunk_size=1, **FAST),
        dict(prompt_embeds=torch.rand(1, 5, 16, generator=seeded(2)), latents=torch.rand(1, 4, 4, 4, 4), **FAST),
    ],
    "v2c": [
        dict(video=VIDEO),
        dict(video=VIDEO, height=24, width=16, reconstruction_timestep=300, both_directions=True, output_type="latent"),
    ],
}


@pytest.fixture(scope="module")
def classic():
    return tiny_pipeline()


def modular(blocks, classic):
    pipe = blocks().init_pipeline()
    names = {spec.name for spec in blocks().expected_components}
    pipe.update_components(**{name: part for name, part in classic.components.items() if name in names})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(state, output):
    """Frames (tensors, or lists of PIL images), geometry and the head's own prediction, to the last bit."""
    frames = (state.frames, output.frames)
    assert torch.equal(*frames) if isinstance(frames[0], torch.Tensor) else frames[0] == frames[1]
    for name in GEOMETRY:
        ours, theirs = state.get(name), output.get(name)
        assert (ours is None and theirs is None) or torch.equal(ours, theirs), name
    if output.pairwise is not None:
        assert torch.equal(state.pairwise.pointmaps, output.pairwise.pointmaps)
        assert state.reconstruction_timestep == output.reconstruction_timestep


@pytest.mark.parametrize(("task", "call"), [(task, call) for task, calls in CALLS.items() for call in calls])
def test_results_are_bit_for_bit_those_of_the_classic_pipeline(classic, task, call):
    output = classic(task=task, generator=seeded(), **call)
    for state in (
        modular(BLOCKS[task], classic)(generator=seeded(), **call),
        modular(Jog3rModularBlocks, classic)(task=task, generator=seeded(), **call),
    ):
        assert_same(state, output)
        registered = task != "t2v" and call.get("registration", True)
        assert (state.get("poses") is not None) == (state.get("registrations") is not None) == registered


def test_without_a_task_the_input_chooses_it(classic):
    pipe = modular(Jog3rModularBlocks, classic)
    assert_same(pipe(prompt=PROMPT, generator=seeded(), **FAST), classic(PROMPT, generator=seeded(), **FAST))
    assert_same(pipe(video=VIDEO, generator=seeded()), classic(video=VIDEO, generator=seeded()))
    found = pipe(video=VIDEO, generator=seeded(), output=["poses", "intrinsics"])
    assert found["poses"].shape == (1, 4, 4, 4) and found["intrinsics"].shape == (1, 4, 3, 3)


def test_options_of_schedulers_and_layers_arrive():
    classic = tiny_pipeline(out_channels=4, scheduler=DDIMScheduler(clip_sample=False))
    pipe, seen = modular(Jog3rModularBlocks, classic), []
    hook = lambda module, args, kwargs: seen.append(kwargs["attention_kwargs"])
    classic.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    for options in (dict(eta=0.7), dict(attention_kwargs={"scale": 0.5})):
        assert_same(
            pipe(prompt=PROMPT, generator=seeded(), **options, **FAST), classic(PROMPT, generator=seeded(), **options, **FAST)
        )
    assert seen == 8 * [None] + 8 * [{"scale": 0.5}]
    pipe(video=VIDEO, attention_kwargs={"scale": 2.0})
    assert seen[-1] == {"scale": 2.0}


def test_calls_leave_nothing_behind(classic):
    pipe = modular(Jog3rModularBlocks, classic)
    calls = [dict(prompt=PROMPT, **FAST), dict(video=VIDEO)]
    first = [pipe(generator=seeded(), **call).poses for call in calls]
    again = [pipe(generator=seeded(), **call).poses for call in reversed(calls)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


class Note(Jog3rBlock):
    reads = ("latents",)
    uses = ("transformer",)
    seen = []

    def run(self, steps, values):
        self.seen.append(values.latents)
        return {}


def test_a_block_of_ones_own_goes_between_two(classic):
    blocks = Jog3rModularBlocksT2V()
    blocks.sub_blocks.insert("note", Note(), list(blocks.sub_blocks).index("denoise"))
    pipe = blocks.init_pipeline()
    pipe.update_components(**classic.components)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.rand(1, 4, 4, 4, 4, generator=seeded(5))
    state = pipe(prompt=PROMPT, latents=noise, generator=seeded(), **FAST)
    assert_same(state, classic(PROMPT, task="t2v", latents=noise, generator=seeded(), **FAST))
    assert len(Note.seen) == 1 and torch.equal(Note.seen[0], noise)


def test_the_blocks_come_apart(classic):
    """Captions from one pipeline go to another one without text encoder, and gives the same."""
    blocks = Jog3rModularBlocksT2VC()
    encoder = SequentialPipelineBlocks.from_blocks_dict({"encode_prompt": blocks.sub_blocks.pop("encode_prompt")}).init_pipeline()
    encoder.update_components(text_encoder=classic.text_encoder, tokenizer=classic.tokenizer, transformer=classic.transformer)
    rest = blocks.init_pipeline()
    names = [spec.name for spec in blocks.expected_components if spec.name not in ("text_encoder", "tokenizer")]
    rest.update_components(**{name: classic.components[name] for name in names})
    rest.set_progress_bar_config(disable=True)
    captions = encoder(prompt=PROMPT, output=list(CaptionBatch.names))
    assert_same(rest(**captions, generator=seeded(), **FAST), classic(PROMPT, generator=seeded(), **FAST))


REFUSED = [
    ("t2v+c", {}),
    ("t2v+c", dict(prompt="")),
    ("t2v+c", dict(prompt=PROMPT, video=VIDEO)),
    ("t2v", dict(video=VIDEO)),
    ("t2v", dict(prompt=PROMPT, height=17)),
    ("t2v", dict(prompt=PROMPT, num_inference_steps=2.5)),
    ("t2v", dict(prompt=PROMPT, both_directions=True)),
    ("t2v+c", dict(prompt=PROMPT, num_frames=1)),
    ("t2v+c", dict(prompt=PROMPT, latents=torch.zeros(1, 4, 4, 4, 5))),
    ("t2v+c", dict(prompt=PROMPT, num_inference_steps=4, reconstruction_timestep=0.5, guidance_scale="much")),
    ("t2v+c", dict(prompt=PROMPT, registration_kwargs={"methd": "fast"})),
    ("v2c", dict(prompt=PROMPT)),
    ("v2c", dict(video=VIDEO, num_frames=4)),
    ("v2c", dict(video=VIDEO, height=16)),
    ("v2c", dict(video=VIDEO * 255)),
    ("v2c", dict(video=VIDEO, generator=[seeded(), seeded()])),
    ("v2c", dict(video="there_is_none.mp4")),
    ("v2c", dict(video=VIDEO, output_type="gif")),
]


@pytest.mark.parametrize(("task", "call"), REFUSED)
def test_bad_input_is_refused_as_by_the_classic_pipeline(classic, task, call):
    with pytest.raises((ValueError, TypeError)) as theirs:
        classic(task=task, **call)
    for blocks, named in ((BLOCKS[task], {}), (Jog3rModularBlocks, {"task": task})):
        with pytest.raises(theirs.type) as ours:
            modular(blocks, classic)(**named, **call)
        assert str(ours.value) == str(theirs.value)


def test_a_schedule_without_a_step_for_the_features_is_refused():
    classic = tiny_pipeline(out_channels=4, scheduler=DDIMScheduler(timestep_spacing="trailing"))
    with pytest.raises(ValueError, match="raise num_inference_steps") as ours:
        modular(Jog3rModularBlocksT2VC, classic)(prompt=PROMPT, **FAST)
    with pytest.raises(ValueError, match="raise num_inference_steps") as theirs:
        classic(PROMPT, **FAST)
    assert str(ours.value) == str(theirs.value)


def test_tasks_that_blocks_cannot_do_are_refused(classic):
    with pytest.raises(ValueError, match="task must be one of .* got 'v2v'"):
        modular(Jog3rModularBlocks, classic)(prompt=PROMPT, task="v2v")
    with pytest.raises(ValueError, match="""these blocks do task "t2v" and no other, got task 'v2c'"""):
        modular(Jog3rModularBlocksT2V, classic)(video=VIDEO, task="v2c")


def test_components_that_are_missing_are_named(classic):
    with pytest.raises(ValueError, match="CheckInputs needs transformer, vae, scheduler, not loaded so far"):
        Jog3rModularBlocksV2C().init_pipeline()(video=VIDEO)
    pipe = modular(Jog3rModularBlocks, tiny_pipeline(text_encoder=None, pointmap_head=None))
    with pytest.raises(ValueError, match="needs the pointmap head"):
        pipe(prompt=PROMPT)
    with pytest.raises(ValueError, match="no text encoder"):
        pipe(prompt=PROMPT, task="t2v")


def test_an_untrained_head_is_told_of_once(caplog):
    pipe = modular(Jog3rModularBlocksV2C, tiny_pipeline(pointmap_head=tiny_head(trained=False)))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="jog3r"):
        for _ in range(2):
            pipe(video=VIDEO, registration=False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_arguments_are_those_of_the_classic_call():
    call = inspect.signature(Jog3rPipeline.__call__).parameters
    without = {"self", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs"}
    assert set(ARGUMENTS) == set(call) - without
    defaults = Jog3rModularBlocks().init_pipeline().default_call_parameters
    assert defaults == {name: call[name].default for name in ARGUMENTS}


def test_each_task_asks_for_its_components_only():
    names = {task: {spec.name for spec in blocks().expected_components} for task, blocks in BLOCKS.items()}
    assert names["t2v"] == set(COMPONENTS) - {"pointmap_head"} and names["t2v+c"] == set(COMPONENTS)
    assert names["v2c"] == set(COMPONENTS) - {"text_encoder", "tokenizer"}
    for blocks in (*BLOCKS.values(), Jog3rModularBlocks):
        text = blocks().doc
        assert all(f"{spec.name} (`" in text for spec in blocks().expected_components) and "guidance_scale (`float`" in text
    chosen = Jog3rModularBlocks().get_execution_blocks(video=VIDEO)
    assert [spec.name for spec in chosen.expected_components] == list(BLOCKS["v2c"]().component_names)


def test_a_classic_folder_loads_component_by_component():
    pipe = Jog3rModularBlocks().init_pipeline(tiny_checkpoint())
    assert set(pipe.null_component_names) == set(COMPONENTS)
    for name in COMPONENTS:
        spec = pipe.get_component_spec(name)
        assert (spec.pretrained_model_name_or_path, spec.subfolder) == (tiny_checkpoint(), name)
    pipe.load_components()
    pipe.set_progress_bar_config(disable=True)
    classic = Jog3rPipeline.from_pretrained(tiny_checkpoint())
    classic.set_progress_bar_config(disable=True)
    call = dict(num_inference_steps=2, reconstruction_timestep=600, num_frames=3, height=32, width=32, output_type="pt")
    prompt = "a room with blue walls and a brown floor, with a red sofa, the camera moves forward"
    state = pipe(prompt=prompt, generator=seeded(), **call)
    assert_same(state, classic(prompt, generator=seeded(), **call))
    video = state.frames.permute(0, 1, 3, 4, 2)
    assert_same(pipe(video=video, generator=seeded()), classic(video=video, generator=seeded()))


def test_a_spec_of_ones_own_loads_from_a_classic_folder():
    specs = [
        ComponentSpec(
            "transformer", Jog3rTransformer3DModel, pretrained_model_name_or_path=tiny_checkpoint(), subfolder="transformer"
        ),
        ComponentSpec("vae", AutoencoderKL, pretrained_model_name_or_path=tiny_checkpoint(), subfolder="vae"),
    ]
    pipe = Jog3rModularBlocksV2C().init_pipeline()
    pipe.update_components(**{spec.name: spec.load() for spec in specs})
    classic = Jog3rPipeline.from_pretrained(tiny_checkpoint(), text_encoder=None, tokenizer=None)
    for name in ("transformer", "vae"):
        weights = getattr(classic, name).state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in getattr(pipe, name).state_dict().items())


@pytest.mark.parametrize("blocks", [Jog3rModularBlocks, Jog3rModularBlocksV2C])
def test_saved_and_loaded_it_gives_the_same(classic, tmp_path, blocks):
    pipe = modular(blocks, classic)
    folder, moved = tmp_path / "saved", tmp_path / "moved"
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    before = pipe(video=VIDEO, generator=seeded())
    for place in (folder, moved):
        if place is moved:
            folder.rename(moved)
        loaded = blocks().init_pipeline(str(place))
        loaded.load_components()
        assert loaded.null_component_names == [] and {type(part) for part in loaded.components.values()} == {
            type(part) for part in pipe.components.values()
        }
        after = loaded(video=VIDEO, generator=seeded())
        assert all(torch.equal(before.get(name), after.get(name)) for name in GEOMETRY)
    assert (moved / "modular_model_index.json").is_file() and not (moved / "model_index.json").exists()
    with pytest.raises((OSError, ValueError)):
        Jog3rPipeline.from_pretrained(Path(moved))


def test_components_go_back_to_a_classic_pipeline(classic):
    again = Jog3rPipeline(**modular(Jog3rModularBlocks, classic).components)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(again(PROMPT, generator=seeded(), **FAST).poses, classic(PROMPT, generator=seeded(), **FAST).poses)


def test_the_example_of_the_documents_runs():
    text = (Path(__file__).resolve().parents[1] / "docs" / "design.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    asked = "prompt=prompt, "
    assert asked in block
    names = {}
    few_steps = block.replace(asked, f"{asked}num_inference_steps=2, reconstruction_timestep=600, num_frames=4, ")
    exec(few_steps, names)  # noqa: S102  # our own text, which users run
    assert names["made"]["poses"].shape == (1, 4, 4, 4) and len(names["made"]["frames"][0]) == 4
    assert names["found"].poses.shape == (1, 4, 4, 4)
