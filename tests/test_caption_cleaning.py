"""Captions are cleaned by the rules that OpenSora 1.0 uses."""

import pytest

from jog3r.pipelines import caption_cleaning
from jog3r.pipelines.caption_cleaning import clean_captions


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A  Red   Room", "a red room"),
        ("see www.room.com/y now", "see now"),
        ("Tom &amp; Jerry", "tom jerry"),
        ("a <b>bold</b> room", "a bold room"),
        ("a room\ufb02oor", "a roomfloor"),
        ("a+room%21", "a room!"),
        ("IMG_1234.jpg a hall", "a hall"),
        ("«quoted» – text", '"quoted" - text'),
        ("from 1234567 rooms", "from rooms"),
        ("@user in a room #tag", "in a room tag"),
    ],
)
def test_known_values(raw: str, clean: str) -> None:
    assert clean_captions([raw]) == [clean]


def test_cleaning_is_done_twice() -> None:
    """What is an entity at first is a tag in the second pass."""
    assert clean_captions(["a &lt;b&gt;room"]) == ["a room"]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_cleaning, "is_ftfy_available", lambda: False)
    with pytest.raises(ImportError, match="pip install ftfy"):
        clean_captions(["a room"])
