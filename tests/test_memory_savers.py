"""What diffusers offers for models that do not fit: group offloading, layerwise casting, several devices."""

from pathlib import Path

import pytest
import torch
from tiny_components import PROMPT, seeded, tiny_head, tiny_pipeline, tiny_transformer
from torch.utils._python_dispatch import TorchDispatchMode

from jog3r import Dust3rBaseline
from jog3r.models.layers import MAX_TABLE_LENGTH, PositionTable, TimestepProjection, grid_positions, sincos_embedding
from jog3r.pipelines import geometry_steps

VIDEO = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


def run(pipe) -> dict[str, torch.Tensor]:
    """Frames and pointmaps of a generated video, pointmaps of a given one."""
    made = pipe(PROMPT, num_inference_steps=4, output_type="pt", registration=False, generator=seeded())
    read = pipe(video=VIDEO, registration=False, generator=seeded())
    return {"frames": made.frames, "generated": made.pointmaps, "given": read.pointmaps}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return run(tiny_pipeline())


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading_changes_nothing(expected: dict, tmp_path: Path, kind: str, disk: bool) -> None:
    """While the parameters are on disk, memory holds anything in their place: whatever is read too early or too late shows."""
    pipe = tiny_pipeline()
    options = {"offload_type": kind, "num_blocks_per_group": 1, "offload_to_disk_path": str(tmp_path) if disk else None}
    pipe.transformer.enable_group_offload(onload_device=CPU, offload_device=CPU, **options)
    if disk:
        for tensor in (*pipe.transformer.parameters(), *pipe.transformer.buffers()):
            tensor.data.fill_(torch.nan)
    result = run(pipe)
    for name, value in expected.items():  # weights read from a file lie elsewhere in memory, which is enough for another rounding
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-4)


def test_layerwise_casting_computes_in_the_compute_dtype() -> None:
    plain = run(tiny_pipeline().to(torch.bfloat16))
    pipe = tiny_pipeline().to(torch.bfloat16)
    for part in (pipe.transformer, pipe.pointmap_head):
        part.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    result = run(pipe)
    assert (result["frames"] - plain["frames"]).square().mean().sqrt() < 0.1 * plain["frames"].std()
    assert pipe.transformer.transformer_blocks[0].spatial_attn.to_q.weight.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize(
    "model",
    [
        tiny_transformer(),
        tiny_head(),
        tiny_head(attention="global"),
        Dust3rBaseline(16, 1, 2, decoder_width=16, decoder_num_layers=1, decoder_num_attention_heads=2),
    ],
    ids=["transformer", "pairwise", "global", "dust3r"],
)
def test_every_block_in_a_list_is_one_that_may_be_offloaded_and_compiled(model) -> None:
    blocks = {type(block).__name__ for part in model.modules() if isinstance(part, torch.nn.ModuleList) for block in part}
    assert blocks and blocks <= set(model._no_split_modules)
    assert model._no_split_modules == model._repeated_blocks


def test_the_last_layers_may_lie_on_another_device_than_the_conditioning() -> None:
    """As `device_map` over several devices places them; "meta" stands for the second one."""
    model = tiny_transformer(feature_layers=[1, 2])
    model.norm_out.to("meta"), model.proj_out.to("meta")
    tokens = torch.randn(2, 3, 4, 16)
    sample = model._project_out(tokens.to("meta"), torch.randn(2, 16), (2, 2))
    assert sample.shape == (2, 8, 3, 4, 4)
    assert model._fuse([tokens, tokens.to("meta")]).device.type == "meta"


class _Float64Elsewhere(TorchDispatchMode):
    """Refuses float64 anywhere but on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, torch.Tensor) and result.dtype == torch.float64 and result.device.type != "cpu"), func
        return result


@pytest.mark.parametrize("length", [4, MAX_TABLE_LENGTH + 1])
def test_positions_are_computed_on_the_cpu_as_not_every_device_knows_float64(length: int) -> None:
    table = PositionTable(8, 0.5)
    assert torch.equal(table(length, CPU), sincos_embedding(torch.arange(length) / 0.5, 8).float())
    with _Float64Elsewhere():
        positions = table(length, torch.device("meta"))
        grid = grid_positions(table, 2, length, torch.device("meta"))
    assert (positions.device.type, positions.shape, positions.dtype) == ("meta", (length, 8), torch.float32)
    assert (grid.device.type, grid.shape, grid.dtype) == ("meta", (2 * length, 16), torch.float32)


def test_tables_keep_float32_whatever_the_model_is_cast_to_and_are_not_saved() -> None:
    model = tiny_transformer()
    frequencies = TimestepProjection(256).values
    model.to(torch.bfloat16).float().to("meta").to_empty(device="cpu")
    assert torch.equal(model.time_proj.values, frequencies)
    assert torch.equal(model.spatial_positions(3, CPU), PositionTable(8, 0.5)(3, CPU))
    names = [*model.state_dict(), *(name for name, _ in model.named_buffers())]
    assert not [name for name in names if "time_proj" in name or "positions" in name]


def test_registration_leaves_devices_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline()
    plain = pipe(video=VIDEO, generator=seeded())
    monkeypatch.setattr(geometry_steps, "WITHOUT_FLOAT64", ("cpu",))
    assert torch.equal(pipe(video=VIDEO, generator=seeded()).poses, plain.poses)
