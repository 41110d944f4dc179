"""I3D, the feature network of FVD: Inception-v1 inflated to video (arXiv 1705.07750), written anew.

Reads the widespread PyTorch conversion of the Kinetics-400 RGB weights by its parameter names (`Conv3d_1a_7x7.conv3d.weight`,
`Mixed_3b.b1a.bn.running_mean`, ..., `logits.conv3d.bias`), from .pt or .safetensors, strictly and with a pinned hash. FVD
(arXiv 1812.01717) compares the 400 logits of clips of 224 x 224 pixels in -1..1.

Letters: B clips, F frames, C channels, H W pixels.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from jog3r.evaluation.consistency import as_video
from jog3r.evaluation.networks.pinned import pinned_hash

PICTURE_SIZE = 224
MIN_FRAMES = 9  # the network halves time three times and pools pairs: fewer frames leave nothing to pool
_BATCH_NORM_EPS = 1e-3

# Channels of an inception block: 1x1; 1x1 -> 3x3x3; 1x1 -> 3x3x3; pool -> 1x1.
_BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
_POOL_BEFORE = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}


class I3D(nn.Module):
    """The network up to its logits."""

    def __init__(self, num_classes: int = 400) -> None:
        """`num_classes` of the last layer."""
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (channels, widths) in _BLOCKS.items():
            self.add_module(name, _Inception(channels, widths))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(sum(_BLOCKS["Mixed_5c"][1][k] for k in (0, 2, 4, 5)), num_classes, 1)})

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (B,classes), averaged over time, of clips (B,3,F,224,224) in -1..1."""
        hidden = self.Conv3d_1a_7x7(clips)
        hidden = _pool(hidden, (1, 3, 3), (1, 2, 2))
        hidden = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(hidden))
        for name in _BLOCKS:
            if name in _POOL_BEFORE:
                hidden = _pool(hidden, *_POOL_BEFORE[name])
            hidden = self.get_submodule(name)(hidden)
        hidden = functional.avg_pool3d(hidden, (2, 7, 7), stride=1)  # (B,1024,T,1,1)
        return self.logits["conv3d"](hidden).mean((2, 3, 4))


class VideoFeatures:
    """I3D as feature network of clips; `name` is what must stand beside every number made with it.

    Attributes:
        name: network, picture size and first digits of the weights' hash.
        sha256: of the weights file.
    """

    def __init__(self, model: I3D, sha256: str) -> None:
        """Wrap a network; `load_i3d` does it."""
        self._model = model.eval().requires_grad_(False)
        self.sha256 = sha256
        self.name = f"I3D logits at {PICTURE_SIZE} px, sha256 {sha256[:12]}"

    @torch.no_grad()
    def clip(self, frames: Tensor | np.ndarray) -> np.ndarray:
        """Logits (400,) float64 of a clip (F,H,W,3), all its frames, stretched to 224 x 224 bilinearly (no antialiasing)."""
        video = as_video(frames).to(next(self._model.parameters()).device)  # (F,3,H,W)
        if len(video) < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {len(video)}")
        resized = functional.interpolate(video, (PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", align_corners=False)
        return self._model((resized * 2 - 1).transpose(0, 1)[None])[0].double().cpu().numpy()


def load_i3d(path: str | Path, sha256: str | None = None) -> VideoFeatures:
    """I3D from a weights file (.safetensors, or a .pt / .pth state dict, read without running any code in it).

    Raises:
        ValueError: no such file, a hash that differs, names or shapes that are not I3D's.
    """
    file = Path(path)
    digest = pinned_hash(file, sha256, "the I3D weights (.safetensors, .pt or .pth)")
    state = _read(file)
    if "logits.conv3d.weight" not in state:
        raise ValueError(
            f"{file.name} is no I3D state dict: logits.conv3d.weight is missing; it has {', '.join([*state][:3])} ..."
        )
    with torch.device("meta"):  # no time spent on a random start; strict loading below fills every tensor
        model = I3D(num_classes=len(state["logits.conv3d.weight"]))
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{file.name} does not fit I3D: {error}") from error
    return VideoFeatures(model, digest)


class _Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=_BATCH_NORM_EPS, momentum=0.01)

    def forward(self, hidden: Tensor) -> Tensor:
        padded = _same_padding(hidden, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(padded)))


class _Inception(nn.Module):
    """Four branches side by side; the names are those of the weights."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(channels, widths[0], 1)
        self.b1a, self.b1b = _Unit(channels, widths[1], 1), _Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = _Unit(channels, widths[3], 1), _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(channels, widths[5], 1)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = _pool(hidden, (3, 3, 3), (1, 1, 1))
        return torch.cat((self.b0(hidden), self.b1b(self.b1a(hidden)), self.b2b(self.b2a(hidden)), self.b3b(pooled)), dim=1)


def _pool(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Zeros as padding are harmless: every input comes out of a ReLU.
    return functional.max_pool3d(_same_padding(hidden, kernel, stride), kernel, stride)


def _same_padding(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that the output has ceil(size / stride) entries; the odd one behind, as TensorFlow."""
    pads: list[int] = []
    for size, k, s in zip(reversed(hidden.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(hidden, pads)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"{file.name} cannot be read as weights ({type(error).__name__}); download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file.name} holds {type(state).__name__}, not a state dict of tensors")
    return state
