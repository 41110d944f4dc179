"""Training clips as a stream: position k always gives the same clip, so that resuming is a matter of a number."""

import copy
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.utils.data import Dataset

from jog3r.data.clip import Clip, mirror, reverse
from jog3r.data.direction_words import mirrored_words, reversed_words
from jog3r.data.procedural import procedural_caption, procedural_clip, scene_names
from jog3r.pipelines.latents import encode_frames
from jog3r.training.preparation.caption_embeddings import caption_item


class ProceduralStream(Dataset):
    """Procedural training clips with their latents; time is reversed and left mirrored with p = 0.5 each.

    Args:
        vae: frozen; runs in the loader's worker, beside the training. None: items hold frames, no latents, and of captions
            those of `keep_captions` alone.
        tokenizer: of the captions; None without VAE, or for items without captions.
        caption_length: tokens every caption is padded to.
        num_frames, height, width: of a clip; with one frame it is the first or the last of a path.
        first_clip: number of the first scene.
        length: positions in the stream.
        seed: of the augmentation.
        style: "rooms" or "varied", see `procedural_clip`.
    """

    def __init__(  # noqa: PLR0913  # what an item is a function of
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        tokenizer: Any,
        caption_length: int,
        size: tuple[int, int, int],
        first_clip: int,
        length: int,
        seed: int,
        style: str = "rooms",
    ):
        self.vae, self.tokenizer, self.caption_length = vae, tokenizer, caption_length
        self.num_frames, self.height, self.width = size
        self.first_clip, self.length, self.seed, self.style = first_clip, length, seed, style
        self.split, self.keeps_frames = "train", False
        self._captions: Any = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Depth (F, H, W), valid, intrinsics, poses; with a VAE latents (C, F, h, w), caption ids and mask (L,), else frames.

        Of a held-out stream also the frames (F, 3, H, W).
        """
        clip = self._clip(self.first_clip + position)
        geometry = {
            "depth": torch.from_numpy(clip.depth),
            "valid": torch.from_numpy(clip.valid),
            "intrinsics": torch.from_numpy(clip.intrinsics).float(),
            "poses": torch.from_numpy(clip.poses).float(),
        }
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float().div(127.5).sub(1)  # (F, 3, H, W)
        if self.vae is None:
            kept = (
                {} if self._captions is None else caption_item(self._captions[self.caption_text(position)], self.caption_length)
            )
            return {"frames": frames, **geometry, **kept}
        with torch.no_grad():
            latents = encode_frames(self.vae, frames[None].to(self.vae.device))[0]  # which a validation has on its GPU
        item = {"latents": latents.cpu(), **geometry}
        if self.keeps_frames:
            item["frames"] = frames
        if self.tokenizer is None:
            return item
        tokens = self.tokenizer(
            clip.caption, padding="max_length", max_length=self.caption_length, truncation=True, return_tensors="pt"
        )
        return {**item, "caption_ids": tokens.input_ids[0], "caption_mask": tokens.attention_mask[0]}

    def held_out_names(self, count: int) -> set[str]:  # noqa: ARG002  # whatever their number
        """No names: the validation split shares no scene with the training split."""
        return set()

    def hold_out(self, names: set[str]) -> Self:  # noqa: ARG002  # as above
        """The scenes of the validation split, as they are."""
        held = copy.copy(self)
        held.split, held.first_clip, held.keeps_frames = "validation", 0, True
        return held

    def caption_text(self, position: int) -> str:
        """The caption of the clip at `position`; nothing is rendered for it."""
        if self.style != "rooms":
            return ""
        flip_time, flip_side, _ = self._draw(self.first_clip + position)
        text = procedural_caption(self.first_clip + position, self.split)
        text = reversed_words(text) if flip_time and self.num_frames > 1 else text
        return mirrored_words(text) if flip_side else text

    def keep_captions(self, captions: Any, length: int) -> None:
        """Let items have captions that were embedded before: `captions[text]`, padded to `length` tokens."""
        self._captions, self.caption_length = captions, length

    def describe(self) -> dict[str, Any]:
        """What decides which clip stands where; a run goes on with the same alone."""
        style = {} if self.style == "rooms" else {"style": self.style}
        return {"kind": "procedural", "first_clip": self.first_clip, "seed": self.seed, **style}

    def sample_name(self, position: int) -> str:
        """The clip at `position`, for people and logs; nothing is rendered for it."""
        flip_time, flip_side, frame = self._draw(self.first_clip + position)
        marks = [("first frame", "last frame")[frame]] if self.num_frames == 1 else ["reversed"] * flip_time
        [name] = scene_names(self.split, self.first_clip + position, 1, self.style)
        return " ".join([name, *marks, *["mirrored"] * flip_side])

    def _draw(self, index: int) -> tuple[bool, bool, int]:
        """Whether time and side are flipped, and which end of the path a still shows."""
        if self.split == "validation":
            return False, False, 0
        chance = np.random.default_rng([self.seed, index])
        flip_time, flip_side = chance.random(2) < 0.5
        return bool(flip_time), bool(flip_side), int(chance.integers(2))

    def _clip(self, index: int) -> Clip:
        flip_time, flip_side, frame = self._draw(index)
        if self.num_frames == 1:
            return self._still(index, frame, flip_side)
        clip = procedural_clip(index, self.split, self.num_frames, self.height, self.width, self.style)
        clip = reverse(clip) if flip_time else clip
        return mirror(clip) if flip_side else clip

    def _still(self, index: int, frame: int, flip_side: bool) -> Clip:
        """The first or the last frame of a path as a clip of one frame."""
        clip = procedural_clip(index, self.split, 2, self.height, self.width, self.style)
        clip = mirror(clip) if flip_side else clip
        keep = slice(frame, frame + 1)
        return Clip(
            clip.frames[keep],
            clip.depth[keep],
            clip.valid[keep],
            np.eye(4, dtype=np.float32)[None],
            clip.intrinsics[keep],
            clip.caption,
            clip.attributes,
        )
