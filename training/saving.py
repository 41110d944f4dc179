"""Saved models that say nothing of the machine they were made on."""

import json
from pathlib import Path
from typing import Any

__all__ = ["save_without_paths"]

# What diffusers, transformers and peft note of where a model was loaded from.
_PLACES = ("_name_or_path", "name_or_path", "base_model_name_or_path")


def save_without_paths(model: Any, folder: str | Path) -> None:
    """`save_pretrained`, then configs without the folder that the parts were loaded from: it says nothing elsewhere."""
    model.save_pretrained(folder)
    for path in Path(folder).rglob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and any(name in values for name in _PLACES):
            kept = {name: value for name, value in values.items() if name not in _PLACES}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
