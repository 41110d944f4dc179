"""Makes diffusers' loader know the classes of this package, so that folders and hub repositories load without remote code."""

import diffusers
from diffusers.pipelines import pipeline_loading_utils

_CLASSES = ("Jog3rTransformer3DModel", "Pointmap3DHead", "Dust3rBaseline")


def register_pipeline(pipeline_class: type) -> None:
    """Let `DiffusionPipeline.from_pretrained` find a pipeline that an index names: it looks in diffusers and nowhere else."""
    if not hasattr(diffusers, pipeline_class.__name__):
        setattr(diffusers, pipeline_class.__name__, pipeline_class)


def register_with_diffusers() -> None:
    """Let model indices name the library "jog3r"; called where our models are first reached."""
    methods = ["save_pretrained", "from_pretrained"]
    entries = pipeline_loading_utils.LOADABLE_CLASSES.setdefault("jog3r", {})
    for name in _CLASSES:
        entries.setdefault(name, methods)
        pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.setdefault(name, methods)
