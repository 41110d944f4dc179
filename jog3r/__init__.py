"""jog3r: one diffusers-native model for text to video with cameras and video to cameras (JOG3R, arXiv 2501.01409).

The public names are loaded on first use, so that `import jog3r` costs nothing.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

# In a checkout the sub-packages lie beside this folder (see setup.py); in a wheel they lie inside it and this does nothing.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "setup.py").is_file():
    __path__.append(str(_CHECKOUT))

_PUBLIC = {
    "Jog3rPipeline": "jog3r.pipelines.pipeline_jog3r",
    "Jog3rPipelineOutput": "jog3r.pipelines.pipeline_output",
    "Jog3rTransformer3DModel": "jog3r.models.transformer_jog3r",
    "Pointmap3DHead": "jog3r.models.pointmap_head",
    "Jog3rWanPipeline": "jog3r.pipelines.generators.wan",
    "Jog3rCogVideoXPipeline": "jog3r.pipelines.generators.cogvideox",
    "Jog3rLTXPipeline": "jog3r.pipelines.generators.ltx",
    "Dust3rPipeline": "jog3r.pipelines.pipeline_dust3r",
    "Dust3rBaseline": "jog3r.models.dust3r_baseline",
    "register_pointmaps": "jog3r.geometry.registration",
    "Registration": "jog3r.geometry.registration",
}
__all__ = [*_PUBLIC, "tiny_checkpoint"]

if TYPE_CHECKING:
    from jog3r.geometry.registration import Registration, register_pointmaps
    from jog3r.models.dust3r_baseline import Dust3rBaseline
    from jog3r.models.pointmap_head import Pointmap3DHead
    from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
    from jog3r.pipelines.generators.cogvideox import Jog3rCogVideoXPipeline
    from jog3r.pipelines.generators.ltx import Jog3rLTXPipeline
    from jog3r.pipelines.generators.wan import Jog3rWanPipeline
    from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
    from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
    from jog3r.pipelines.pipeline_output import Jog3rPipelineOutput


class _CheckpointPath(str):
    """A path that may also be called: `tiny_checkpoint` and `tiny_checkpoint()` are the same string."""

    __slots__ = ()

    def __call__(self) -> str:
        """The path as a plain string."""
        return str(self)


tiny_checkpoint = _CheckpointPath(Path(__file__).resolve().parent / "tiny")
"""Path of the bundled trained checkpoint, a diffusers folder for `Jog3rPipeline.from_pretrained`."""


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jog3r' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
