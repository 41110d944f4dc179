"""Caption cleaning as OpenSora 1.0 does it before T5: DeepFloyd IF's rules, taken from diffusers rather than written again."""

from diffusers.utils import is_bs4_available, is_ftfy_available


def clean_captions(texts: list[str]) -> list[str]:
    """Captions in lower case, with HTML entities and mojibake repaired and URLs, tags, file names and odd punctuation gone.

    Twice, as the original does: the first pass may uncover what the second removes.

    Raises:
        ImportError: without `ftfy` and `beautifulsoup4` (diffusers itself would go on with the raw caption).
    """
    missing = [name for name, found in (("ftfy", is_ftfy_available()), ("beautifulsoup4", is_bs4_available())) if not found]
    if missing:
        raise ImportError(f"cleaning captions needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    from diffusers import PixArtAlphaPipeline  # here and not at import: it drags in models that nothing else needs

    class Rules:
        """The member of diffusers' pipeline that its cleaning reads; the pipeline itself cannot be built without models."""

        bad_punct_regex = PixArtAlphaPipeline.bad_punct_regex

    rules = Rules()
    return [PixArtAlphaPipeline._clean_caption(rules, PixArtAlphaPipeline._clean_caption(rules, text)) for text in texts]
