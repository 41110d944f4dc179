"""What strangers may ask for: every value is checked here, whatever the page or another program sends."""

import math
import unicodedata
from dataclasses import dataclass
from typing import Any


class Refused(Exception):
    """A request that is not done; the message is one sentence for the person who asked, `status` that of HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class SpaceLimits:
    """The bounds of one Space.

    Attributes:
        request_seconds: A request that computes longer is stopped.
        waiting: Requests that may wait; more are turned away at once.
        keep_seconds: Age at which files of requests and uploads are deleted.
        keep_bytes, keep_files: When files of requests and uploads take more, the oldest go before their time.
        uploads_at_once: Uploads that may come in at the same time.
        uploads_per_client: Those of one address among them.
        requests_per_client: Requests of one address that may wait or run.
        prompt_characters: Longest prompt.
        min_steps, max_steps: Sampling steps.
        max_guidance: Largest guidance scale; the smallest is 1 (none).
        min_frames: Fewest frames of a clip.
        upload_bytes: Largest upload.
        upload_seconds: Longest clip taken in.
        upload_frames: Most frames that an upload may hold.
        upload_side: Largest width or height of an upload in pixels.
        upload_pixels: Most pixels, over all frames, that may have to be decoded.
        decode_seconds: Decoding an upload that takes longer is stopped.
    """

    request_seconds: float = 120.0
    waiting: int = 20
    keep_seconds: int = 3600
    keep_bytes: int = 2 * 2**30
    keep_files: int = 20_000
    uploads_at_once: int = 20
    uploads_per_client: int = 3
    requests_per_client: int = 5
    prompt_characters: int = 500
    min_steps: int = 20
    max_steps: int = 100
    max_guidance: float = 10.0
    min_frames: int = 2
    upload_bytes: int = 30 * 2**20
    upload_seconds: float = 60.0
    upload_frames: int = 3600
    upload_side: int = 3840
    upload_pixels: int = 4 * 10**9
    decode_seconds: float = 40.0


@dataclass(frozen=True)
class GenerateSettings:
    """A checked wish for a video.

    Attributes:
        prompt: One line of text.
        seed: 0 to 2^31 - 1.
        steps: Sampling steps.
        guidance: Guidance scale, 1 or more.
        frames: F.
    """

    prompt: str
    seed: int
    steps: int
    guidance: float
    frames: int

    @classmethod
    def checked(
        cls, limits: SpaceLimits, max_frames: int, prompt: Any, seed: Any, steps: Any, guidance: Any, frames: Any
    ) -> "GenerateSettings":
        """From whatever came in.

        Raises:
            Refused: A value is missing, of the wrong kind or out of range.
        """
        return cls(
            check_prompt(prompt, limits.prompt_characters),
            check_whole("The seed", seed, 0, 2**31 - 1),
            check_whole("The number of steps", steps, limits.min_steps, limits.max_steps),
            _check_number("The guidance", guidance, 1.0, limits.max_guidance),
            check_whole("The number of frames", frames, limits.min_frames, max_frames),
        )


def check_prompt(prompt: Any, max_characters: int) -> str:
    """The prompt with its white space made single blanks.

    Raises:
        Refused: No text, an empty or too long one, or one with control characters.
    """
    if not isinstance(prompt, str):
        raise Refused("The prompt must be a text.")
    if len(prompt) > max_characters:
        raise Refused(f"The prompt has {len(prompt)} characters; at most {max_characters} are taken.")
    # Cc control, Cs lone surrogate, Co private use, Cn unassigned; line breaks and tabs are white space.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn") and not character.isspace() for character in prompt):
        raise Refused("The prompt holds characters that cannot be shown, such as NUL; please type it again.")
    text = " ".join(prompt.split())
    if not any(character.isalnum() for character in text):
        raise Refused("The prompt is empty; describe a scene, for example 'a room with blue walls, the camera moves forward'.")
    return text


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in `low` .. `high`.

    Raises:
        Refused: Another kind of value, or out of range.
    """
    number = _check_number(name, value, low, high)
    if number != int(number):
        raise Refused(f"{name} must be a whole number.")
    return int(number)


def _check_number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refused(f"{name} must be a number.")
    if not low <= value <= high:
        raise Refused(f"{name} must lie between {low:g} and {high:.10g}.")
    return float(value)
