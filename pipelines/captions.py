"""Caption embeddings as the denoiser wants them, with the null caption of guidance.

Letters: B clips, L caption tokens, D caption channels.
"""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jog3r.models.transformer_jog3r import Jog3rTransformer3DModel
from jog3r.pipelines.caption_cleaning import clean_captions

logger = logging.getLogger(__name__)


class CaptionBatch:
    """The captions of one call, doubled for guidance where needed.

    Attributes are the four tensors of `encode_prompt`: prompt_embeds (B, L, D), prompt_attention_mask (B, L) or None, and the
    negative ones.
    """

    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")

    def __init__(  # noqa: D107  # the class says it
        self,
        prompt_embeds: Tensor,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
    ):
        self.prompt_embeds = prompt_embeds
        self.prompt_attention_mask = prompt_attention_mask
        self.negative_prompt_embeds = negative_prompt_embeds
        self.negative_prompt_attention_mask = negative_prompt_attention_mask
        self._joined: dict[bool, tuple[Tensor, Tensor | None]] = {}

    def current(self, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Embeddings and mask of the batch [negative, positive], or of the positive captions alone."""
        if guided not in self._joined:  # kept, as joining waits for the device
            self._joined[guided] = self._join(guided)
        return self._joined[guided]

    def update(self, changed: dict[str, Any]) -> None:
        """Take over what a callback returned; it may also have written into the tensors."""
        for name in self.names:
            if name in changed:
                setattr(self, name, changed[name])
        self._joined.clear()

    def _join(self, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B or 2B, L, D) and their mask, None where all tokens count; the shorter of both halves is padded."""
        halves = [(self.prompt_embeds, self.prompt_attention_mask)]
        if guided:
            if self.negative_prompt_embeds is None:
                raise ValueError("guidance needs negative_prompt_embeds")
            halves.insert(0, (self.negative_prompt_embeds, self.negative_prompt_attention_mask))
        length = max(embeds.shape[1] for embeds, _ in halves)
        padded = [_pad(embeds, mask, length) for embeds, mask in halves]
        embeds, mask = (torch.cat(values) for values in zip(*padded, strict=True))
        if bool(mask.all()):
            return embeds, None
        if bool((mask == mask[:1]).all() and mask.any()):
            # Tokens that nobody attends to may as well be absent: less to compute, and not every attention backend takes masks.
            return embeds[:, mask[0]], None
        return embeds, mask


def _pad(embeds: Tensor, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, length, D) and their mask (B, length), False where they were padded."""
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
    missing = length - embeds.shape[1]
    return functional.pad(embeds, (0, 0, 0, missing)), functional.pad(mask, (0, missing), value=False)


def null_captions(
    transformer: Jog3rTransformer3DModel, batch_size: int, device: torch.device, length: int | None = None
) -> Tensor:
    """The learned unconditional caption, (B, L, D), wherever offloading keeps it."""
    null: Tensor = transformer.null_caption  # (L, D)
    if null.is_meta:  # accelerate keeps the values of offloaded tensors in its hooks
        hook: Any = transformer._hf_hook
        maps = [getattr(part, "weights_map", None) for part in getattr(hook, "hooks", [hook])]
        null = next(weights["null_caption"] for weights in maps if weights is not None)
    group = _disk_group(transformer)
    if group is not None:
        group.onload_()
        if group.stream is not None:
            group.stream.synchronize()
    null = null.detach().to(device, copy=group is not None)
    if group is not None:
        group.offload_()
    return null[:length].expand(batch_size, -1, -1)


def _disk_group(transformer: Jog3rTransformer3DModel) -> Any:
    """diffusers' group of the transformer's own tensors where they lie on disk: between calls what is in memory means nothing."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    hook = None if registry is None else registry.get_hook("group_offloading")
    return None if hook is None or hook.group.offload_to_disk_path is None else hook.group


def embed_texts(
    tokenizer: Any, text_encoder: Any, texts: list[str], max_length: int, device: torch.device, clean: bool = False
) -> tuple[Tensor, Tensor]:
    """Texts, in lower case and without outer blanks as OpenSora reads them, to embeddings and mask.

    Args:
        tokenizer, text_encoder: T5-type.
        texts: B of them.
        max_length: tokens; a longer text is cut behind a warning.
        device: of the results.
        clean: first remove what OpenSora removes (markup, addresses, odd punctuation).

    Returns:
        (B, max_length, D) and bool (B, max_length).

    Raises:
        ValueError: tokenizer or text encoder is None.
    """
    if tokenizer is None or text_encoder is None:
        raise ValueError("there is no text encoder or no tokenizer: pass prompt_embeds instead of a prompt")
    texts = clean_captions(texts) if clean else [text.lower().strip() for text in texts]
    tokens = tokenizer(
        texts, padding="max_length", max_length=max_length, truncation=True, return_attention_mask=True, return_tensors="pt"
    )
    for text, ids in zip(texts, tokenizer(texts, verbose=False).input_ids, strict=True):
        if len(ids) > max_length:
            begin = text if len(text) <= 80 else f"{text[:77]}..."
            logger.warning("the prompt %r has %d tokens; those after the first %d are not read", begin, len(ids), max_length)
    mask = tokens.attention_mask.to(device)
    embeds = text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]  # (B, L, D)
    return embeds, mask.bool()
