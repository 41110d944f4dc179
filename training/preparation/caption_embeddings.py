"""Captions as they are kept: embedded once, without padding; and as items of training have them, padded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jog3r.data.cache import CachedCaption
from jog3r.pipelines.captions import embed_texts

__all__ = ["caption_item", "embed_captions"]


@torch.no_grad()
def embed_captions(
    tokenizer: Any, text_encoder: Any, texts: Sequence[str], max_length: int, device: torch.device
) -> list[CachedCaption]:
    """Each text's own tokens and their embeddings: most captions have ten, and padding would be nine tenths.

    Args:
        tokenizer, text_encoder: T5-type.
        texts: to embed, all at once.
        max_length: tokens of one.
        device: of the text encoder.
    """
    embeds, mask = embed_texts(tokenizer, text_encoder, list(texts), max_length, device)
    ids = tokenizer([text.lower().strip() for text in texts], truncation=True, max_length=max_length).input_ids
    return [
        CachedCaption(text, torch.tensor(ids[row]).numpy(), embeds[row, mask[row]].half().cpu().numpy())
        for row, text in enumerate(texts)
    ]


def caption_item(caption: CachedCaption, length: int) -> dict[str, torch.Tensor]:
    """Caption ids and mask (L,) and embeddings (L, D) of a training item, padded to `length` tokens."""
    count = len(caption.ids)
    ids = torch.zeros(length, dtype=torch.long)  # T5 pads with 0
    mask = torch.zeros(length, dtype=torch.long)
    embeddings = torch.zeros(length, caption.embeddings.shape[1])  # (L, D)
    ids[:count], mask[:count] = torch.from_numpy(caption.ids), 1
    embeddings[:count] = torch.from_numpy(caption.embeddings.astype(np.float32))
    return {"caption_ids": ids, "caption_mask": mask, "caption_embeds": embeddings}
