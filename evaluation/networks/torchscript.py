"""Feature networks that the field publishes as TorchScript: Inception for FID and KID, I3D for FVD, with their own resizing.

A TorchScript file is a network with its code. The ones meant here take raw pictures and do everything else themselves: Inception
(`inception-2015-12-05.pt` of StyleGAN2-ADA, the weights that StyleGAN3 and EDM use) takes (N,3,H,W) uint8 0..255 with
`return_features=True` and gives (N,2048), having resized to 299 x 299 as TensorFlow's original; I3D (`i3d_torchscript.pt` of
StyleGAN-V) takes (N,3,F,H,W) 0..255 with `rescale=True, resize=True, return_features=True` and gives (N,400).

Letters: N pictures or clips, F frames, H W pixels, D features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jog3r.evaluation.networks.i3d import MIN_FRAMES
from jog3r.evaluation.networks.pinned import pinned_hash

__all__ = ["PictureNetwork", "ScriptedVideoNetwork", "is_torchscript", "load_inception", "load_scripted_i3d"]

_BATCH = 16
_PROBE = (2, 3, 32, 40)  # neither batch nor sides that anything could be taken for


class PictureNetwork:
    """Inception on every frame of a clip: FID and KID of frames.

    Attributes:
        name: network and first digits of the file's hash: what must stand beside every number made with it.
        sha256: of the file.
    """

    def __init__(self, module: Any, sha256: str) -> None:
        """Wrap a scripted module; `load_inception` does it."""
        self._module, self.sha256 = module, sha256
        self.name = f"Inception (TorchScript), frames, its own resize, sha256 {sha256[:12]}"

    @torch.no_grad()
    def clip(self, frames: Tensor | np.ndarray) -> np.ndarray:
        """Features (F,D) float64 of the frames (F,H,W,3) uint8."""
        pictures = _uint8(frames).permute(0, 3, 1, 2)  # (F,3,H,W)
        found = [self._module(batch, return_features=True) for batch in pictures.split(_BATCH)]
        return torch.cat(found).double().cpu().numpy()


class ScriptedVideoNetwork:
    """I3D of StyleGAN-V's file: FVD. `name` and `sha256` as of `PictureNetwork`."""

    def __init__(self, module: Any, sha256: str) -> None:
        """Wrap a scripted module; `load_scripted_i3d` does it."""
        self._module, self.sha256 = module, sha256
        self.name = f"I3D (TorchScript), its own resize, sha256 {sha256[:12]}"

    @torch.no_grad()
    def clip(self, frames: Tensor | np.ndarray) -> np.ndarray:
        """Features (400,) float64 of a clip (F,H,W,3) uint8, all its frames."""
        video = _uint8(frames)
        if len(video) < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {len(video)}")
        clip = video.permute(3, 0, 1, 2)[None].float()  # (1,3,F,H,W)
        return self._module(clip, rescale=True, resize=True, return_features=True)[0].double().cpu().numpy()


def load_inception(path: str | Path, sha256: str | None = None) -> PictureNetwork:
    """Inception from a TorchScript file.

    Raises:
        ValueError: no such file, a hash that differs, no TorchScript (a pickle such as StyleGAN3's .pkl runs code when it is read
            and is not opened), or a module of another interface.
    """
    module, digest = _load(path, sha256, "Inception")
    network = PictureNetwork(module, digest)
    _probe(network, np.zeros((_PROBE[0], *_PROBE[2:], 3), np.uint8), Path(path).name, (_PROBE[0],))
    return network


def load_scripted_i3d(path: str | Path, sha256: str | None = None) -> ScriptedVideoNetwork:
    """I3D from a TorchScript file; errors as of `load_inception`."""
    module, digest = _load(path, sha256, "I3D")
    network = ScriptedVideoNetwork(module, digest)
    _probe(network, np.zeros((MIN_FRAMES, *_PROBE[2:], 3), np.uint8), Path(path).name, ())
    return network


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is TorchScript: an archive with code in it."""
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (BadZipFile, OSError):
        return False


def _load(path: str | Path, sha256: str | None, what: str) -> tuple[Any, str]:
    file = Path(path)
    digest = pinned_hash(file, sha256, f"{what}'s TorchScript file")
    if not is_torchscript(file):
        raise ValueError(f"{file.name} is no TorchScript file: pickles run code when they are read; give {what}'s .pt archive")
    try:
        return torch.jit.load(str(file), map_location="cpu").eval(), digest
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file.name} cannot be read as TorchScript ({str(error).splitlines()[0]}); download it again"
        ) from error


def _probe(network: PictureNetwork | ScriptedVideoNetwork, frames: np.ndarray, name: str, batch: tuple[int, ...]) -> None:
    """Refuse a module that does not take what is given to it, before hours of work."""
    try:
        found = network.clip(frames)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} has another interface than {network.name.split(',')[0]}: {str(error).splitlines()[0]}"
        ) from error
    if found.ndim != len(batch) + 1 or found.shape[:-1] != batch:
        raise ValueError(f"{name} gives features of shape {found.shape} for frames {frames.shape}, expected a vector each")


def _uint8(frames: Tensor | np.ndarray) -> Tensor:
    """Frames (F,H,W,3) uint8 as a tensor."""
    video = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
    if video.dim() != 4 or video.shape[-1] != 3 or video.dtype != torch.uint8:
        raise ValueError(f"frames must be (F,H,W,3) uint8, got {tuple(video.shape)} of {video.dtype}")
    return video
