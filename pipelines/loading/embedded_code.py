"""A pipeline.py that carries the source of the package, for machines where jog3r is not installed.

diffusers copies a folder's pipeline.py elsewhere before it runs it, so everything it needs lies in that one file: each module as
plain text, to be read before it is trusted. The text stands in comments, so that nothing in it can end it, and as diffusers takes
lines that begin with "import" for needs of the file.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("models", "pipelines", "geometry", "data", "export")  # all that inference and its results import
REQUIREMENTS = (
    *("torch>=2.6", "diffusers>=0.42", "transformers>=5.0", "accelerate>=1.10", "huggingface_hub>=1.0", "safetensors>=0.5"),
    *("numpy>=1.26", "pillow>=10.0", "av>=13.0"),
)
_FILE, _LINE = "#= ", "#|"  # begin the name of a module, and each line of it

_TEMPLATE = '''"""{name} with the source of the package jog3r {version} (Apache-2.0), for machines where it is not installed.

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)

An installed jog3r goes first. Else the modules below are written into the cache of Hugging Face and imported from there.
"""

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from diffusers.utils.constants import HF_MODULES_CACHE

DIGEST = "{digest}"


def unpack() -> Path:
    """Write the modules into a folder named by their checksum; complete, or not at all."""
    folder = Path(HF_MODULES_CACHE) / ("jog3r_" + DIGEST)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        for text in Path(__file__).read_text(encoding="utf-8").split("\\n{file}")[1:]:
            name, *lines = text.split("\\n")
            path = Path(aside) / "modules" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\\n".join(line[len("{line}") :] for line in lines), encoding="utf-8")
        try:
            os.replace(Path(aside) / "modules", folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def load():
    """The pipeline's class."""
    if importlib.util.find_spec("jog3r") is None:
        sys.path.append(str(unpack()))
    try:
        return getattr(importlib.import_module("{module}"), "{name}")
    except ModuleNotFoundError as error:
        raise ImportError("{name} needs the package " + str(error.name) + ": pip install {requirements}") from error


{name} = load()

{sources}'''


def pipeline_with_code(pipeline_class: type) -> str:
    """The text of pipeline.py for a class of this package."""
    from jog3r import __version__

    sources = "\n".join(f"{_FILE}{name}\n{_quoted(text)}" for name, text in sorted(_modules().items()))
    return _TEMPLATE.format(
        name=pipeline_class.__name__,
        module=pipeline_class.__module__,
        version=__version__,
        digest=hashlib.sha256(sources.encode()).hexdigest()[:16],
        file=_FILE,
        line=_LINE,
        requirements=" ".join(f"'{requirement}'" for requirement in REQUIREMENTS),
        sources=sources,
    )


def _quoted(text: str) -> str:
    return "\n".join(_LINE + line for line in text.split("\n"))


def _modules() -> dict[str, str]:
    """File name -> text, as they lie in an installed package; without weights and without command line."""
    front = Path(str(find_spec("jog3r").origin))  # type: ignore[union-attr]  # this very package
    found = {"jog3r/__init__.py": front.read_text(encoding="utf-8")}
    for package in PACKAGES:
        root = Path(str(find_spec(f"jog3r.{package}").origin)).parent  # type: ignore[union-attr]
        for path in root.rglob("*"):
            if path.suffix in (".py", ".json", ".js", ".css") and "__pycache__" not in path.parts:
                found[f"jog3r/{package}/{path.relative_to(root).as_posix()}"] = path.read_text(encoding="utf-8")
    return found
