"""Load a folder or hub repository as the pipeline that its index names."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from jog3r.pipelines.loading.checked_weights import check_model_name
from jog3r.pipelines.pipeline_dust3r import Dust3rPipeline
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

PIPELINES = {cls.__name__: cls for cls in (Jog3rPipeline, Dust3rPipeline)}


# A text encoder is most of a full-size model: for what reads no text it is not loaded.
WITHOUT_TEXT = {"text_encoder": None, "tokenizer": None}


def load_pipeline(model: str, *, with_text: bool = True, **options: Any) -> Jog3rPipeline | Dust3rPipeline:
    """`from_pretrained` of the class named in `model_index.json`.

    Args:
        model: folder or hub id.
        with_text: False leaves text encoder and tokenizer out, where there are any.
        options: for `from_pretrained`.

    Raises:
        ValueError: no such folder, or its index is missing or names a pipeline of somebody else.
    """
    check_model_name(str(model))
    index = Path(model) / "model_index.json"
    if Path(model).is_dir():
        if not index.is_file():
            raise ValueError(f"{str(model)!r} is no pipeline folder: it has no model_index.json")
    else:
        index = Path(hf_hub_download(model, "model_index.json", revision=options.get("revision")))
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    name = name[-1] if isinstance(name, list) else name
    if name not in PIPELINES:
        raise ValueError(f"{str(model)!r} is a {name}; this works with {' and '.join(PIPELINES)}")
    if not with_text and name == Jog3rPipeline.__name__:
        options = WITHOUT_TEXT | options
    return PIPELINES[name].from_pretrained(model, **options)
