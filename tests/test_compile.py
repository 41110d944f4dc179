"""torch.compile: a block compiles once per shape, a whole model without a break and for all sizes at once.

Backend "eager" runs what dynamo captured as it is: all that can go wrong here are breaks, recompilations and wrong captures.
"""

from collections.abc import Iterator

import pytest
import torch
from tiny_components import PROMPT, seeded, tiny_head, tiny_pipeline, tiny_transformer
from torch._dynamo.testing import CompileCounter

from jog3r import Dust3rBaseline

VIDEO = torch.rand(4, 16, 16, 3, generator=torch.Generator().manual_seed(1))
LARGER = torch.rand(3, 24, 16, 3, generator=torch.Generator().manual_seed(2))
PROMPTS = (PROMPT, "a room", "the camera moves forward with a red chair")  # 6, 3 and 8 tokens


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(height: int = 4, width: int = 4, frames: int = 3, length: int = 8) -> dict[str, torch.Tensor]:
    generator = seeded()
    return {
        "hidden_states": torch.randn(2, 4, frames, height, width, generator=generator),
        "timestep": torch.tensor([10, 500]),
        "encoder_hidden_states": torch.randn(2, length, 16, generator=generator),
    }


def calls(pipe) -> list[torch.Tensor]:
    """Every way in which the pipeline calls its blocks: prompts of three lengths, guidance off, two sizes, two videos."""
    made = [pipe(prompt, num_inference_steps=1, task="t2v", output_type="pt", generator=seeded()).frames for prompt in PROMPTS]
    several = {"num_inference_steps": 1, "task": "t2v", "output_type": "pt"}
    made.append(pipe(PROMPT, guidance_scale=1.0, generator=seeded(), **several).frames)
    made.append(pipe(PROMPT, height=24, width=16, num_frames=3, generator=seeded(), **several).frames)
    made.append(pipe(list(PROMPTS[:2]), generator=seeded(), **several).frames)
    made += [pipe(video=video, registration=False, generator=seeded()).pointmaps for video in (VIDEO, LARGER)]
    return made


def test_compiled_blocks_serve_every_kind_of_call_in_one_process() -> None:
    expected = calls(tiny_pipeline())
    pipe, counter = tiny_pipeline(), CompileCounter()
    pipe.transformer.compile_repeated_blocks(backend=counter, fullgraph=True)
    pipe.pointmap_head.compile_repeated_blocks(backend="eager", fullgraph=True)
    for result, value in zip(calls(pipe), expected, strict=True):
        torch.testing.assert_close(result, value, rtol=1e-4, atol=1e-4)
    # one shape; any length; any size; one clip, which torch takes for a constant, of one size and of any; a batch with a mask
    assert counter.frame_count <= 6
    with torch._dynamo.config.patch(error_on_recompile=True):
        calls(pipe)


@torch.no_grad()
def test_one_graph_serves_all_blocks_of_one_shape() -> None:
    model = tiny_transformer(feature_layers=[1, 2])
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    head = tiny_head(num_layers=3)
    head.compile_repeated_blocks(backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(2):
            features = model(**inputs(), return_features=True).features
            head(features, 16, 16)


@torch.no_grad()
def test_a_whole_model_compiles_once_without_a_break() -> None:
    model, head = tiny_transformer(num_layers=1, feature_layer=1), tiny_head()
    compiled, compiled_head = (torch.compile(part, backend="eager", fullgraph=True) for part in (model, head))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            output = compiled(**inputs(), return_features=True)
            compiled_head(output.features, 16, 16)
    torch.testing.assert_close(output.sample, model(**inputs()).sample)


@torch.fx.experimental._config.patch(use_duck_shape=False)  # that two sizes of the first call are equal is chance
@torch.no_grad()
def test_a_whole_model_compiles_once_for_all_sizes() -> None:
    model, head = tiny_transformer(num_layers=1, feature_layer=1), tiny_head()
    baseline = Dust3rBaseline(16, 1, 2, decoder_width=16, decoder_num_layers=1, decoder_num_attention_heads=2, patch_size=8)
    parts = [torch.compile(part, backend="eager", fullgraph=True, dynamic=True) for part in (model, head, baseline.eval())]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for height, width, frames, length in ((4, 6, 3, 8), (8, 4, 4, 5)):
            given, size = inputs(height, width, frames, length), (4 * height, 4 * width)
            output = parts[0](**given, return_features=True)
            torch.testing.assert_close(output.sample, model(**given).sample)
            maps = parts[1](output.features, *size)
            torch.testing.assert_close(maps.pointmaps, head(output.features, *size).pointmaps)
            images = torch.rand(1, frames, 3, *size)
            torch.testing.assert_close(parts[2](images).pointmaps, baseline(images).pointmaps)
