"""How much memory a recipe takes, without a GPU and without weights: the step is run on tensors that hold no data.

    python -m jog3r.training.memory --config training/recipes/NAME.yaml [--option value ...]

Sizes of the models are those of the folder `init_from` where it exists, else the paper's; for `model: wan`, `cogvideox` or
`ltx` those of Wan 2.1 1.3B, CogVideoX 2B and LTX-Video 2B. Printed are bytes on one device of one process; what CUDA itself
takes, about 1 GiB, and the allocator's gaps, up to a tenth, come on top.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DDPMScheduler
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from jog3r.models.dust3r_baseline import Dust3rBaseline
from jog3r.models.pointmap_head import Pointmap3DHead
from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.training.build import build_image_model, build_joint_model, finish_generator, select_trainable
from jog3r.training.clips.step_batches import StepNoise
from jog3r.training.config import TrainConfig, load_config
from jog3r.training.generators.counting import generator_inputs, generator_without_weights
from jog3r.training.generators.model import GeneratorModel
from jog3r.training.generators.options import GENERATORS, recognise
from jog3r.training.joint_model import ImageModel, JointModel
from jog3r.training.live_memory import LiveMemory
from jog3r.training.optimization import is_hidden_matrix

logger = logging.getLogger(__name__)

CARDS_GB = (16, 24, 40, 80)
USABLE = 0.9  # of a card, after the allocator's gaps
CUDA_BYTES = 2**30
_LATENT_SIDE = 8  # pixels a latent of OpenSora's VAE
# Bytes a trained value: AdamW has two moments of 4 bytes, or of 1 byte and a scale of 4 for 256 of them; Muon has one of 4.
_ADAMW, _ADAMW_8BIT, _MUON = 8.0, 2 * (1 + 4 / 256), 4.0
_ATTENTION: dict[Any, Any] = {  # torch counts those of GPUs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(
        out, q, k, v
    ),
}
_SMALL = 4096  # tensors below keep moments of 4 bytes with adamw8bit


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on the device during a step.

    Attributes:
        parameters: all weights of the module that is trained, frozen ones included.
        gradients: of the trained weights.
        optimizer: its moments.
        average: the averaged weights.
        activations: the most that forward and backward pass hold at one time, beside all of the above.
        trained: number of trained weights.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    trained: int

    @property
    def total(self) -> int:
        """All bytes together."""
        return self.parameters + self.gradients + self.optimizer + self.average + self.activations

    @property
    def smallest_card_gb(self) -> int | None:
        """The smallest of the usual cards that the step fits, None if none does."""
        return next((size for size in CARDS_GB if self.total + CUDA_BYTES <= USABLE * size * 1e9), None)


@contextmanager
def norms_as_on_cuda() -> Iterator[None]:
    """Under autocast CUDA normalises in float32, and gives float32 on; on the CPU, where memory is counted, it would be bf16."""

    def in_float32(norm: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                args, kwargs = tree_map_only(torch.Tensor, lambda value: value.float(), (args, kwargs))
            return norm(*args, **kwargs)

        return call

    with ExitStack() as stack:  # a mode of torch functions would not see what is computed again for gradients
        for name in ("layer_norm", "rms_norm", "group_norm"):
            stack.enter_context(patch.object(F, name, in_float32(getattr(F, name))))
        yield


def step_memory(config: TrainConfig) -> StepMemory:
    """Memory of one process of a run, from one forward and backward pass on tensors without data.

    Raises:
        ValueError: `config` trains the text encoder, which this does not model.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure_step(*_model_and_inputs(config), config)


def step_flops(config: TrainConfig) -> int:
    """Floating-point operations of the matrix products of one micro-step: forward, recomputed and backward.

    Raises:
        ValueError: as `step_memory`.
    """
    # a pass of its own: while operations are counted, more tensors are kept than else
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        joint, batch, draws = _model_and_inputs(config)
        select_trainable(joint, config)
        _forward_and_backward(joint.train(), batch, draws, config)
    return counter.get_total_flops()


def _model_and_inputs(config: TrainConfig) -> tuple[JointModel | ImageModel | GeneratorModel, dict[str, torch.Tensor], StepNoise]:
    if config.train_text_encoder:
        raise ValueError("memory is counted with a frozen text encoder and cached captions: set train_text_encoder=false")
    with torch.device("meta"):
        joint = build_without_weights(config)
    for module in joint.modules():  # from the meta device, where nothing computes in bf16, to weights that pretend to lie here
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    tensors[name] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    head: Any = joint.baseline.head if isinstance(joint, ImageModel) else joint.pointmap_head
    head._check_pairs = lambda pairs, *_: pairs  # it looks at numbers, which tensors without data have not
    return joint, *model_inputs(joint, config)


def _forward_and_backward(joint: nn.Module, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig) -> None:
    with norms_as_on_cuda():
        torch.stack(list(joint(batch, draws, config).values())).sum().backward()


def build_without_weights(config: TrainConfig) -> JointModel | ImageModel | GeneratorModel:
    """The module that `config` trains, from configurations alone; to be called on the meta device."""
    config = recognise(config)
    if config.model in GENERATORS:
        return finish_generator(generator_without_weights(config), config)
    folder = Path(config.init_from)
    if config.model == "dust3r":
        return build_image_model(Dust3rBaseline(**_sizes(folder / "baseline")), config)
    transformer = Jog3rTransformer3DModel(**_sizes(folder / "transformer"))
    sizes: dict[str, Any] = {"feature_dim": transformer.width, "patch_size": _LATENT_SIDE * transformer.config.patch_size}
    head = Pointmap3DHead(**sizes | _sizes(folder / "pointmap_head"))
    return build_joint_model(transformer, head, None, DDPMScheduler(beta_schedule="linear"), config)


