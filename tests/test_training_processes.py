"""Several processes train on the same clips under the same noise as one, and read each other's checkpoints."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from tiny_components import tiny_pipeline, tiny_transformer
from tiny_generators import tiny_parent
from torch import Tensor
from torch.utils.data import Dataset
from training_cases import settings
from training_runs import TrainingProcesses, errors_of, losses_of, weights_of

from jog3r.training.clips.step_batches import BatchShare, ShareOfStream, count_valid_pixels, draw_step_noise
from jog3r.training.config import TrainConfig
from jog3r.training.losses import pointmap_loss
from jog3r.training.run import processes as processes_module
from jog3r.training.run.processes import start_accelerator
from jog3r.training.run.step_log import read_steps

ROOT = Path(__file__).resolve().parents[1]
STEPS = 6
# Sums of the same numbers in another order: nothing but rounding is left, relative to the value.
TOLERANCE = 2e-5


def assert_trained_alike(start: dict[str, Tensor], one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Every weight has gone the same way from the start, up to 1e-4 of it.

    Not the biases of the transformer's keys: they shift all scores of a query alike, which softmax ignores. Their gradients are
    zero but for rounding, which Adam makes steps of any length of.
    """
    assert one.keys() == other.keys()
    for name in (name for name in one if not (name.endswith("to_k.bias") and "transformer_blocks" in name)):
        way = (one[name] - start[name]).norm()
        assert (other[name] - one[name]).norm() <= 1e-4 * way, name


