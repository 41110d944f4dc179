"""Words of a caption that change when its clip is played backwards or seen in a mirror."""

__all__ = ["mirrored_words", "reversed_words"]

_BACKWARDS = {"forward": "backward", "backward": "forward", "left": "right", "right": "left"}
_MIRRORED = {"left": "right", "right": "left"}


def reversed_words(text: str) -> str:
    """The text when time runs backwards: "turns right" for "turns left", "moves backward" for "moves forward"."""
    return _swap_words(text, _BACKWARDS)


def mirrored_words(text: str) -> str:
    """The text in a mirror: left and right exchanged, forward and backward kept."""
    return _swap_words(text, _MIRRORED)


def _swap_words(text: str, swaps: dict[str, str]) -> str:
    """Whole words exchanged; a comma or full stop behind a word stays."""
    words = []
    for word in text.split(" "):
        bare = word.rstrip(",.;")
        words.append(swaps.get(bare, bare) + word[len(bare) :])
    return " ".join(words)