def measure_step(
    joint: JointModel | ImageModel | GeneratorModel, batch: dict[str, torch.Tensor], draws: StepNoise, config: TrainConfig
) -> StepMemory:
    """Memory of one step of `joint` on the device where it lies; its gradients are there before, as after a first micro-step."""
    trained = select_trainable(joint, config)
    joint.train()
    for _, parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    memory = LiveMemory()
    memory.ignore([*joint.parameters(), *joint.buffers(), *(parameter.grad for _, parameter in trained), batch, vars(draws)])
    with memory:
        _forward_and_backward(joint, batch, draws, config)
    trained_bytes = _bytes([parameter for _, parameter in trained])
    return StepMemory(
        parameters=_bytes([*joint.parameters(), *joint.buffers()]),
        gradients=trained_bytes,
        optimizer=round(sum(parameter.numel() * _moment_bytes(name, parameter, config) for name, parameter in trained)),
        average=trained_bytes,
        activations=memory.peak,
        trained=sum(parameter.numel() for _, parameter in trained),
    )


def _moment_bytes(name: str, parameter: nn.Parameter, config: TrainConfig) -> float:
    if config.optimizer == "muon" and is_hidden_matrix(name, parameter):
        return _MUON
    return _ADAMW_8BIT if config.optimizer == "adamw8bit" and parameter.numel() >= _SMALL else _ADAMW


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _sizes(folder: Path) -> dict[str, Any]:
    """The constructor's arguments saved in `folder`; none, so the defaults, where it does not exist."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: value for name, value in values.items() if not name.startswith("_")}


def model_inputs(
    joint: JointModel | ImageModel | GeneratorModel, config: TrainConfig
) -> tuple[dict[str, torch.Tensor], StepNoise]:
    """A batch and its draws of the right shapes."""
    generation, reconstruction = config.generation_batch, config.reconstruction_batch
    clips, frames, size = generation + reconstruction, config.num_frames, (config.height, config.width)
    batch = {
        "depth": torch.ones(clips, frames, *size),
        "valid": torch.ones(clips, frames, *size, dtype=torch.bool),
        "intrinsics": torch.eye(3).expand(clips, frames, 3, 3),
        "poses": torch.eye(4).expand(clips, frames, 4, 4),
    }
    length = 1
    noise = torch.zeros(clips, 1)
    if isinstance(joint, ImageModel):
        batch["frames"] = torch.zeros(clips, frames, 3, *size)
    elif isinstance(joint, GeneratorModel):
        batch["latents"], batch["caption_embeds"] = generator_inputs(joint, config)
        batch["caption_mask"] = torch.ones(batch["caption_embeds"].shape[:2], dtype=torch.long)
        noise = torch.zeros_like(batch["latents"])
    else:
        settings: Any = joint.transformer.config
        side = joint.pointmap_head.config.patch_size // settings.patch_size  # pixels a latent
        length = settings.max_caption_length
        noise = torch.zeros(clips, settings.in_channels, frames, size[0] // side, size[1] // side)
        batch["latents"] = torch.zeros_like(noise)
        batch["caption_mask"] = torch.ones(clips, length, dtype=torch.long)
        batch["caption_embeds"] = torch.zeros(clips, length, settings.caption_channels)
    others = range(1, 1 + min(config.pairs_per_clip, frames - 1))
    return batch, StepNoise(
        noise=noise,
        timesteps=torch.zeros(clips, dtype=torch.long),
        drop_caption=torch.zeros(generation, dtype=torch.bool),
        null_length=torch.full((reconstruction,), length),
        pairs=torch.tensor([(0, other) for other in others]),
    )


def report(memory: StepMemory, flops: int, config: TrainConfig) -> str:
    """The numbers as lines for people."""
    lines = [
        f"{name:<12}{getattr(memory, name) / 2**30:8.2f} GiB" for name in ("parameters", "gradients", "optimizer", "average")
    ]
    lines += [f"{'activations':<12}{memory.activations / 2**30:8.2f} GiB", f"{'total':<12}{memory.total / 2**30:8.2f} GiB"]
    kind = recognise(config)
    if kind.model == "jog3r" and kind.embeds_captions:
        lines += [
            f"not counted: the text encoder, which data={config.data} needs on the device (T5-XXL: 19 GB in float32); "
            "captions of a prepared cache (data=cache) are embedded already"
        ]
    card = memory.smallest_card_gb
    lines += [f"fits a card of {card} GB" if card else f"fits no card of {CARDS_GB[-1]} GB"]
    steps = config.gradient_accumulation_steps * config.num_steps
    petaflops = flops * steps / 1e15
    lines += [
        f"{memory.trained / 1e6:.1f} M trained weights",
        f"{flops / 1e12:.2f} TFLOP a micro-step, {petaflops:.0f} PFLOP a run of {steps} micro-steps",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Entry point; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(TrainConfig, arguments)
        logger.info("%s", report(step_memory(config), step_flops(config), config))
    except ValueError as error:
        logger.error("error: %s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
