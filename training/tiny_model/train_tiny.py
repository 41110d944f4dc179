"""Retrain the bundled checkpoint from nothing: VAE, text encoder, single frames, clips of 4, of 16 frames, then the folder.

    make tiny            (or: python training/tiny_model/train_tiny.py [--runs runs/tiny] [--bundle runs/tiny/bundle])

Stages that have finished are skipped and the training stages resume where they stopped, so the same command goes on after any
interruption. Hours and results to expect stand in the recipes and in the bundled model card.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from jog3r.data.files import replace_folder
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline

logger = logging.getLogger(__name__)
TRAINING = Path(__file__).resolve().parents[1]


def bundle(pipeline_dir: Path, destination: Path) -> None:
    """Write the pipeline in half precision as a folder to ship; an existing folder is replaced only when all is written."""
    pipeline = Jog3rPipeline.from_pretrained(pipeline_dir)
    for name in (
        "vae",
        "transformer",
        "pointmap_head",
    ):  # diffusers loads them as float32; transformers would keep half precision
        getattr(pipeline, name).to(torch.float16)

    def write(aside: Path) -> None:
        pipeline.save_pretrained(aside)
        for config in aside.rglob("*.json"):
            values = json.loads(config.read_text(encoding="utf-8"))
            if values.pop("_name_or_path", None) is not None:  # the folder it was loaded from is nobody's business
                config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if (destination / "README.md").exists():  # the model card is written by hand
            shutil.copy(destination / "README.md", aside / "README.md")

    replace_folder(destination, write)
    size = sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())
    logger.info("%s: %.1f MB", destination, size / 1e6)


def run(script: str, *arguments: str) -> None:
    """Run a script of `training/` in a process of its own, with memory settings that double a CPU's training speed."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
    subprocess.run([sys.executable, str(TRAINING / script), *arguments], check=True, env={**settings, **os.environ})


def main() -> None:
    """All stages in order."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"), help="where stages keep their files")
    parser.add_argument("--bundle", type=Path, default=None, help="folder to write at the end (default: RUNS/bundle)")
    parser.add_argument("--only_bundle", action="store_true", help="only rewrite the folder from the last finished stage")
    options = parser.parse_args()
    runs: Path = options.runs
    recipes = TRAINING / "recipes"
    if not options.only_bundle:
        if not (runs / "vae" / "config.json").exists():
            run("tiny_model/train_vae.py", "--config", str(recipes / "tiny_vae.yaml"), "--output_dir", str(runs / "vae"))
        if not (runs / "new" / "model_index.json").exists():
            run("tiny_model/new_tiny.py", "--vae", str(runs / "vae"), "--output_dir", str(runs / "new"))
        if not (runs / "text" / "model_index.json").exists():
            arguments = ("--init_from", str(runs / "new"), "--output_dir", str(runs / "text"))
            run("tiny_model/train_text_encoder.py", "--config", str(recipes / "tiny_text.yaml"), *arguments)
        previous = runs / "text"
        for stage in ("images", "short", "joint"):
            if not (runs / stage / "pipeline" / "model_index.json").exists():
                arguments = ("--init_from", str(previous), "--output_dir", str(runs / stage))
                run("train_joint.py", "--config", str(recipes / f"tiny_{stage}.yaml"), *arguments)
            previous = runs / stage / "pipeline"
    bundle(runs / "joint" / "pipeline", options.bundle or runs / "bundle")


if __name__ == "__main__":
    main()
