"""Load a folder or hub repository as the pipeline that its index names."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download

from jog3r.pipelines.loading.checked_weights import check_model_name

# Name in the index -> our class and its module; diffusers' own pipelines load as ours, which add the 3D head.
_WAN = ("Jog3rWanPipeline", "jog3r.pipelines.generators.wan")
_COGVIDEOX = ("Jog3rCogVideoXPipeline", "jog3r.pipelines.generators.cogvideox")
_LTX = ("Jog3rLTXPipeline", "jog3r.pipelines.generators.ltx")
PIPELINES = {
    "Jog3rPipeline": ("Jog3rPipeline", "jog3r.pipelines.pipeline_jog3r"),
    "Dust3rPipeline": ("Dust3rPipeline", "jog3r.pipelines.pipeline_dust3r"),
    **{name: _WAN for name in (_WAN[0], "WanPipeline")},
    **{name: _COGVIDEOX for name in (_COGVIDEOX[0], "CogVideoXPipeline")},
    **{name: _LTX for name in (_LTX[0], "LTXPipeline")},
}

_OF_HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download")  # options of a download

# A text encoder is most of a full-size model: for what reads no text it is not loaded.
WITHOUT_TEXT = {"text_encoder": None, "tokenizer": None}


def load_pipeline(model: str, *, with_text: bool = True, **options: Any) -> Any:
    """`from_pretrained` of the class named in `model_index.json`, or of ours that is made from it.

    Args:
        model: folder or hub id.
        with_text: False leaves text encoder and tokenizer out, where no text is read: other generators than ours read videos
            under the empty caption.
        options: for `from_pretrained`. Whatever the `dtype`, Wan's VAE computes in float32, as its makers advise; a dictionary of
            dtypes is taken as it is.

    Raises:
        ValueError: no such folder, or its index is missing or names a pipeline of somebody else.
    """
    check_model_name(str(model))
    index = Path(model) / "model_index.json"
    if Path(model).is_dir():
        if not index.is_file():
            raise ValueError(f"{str(model)!r} is no pipeline folder: it has no model_index.json")
    else:
        index = Path(hf_hub_download(model, "model_index.json", **{name: options[name] for name in _OF_HUB if name in options}))
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    name = name[-1] if isinstance(name, list) else name
    if name not in PIPELINES:
        raise ValueError(f"{str(model)!r} is a {name}; this works with {', '.join(PIPELINES)}")
    if not with_text and name == "Jog3rPipeline":
        options = WITHOUT_TEXT | options
    cls, module = PIPELINES[name]
    for key in ("dtype", "torch_dtype"):
        if PIPELINES[name] == _WAN and isinstance(options.get(key), torch.dtype):
            options[key] = {"vae": torch.float32, "default": options[key]}
    return getattr(import_module(module), cls).from_pretrained(model, **options)
