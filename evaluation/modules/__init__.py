"""Hugging Face `evaluate` modules around the metrics: `evaluate.load(module_path("pose_metrics"))`.

Each file is one module. They need the package `evaluate` (extra "evaluate") and jog3r itself.
"""

from pathlib import Path

_ROOT = Path(__file__).parent


def module_names() -> list[str]:
    """Names of the modules there are."""
    return sorted(path.stem for path in _ROOT.glob("*.py") if path.stem != "__init__")


def module_path(name: str) -> str:
    """File of a module, for `evaluate.load`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in module_names():
        raise ValueError(f"there is no evaluate module {name!r}; there are {', '.join(module_names())}")
    return str(_ROOT / f"{name}.py")
