"""Hugging Face `evaluate` modules around the metrics: `evaluate.load(module_path("pose_metrics"))`.

Each folder holds one module of the same name. They need the package `evaluate` (extra "evaluate") and jog3r itself.
"""

from pathlib import Path

_ROOT = Path(__file__).parent


def module_names() -> list[str]:
    """Names of the modules there are."""
    return sorted(folder.name for folder in _ROOT.iterdir() if (folder / f"{folder.name}.py").is_file())


def module_path(name: str) -> str:
    """Folder of a module, for `evaluate.load`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in module_names():
        raise ValueError(f"there is no evaluate module {name!r}; there are {', '.join(module_names())}")
    return str(_ROOT / name)
