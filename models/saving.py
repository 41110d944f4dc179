"""Saving and uploading: folders that load again, and cards that say what lies in them."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import create_repo, file_exists
from torch import nn

CARD_NAME = "README.md"
NOT_STATED = "Not stated by whoever saved this checkpoint: please fill in before sharing it."


class SavingMixin:
    """`save_pretrained` and `push_to_hub` of our models and pipelines; stands before diffusers' own base class.

    diffusers' automatic card names an import that does not work, and it saves adapter layers under names that do not load.
    """

    def card(self) -> str:
        """The text of README.md in an uploaded repository."""
        raise NotImplementedError

    def parts(self) -> dict[str, Any]:
        """What is saved, by name."""
        return {"model": self}

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does, with its arguments.

        Raises:
            ValueError: there are adapter layers in the model, or `push_to_hub=True`.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError(
                "save_pretrained(push_to_hub=True) would upload a card with the wrong import; call push_to_hub(repo_id)"
            )
        for name, part in self.parts().items():
            if has_adapters(part):
                raise ValueError(
                    f"the {name} has LoRA layers in place, and a folder saved so does not load: add them into the weights with "
                    "its fuse_lora() and unload_lora(), or save them alone (save_lora_weights of the pipeline; "
                    "save_lora_adapter of the model) and remove them with unload_lora()"
                )
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]  # of diffusers, behind this class

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
    ) -> str:
        """Upload with our card; a card that the repository has stays. Arguments as in diffusers."""
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            path = Path(folder) / CARD_NAME
            path.write_text(self.card(), encoding="utf-8")
            if subfolder or file_exists(repo_id, CARD_NAME, token=token):
                path.unlink()
            return self._upload_folder(  # type: ignore[attr-defined]  # of PushToHubMixin
                folder, repo_id, token=token, commit_message=commit_message, create_pr=create_pr, subfolder=subfolder
            )


class ModelSavingMixin(SavingMixin):
    """The same for one model, a part of a pipeline."""

    about = ""

    def save_pretrained(  # type: ignore[override]  # pipelines look these names up, and hand on those that are there
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        save_function: Callable | None = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """See `SavingMixin.save_pretrained`; arguments as in diffusers."""
        options = {
            "is_main_process": is_main_process,
            "save_function": save_function,
            "safe_serialization": safe_serialization,
            "variant": variant,
            "max_shard_size": max_shard_size,
            "push_to_hub": push_to_hub,
        }
        super().save_pretrained(save_directory, **options, **kwargs)

    def card(self) -> str:
        """What the part is, how it is loaded, and what is not known of it."""
        name, licence = type(self).__name__, self.config.get("weights_license")  # type: ignore[attr-defined]
        sizes = "\n".join(f"- {key}: {value}" for key, value in self.config.items() if not key.startswith("_"))  # type: ignore[attr-defined]
        return f"""---
library_name: diffusers
{licence_line(licence)}tags:
- jog3r
---

# {name}

{self.about}
A part of [JOG3R](https://arxiv.org/abs/2501.01409), in the format of the package `jog3r`; alone it makes no video.

```python
from jog3r import {name}

model = {name}.from_pretrained("<this repository or folder>")
```

## Configuration

{sizes}

## Training data, quality, licence

{licence_sentence(licence)}{NOT_STATED}
"""


def licence_line(licence: str | None) -> str:
    """The line of a card's header, empty without a licence."""
    return f"license: {licence}\n" if licence else ""


def licence_sentence(licence: str | None) -> str:
    """What a card says of weights that came from elsewhere, empty without a licence."""
    commercial = " (not for commercial use)" if licence and "-nc" in licence else ""
    return f"The weights are, or were made from, weights under the licence {licence}{commercial}.\n" if licence else ""


def has_adapters(part: Any) -> bool:
    """Whether layers of peft lie inside a model."""
    if "peft" not in sys.modules or not isinstance(part, nn.Module):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in part.modules())
