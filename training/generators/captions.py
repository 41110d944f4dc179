"""Captions of a run on a generator, embedded once by its own text encoder and kept in a file of the run's folder."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from jog3r.data.cache import CachedCaption, caption_rows, read_caption, write_rows
from jog3r.data.files import write_aside
from jog3r.training.preparation.component_files import weights_hash

__all__ = ["KeptCaptions", "caption_length", "embed_for", "keep_captions"]

logger = logging.getLogger(__name__)
_AT_ONCE = 16


def caption_length(pipeline: Any) -> int:
    """Tokens that the generator pads a caption to."""
    return int(pipeline._argument({}, "max_sequence_length"))


@torch.no_grad()
def embed_for(pipeline: Any, texts: Sequence[str], length: int, device: torch.device) -> list[CachedCaption]:
    """Captions as the generator's own `encode_prompt` embeds them, without the padding that it fills with zeros or masks.

    CogVideoX reads its padding: there nothing is left out.

    Args:
        pipeline: of a generator, with its text encoder on `device`.
        texts: to embed, all at once.
        length: tokens that they are padded to.
        device: where the text encoder lies.
    """
    encoded = pipeline.encode_prompt(list(texts), do_classifier_free_guidance=False, max_sequence_length=length, device=device)
    embeds: torch.Tensor = encoded[0]  # (T, L, D)
    masked = isinstance(encoded[1], torch.Tensor)
    read = encoded[1].bool() if masked else embeds.ne(0).any(-1)  # (T, L)
    ids = pipeline.tokenizer(list(texts), padding="max_length", max_length=length, truncation=True).input_ids
    captions = []
    for row, text in enumerate(texts):
        count = int(read[row].nonzero().max()) + 1
        captions.append(CachedCaption(text, np.array(ids[row][:count]), embeds[row, :count].half().cpu().numpy()))
    return captions


class KeptCaptions:
    """Embedded captions in a file, read one by one; safe to hand to the workers of a `DataLoader`.

    Args:
        path: of the file.
        texts: in its order, the first one empty.
        channels: D of the embeddings.
    """

    def __init__(self, path: Path, texts: Sequence[str], channels: int):
        self.path, self.channels = path, channels
        self._rows = {text: row for row, text in enumerate(texts)}
        self._open: tuple[int, Any] = (0, None)  # process, file

    def __getitem__(self, text: str) -> CachedCaption:
        """The caption of a text; the empty one of texts that are not kept, those of clips that nothing is generated from."""
        import pyarrow.parquet as pq

        process, file = self._open
        if process != os.getpid():  # a worker must not share file positions with its parent
            file = pq.ParquetFile(self.path)
            self._open = (os.getpid(), file)
        return read_caption(file, self._rows.get(text, 0), self.channels)


def keep_captions(pipeline: Any, texts: Sequence[str], folder: Path, length: int) -> KeptCaptions:
    """Embed distinct texts into a file of `folder`, or find it there from before; one process does, the others wait.

    The text encoder is on the training's device for as long as it takes.

    Args:
        pipeline: of a generator.
        texts: in a fixed order; the empty one goes before them.
        folder: of the run.
        length: tokens that they are padded to.
    """
    state = PartialState()
    encoder, texts = pipeline.text_encoder, list(dict.fromkeys(["", *texts]))
    made_by = "\n".join([weights_hash(encoder), str(length), *texts])
    path = folder / f"captions-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.parquet"
    with state.main_process_first():
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            place = encoder.device
            encoder.to(state.device)
            try:
                write_aside(path, lambda aside: _write(aside, pipeline, texts, length, state.device))
            finally:
                encoder.to(place)
            logger.info("%d captions embedded, %.1f MB in %s", len(texts), path.stat().st_size / 1e6, path.name)
    return KeptCaptions(path, texts, encoder.config.d_model)


def _write(path: Path, pipeline: Any, texts: list[str], length: int, device: torch.device) -> None:
    with write_rows(path) as rows:
        for start in range(0, len(texts), _AT_ONCE):
            rows.append(caption_rows(start, embed_for(pipeline, texts[start : start + _AT_ONCE], length, device)))
