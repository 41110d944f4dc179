"""Packaging of jog3r: a folder at the root is `jog3r.<folder>`; `jog3r/` itself is the front door."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDERS = ("models", "pipelines", "geometry", "data", "training", "evaluation", "export", "sfm", "space")

package_dir, packages = {"jog3r": "jog3r"}, ["jog3r", *(f"jog3r.{name}" for name in find_packages("jog3r"))]
for folder in FOLDERS:
    package_dir[f"jog3r.{folder}"] = folder
    packages += [f"jog3r.{folder}", *(f"jog3r.{folder}.{name}" for name in find_packages(folder))]

CORE = [
    "torch>=2.6",
    "diffusers>=0.42",
    "transformers>=5.0",
    "accelerate>=1.10",
    "huggingface_hub>=1.0",
    "safetensors>=0.5",
    "numpy>=1.26",
    "pillow>=10.0",
    "av>=13.0",  # video files in and out; its wheels carry ffmpeg
    "matplotlib>=3.8",  # trajectory pictures
    "tqdm>=4.66",
]
EXTRAS = {
    "train": [
        "filelock>=3.30",
        "datasets>=4.2",
        "pyarrow>=15",
        "peft>=0.17",
        "tensorboard>=2.16",
        "pyyaml>=6.0",
        "tokenizers>=0.21",
    ],
    "heic": ["pi-heif>=1.0"],  # telephones' pictures; PIL has no reader of its own
    "wandb": ["wandb>=0.20"],
    "trackio": ["trackio>=0.5"],
    "clean": ["ftfy>=6.1", "beautifulsoup4>=4.12"],  # clean_caption=True, as OpenSora cleans its captions
    "evaluate": ["evaluate>=0.4", "datasets>=3.0"],
    "convert": ["sentencepiece>=0.2", "protobuf>=5.0"],  # T5 tokenizers that are published as spiece.model alone
    "sfm": ["pycolmap>=4.0"],  # cameras from feature tracks
    "viewer": ["viser>=1.0"],
    "demo": ["gradio>=6.31"],
    "mcp": ["gradio>=6.31", "mcp>=1.21,<2"],  # not gradio[mcp]: that asks for an older pydantic
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# not part of "all": where it is installed, peft imports it, and without a GPU it complains at every start
EXTRAS["8bit"] = ["bitsandbytes>=0.46"]  # optimizer=adamw8bit
# tests open every export with the program it is for
EXTRAS["dev"] = [
    *EXTRAS["all"],
    *("pytest>=8.0", "pytest-xdist>=3.5", "ruff>=0.9", "mypy>=1.13", "types-PyYAML"),
    "playwright>=1.50",  # drives a Chromium that is there; brings none
    *("trimesh>=4.4", "plyfile>=1.0", "evo>=1.30", "scipy>=1.11"),
]

setup(
    name="jog3r",
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "jog3r" / "__init__.py").read_text()).group(1),
    description="Text to video with pointmaps and cameras, and video to cameras, from one diffusers-native model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",  # as diffusers
    packages=packages,
    py_modules=["spaces_app"],  # `jog3r serve` finds it beside the package
    package_dir=package_dir,
    package_data={
        "jog3r": ["tiny/**", "tiny/*/*"],
        "jog3r.training": ["recipes/*.yaml", "accelerate/*.yaml"],
        "jog3r.data.procedural": ["*.json"],
        "jog3r.evaluation": ["lists/*.json"],
        "jog3r.export": ["web/*"],
        "jog3r.space": ["example_files/*"],
        "jog3r.space.look": ["*.css", "*.js"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["jog3r = jog3r.commands.parser:main"]},
    classifiers=["Programming Language :: Python :: 3", "Programming Language :: Python :: 3.11"],
)