class Numbers(Dataset):
    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"value": torch.tensor(10 * position)}


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one block: FSDP works out for every weight how to compute with its parts, which takes longest here."""
    path = tmp_path_factory.mktemp("start") / "init"
    tiny_pipeline(transformer=tiny_transformer(num_layers=1, feature_layer=1)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def alone(init: Path) -> Path:
    """The run of one process: 4 + 2 clips a step."""
    output = init.parent / "alone"
    run = TrainingProcesses(init, output, generation_batch=4, num_steps=STEPS)
    assert run.wait() == 0, run.text()
    return output


@pytest.mark.parametrize(("processes", "micro_steps"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_shares_cover_the_stream_once_and_keep_both_halves_apart(processes: int, micro_steps: int) -> None:
    generation, reconstruction = 12 // processes // micro_steps, 6 // processes // micro_steps
    seen: list[list[int]] = [[] for _ in range(3)]
    for process in range(processes):
        share = BatchShare(generation, reconstruction, micro_steps, process, processes)
        assert share.clips_per_step == (12, 6)
        reader = ShareOfStream(Numbers(), share, first_step=2, num_steps=5)
        assert len(reader) == 3 * 18 // processes
        for number in range(len(reader)):
            item = reader[number]
            position = int(item["position"])
            assert int(item["value"]) == 10 * position
            step, slot = divmod(position, 18)
            assert (number % share.clips_per_micro_step < generation) == (slot < 12)
            seen[step - 2].append(slot)
    assert [sorted(slots) for slots in seen] == [list(range(18))] * 3  # without overlap or loss


def test_a_clip_has_its_noise_whoever_computes_it() -> None:
    latents = torch.zeros(6, 4, 2, 3, 3)
    settings = {"num_frames": 5, "pairs_per_clip": 2, "seed": 3}
    whole = TrainConfig(init_from="a", output_dir="b", generation_batch=4, reconstruction_batch=2, **settings)
    half = TrainConfig(init_from="a", output_dir="b", generation_batch=2, reconstruction_batch=1, **settings)
    together = draw_step_noise(whole, 7, list(range(6)), latents, 8, 1000)
    for process in range(2):
        slots = BatchShare(2, 1, 1, process, 2).slots(0)
        part = draw_step_noise(half, 7, slots, latents[:3], 8, 1000)
        assert torch.equal(part.noise, together.noise[slots])
        assert torch.equal(part.timesteps, together.timesteps[slots])
        assert torch.equal(part.drop_caption, together.drop_caption[slots[:2]])
        assert torch.equal(part.null_length, together.null_length[[slots[2] - 4]])
        assert torch.equal(part.pairs, together.pairs)


def test_losses_of_parts_average_to_that_of_the_whole_when_known_pixels_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(4, 6, 5, 3, generator=generator) for _ in range(4)]
    confidences = [1 + torch.rand(4, 6, 5, generator=generator) for _ in range(2)]
    valid = torch.rand(4, 2, 6, 5, generator=generator) < torch.tensor([0.9, 0.2, 0.5, 0.1])[:, None, None, None]
    pairs = torch.tensor([[0, 1]])

    def loss(clips: slice, counts: Tensor | None) -> torch.Tensor:
        first, second, *true = (one[clips] for one in maps)
        masks = (valid[clips, 0], valid[clips, 1])
        return pointmap_loss(first, confidences[0][clips], second, confidences[1][clips], *true, *masks, valid_pixels=counts)

    counts = count_valid_pixels({"valid": valid}, pairs, 0)
    torch.testing.assert_close(counts, valid.sum((0, 2, 3)))
    parts = [loss(clips, counts / 2) for clips in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(slice(0, 4), None))


def test_layers_and_head_of_another_generator_train_alike_on_two_processes(tmp_path: Path) -> None:
    tiny_parent("wan").save_pretrained(tmp_path / "wan")
    options = dict(num_frames=5, trainable="lora", lora_rank=2, head_width=16, head_layers=1, num_steps=3, frozen_blocks=None)
    for processes in (1, 2):
        each = 2 // processes
        run = TrainingProcesses(
            tmp_path / "wan", tmp_path / f"{processes}", processes, generation_batch=each, reconstruction_batch=each, **options
        )
        assert run.wait() == 0, run.text()
    one, two = (read_steps(tmp_path / f"{processes}" / "steps.jsonl") for processes in (1, 2))
    assert [entry["positions"] for entry in one] == [entry["positions"] for entry in two]
    for name in ("generation", "reconstruction", "loss", "gradient_norm"):
        torch.testing.assert_close(losses_of(two, name), losses_of(one, name), rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize(("processes", "micro_steps"), [(2, 1), (1, 2)])
def test_the_same_global_batch_gives_the_same_loss_curve(
    init: Path, alone: Path, tmp_path: Path, processes: int, micro_steps: int
) -> None:
    run = TrainingProcesses(
        init, tmp_path / "run", processes, generation_batch=2, reconstruction_batch=1, num_steps=STEPS,
        gradient_accumulation_steps=micro_steps,
    )  # fmt: skip
    assert run.wait() == 0, run.text()
    one, two = read_steps(alone / "steps.jsonl"), read_steps(tmp_path / "run" / "steps.jsonl")
    assert [entry["samples"] for entry in one] == [entry["samples"] for entry in two]
    assert [entry["positions"] for entry in one] == [list(range(6 * step, 6 * step + 6)) for step in range(STEPS)]
    for name in ("generation", "reconstruction", "loss", "gradient_norm"):
        torch.testing.assert_close(losses_of(two, name), losses_of(one, name), rtol=TOLERANCE, atol=0)
    assert_trained_alike(*(weights_of(folder) for folder in (init, alone / "pipeline", tmp_path / "run" / "pipeline")))


def test_checkpoints_move_between_one_process_and_two(init: Path, alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "moving"
    shares = [(1, 4, 2), (2, 2, 1), (1, 4, 2)]
    for number, (processes, generation, reconstruction) in enumerate(shares):
        batch = {"generation_batch": generation, "reconstruction_batch": reconstruction}
        run = TrainingProcesses(init, output, processes, num_steps=2 * number + 2, **batch)
        assert run.wait() == 0, run.text()
    one, moved = read_steps(alone / "steps.jsonl"), read_steps(output / "steps.jsonl")
    assert [entry["samples"] for entry in one] == [entry["samples"] for entry in moved]
    torch.testing.assert_close(losses_of(moved), losses_of(one), rtol=TOLERANCE, atol=0)
    run = TrainingProcesses(init, output, generation_batch=2, reconstruction_batch=2, num_steps=9)
    assert run.wait() == 2
    [message] = errors_of(run.text())
    assert "was made with 4 + 2 clips a step" in message
    assert "this run has 2 + 2" in message


def test_sharded_training_is_the_same_and_its_checkpoints_are_whole(init: Path, alone: Path, tmp_path: Path) -> None:
    """FSDP2 over two processes for 4 steps, then one process without it."""
    output, batch = tmp_path / "sharded", {"generation_batch": 2, "reconstruction_batch": 1}
    run = TrainingProcesses(init, output, 2, sharded=True, num_steps=4, **batch)
    assert run.wait() == 0, run.text()
    assert sorted(path.name for path in (output / "step-0000004").iterdir()) == sorted(
        path.name for path in (alone / "step-0000004").iterdir()
    )
    halfway = (load_file(folder / "step-0000004" / "trained.safetensors") for folder in (alone, output))
    one, other = ({name.replace(".", "/", 1): value for name, value in weights.items()} for weights in halfway)
    assert_trained_alike(weights_of(init), one, other)
    again = TrainingProcesses(init, output, 2, sharded=True, num_steps=5, **batch)
    assert again.wait() == 0, again.text()
    last = TrainingProcesses(init, output, generation_batch=4, reconstruction_batch=2, num_steps=STEPS)
    assert last.wait() == 0, last.text()
    one, moved = read_steps(alone / "steps.jsonl"), read_steps(output / "steps.jsonl")
    assert [entry["samples"] for entry in one] == [entry["samples"] for entry in moved]
    torch.testing.assert_close(losses_of(moved), losses_of(one), rtol=TOLERANCE, atol=0)
    assert_trained_alike(*(weights_of(folder) for folder in (init, alone / "pipeline", output / "pipeline")))
    messages = {"muon": "needs whole matrices, which FSDP shards", "adamw8bit": "cannot read the parts that FSDP leaves"}
    for optimizer, message in messages.items():
        refused = TrainingProcesses(init, tmp_path / optimizer, 2, sharded=True, optimizer=optimizer, **batch)
        assert refused.wait() == 2
        assert f"optimizer={optimizer} {message}" in errors_of(refused.text())[0]


def test_sharded_training_in_bf16_keeps_its_data_in_float32(init: Path, alone: Path, tmp_path: Path) -> None:
    """Rounded to bf16, as accelerate has it, depth, poses and losses alone are off by 3e-3."""
    run = TrainingProcesses(
        init, tmp_path / "run", 2, sharded=True, num_steps=2, generation_batch=2, reconstruction_batch=1, mixed_precision="bf16",
        sample_every=2, sample_steps=1,
    )  # fmt: skip
    assert run.wait() == 0, run.text()
    assert len(list((tmp_path / "run" / "samples").glob("step-0000002*.png"))) == 2
    exact, rounded = read_steps(alone / "steps.jsonl")[:2], read_steps(tmp_path / "run" / "steps.jsonl")
    for name in ("generation", "reconstruction"):
        torch.testing.assert_close(losses_of(rounded, name), losses_of(exact, name), rtol=1e-3, atol=0)


def test_processes_wait_for_samples_and_keep_gradients_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**changes: object) -> Accelerator:
        AcceleratorState._reset_state()
        PartialState._reset_state()
        return start_accelerator(settings(output_dir=str(tmp_path), **changes))

    accelerator = start()
    assert accelerator.init_handler.timeout == timedelta(hours=1)
    assert accelerator.ddp_handler.gradient_as_bucket_view
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")  # as `accelerate launch` may set it
    assert start(gradient_accumulation_steps=2).gradient_accumulation_steps == 2
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 4, but accelerate was launched with 2"):
        start(gradient_accumulation_steps=4)


def test_deepspeed_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as `accelerate launch` sets it
    with pytest.raises(ValueError, match="DeepSpeed is not supported: take training/accelerate/fsdp2.yaml"):
        start_accelerator(settings(output_dir=str(tmp_path)))


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_accelerates_and_opens_with_its_command(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    text = path.read_text(encoding="utf-8")
    assert f"accelerate launch --config_file training/accelerate/{path.name}" in text
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2


@pytest.mark.parametrize("ratio, options, named", [
    (12.0, {"mixed_precision": "bf16"}, "mixed_precision=bf16 needs"), (12.0, {"optimizer": "muon"}, "optimizer=muon needs"),
    (0.4, {"mixed_precision": "bf16", "optimizer": "muon"}, None), (12.0, {}, None),
])  # fmt: skip
def test_a_processor_that_is_slow_in_bf16_is_named(monkeypatch, caplog, tmp_path, ratio, options, named):
    monkeypatch.setattr(processes_module, "bf16_slowdown", lambda: ratio)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    start_accelerator(settings(output_dir=str(tmp_path), **options))
    told = [record.getMessage() for record in caplog.records if "bf16" in record.getMessage()]
    assert len(told) == (named is not None) and all(named in text and "12 times" in text for text in told)


def test_the_slowdown_is_measured():
    assert 0 < processes_module.bf16_slowdown() < float("inf")
