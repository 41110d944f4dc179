"""Retrain the bundled checkpoint from nothing: VAE, text encoder, single frames, clips of 4, of 16 frames, the
folder, its evaluation, and the figures in its card.

    make tiny            (or: python training/tiny_model/train_tiny.py [--runs runs/tiny] [--bundle runs/tiny/bundle])

Stages that have finished are skipped and the others go on where they were stopped, so the same command goes on after any
interruption. Hours and results to expect stand in the recipes and in the bundled model card.
"""

import argparse
import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch

from jog3r.data.files import replace_folder
from jog3r.pipelines.pipeline_jog3r import Jog3rPipeline
from jog3r.training.folder_lock import FolderLock
from jog3r.training.saving import save_without_paths
from jog3r.training.tiny_model.card_figures import figures_of, without_figures, write_figures

logger = logging.getLogger(__name__)
TRAINING = Path(__file__).resolve().parents[1]


def bundle(pipeline_dir: str | Path, destination: str | Path) -> None:
    """Write the pipeline in half precision as a folder to ship; an existing folder is replaced only when all is written."""
    pipeline, destination = Jog3rPipeline.from_pretrained(pipeline_dir), Path(destination)
    for name in ("vae", "transformer", "pointmap_head"):  # diffusers loads as float32; transformers would keep half precision
        getattr(pipeline, name).to(torch.float16)

    def write(aside: Path) -> None:
        save_without_paths(pipeline, aside)
        card = destination / "README.md"
        if card.exists():  # the model card is written by hand, but for its figures
            (aside / "README.md").write_text(without_figures(card.read_text(encoding="utf-8")), encoding="utf-8")

    replace_folder(destination, write)
    size = sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())
    logger.info("%s: %.1f MB", destination, size / 1e6)


def run(script: str, *arguments: str) -> int:
    """Exit code of a script of `training/`, or of `jog3r` with that name, in a process of its own.

    Memory settings double a CPU's training speed.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
    command = ["-m", "jog3r"] if script == "jog3r" else [str(TRAINING / script)]
    return subprocess.run([sys.executable, *command, *arguments], env={**settings, **os.environ}).returncode


def train(runs: Path, recipes: Path) -> int:
    """All stages but the last that are not finished yet, in order; the exit code of the first that fails, else 0."""
    stages = [
        ("vae", "tiny_model/train_vae.py", (), ("config.json", "diffusion_pytorch_model.safetensors")),
        ("new", "tiny_model/new_tiny.py", ("--vae", str(runs / "vae")), ("model_index.json",)),
        ("text", "tiny_model/train_text_encoder.py", ("--init_from", str(runs / "new")), ("model_index.json",)),
    ]
    previous = runs / "text"
    for name in ("images", "short", "joint"):
        stages.append((name, "train_joint.py", ("--init_from", str(previous)), ("pipeline/model_index.json",)))
        previous = runs / name / "pipeline"
    for name, script, arguments, results in stages:
        if all((runs / name / result).is_file() for result in results):
            continue
        recipe = recipes / f"tiny_{name}.yaml"
        config = () if name == "new" and not recipe.is_file() else ("--config", str(recipe))  # its defaults are the bundled sizes
        if code := _stage(name, script, *config, "--output_dir", str(runs / name), *arguments):
            return code
    return 0


def evaluate(model: Path, folder: Path, clips: int, videos: int) -> int:
    """Evaluate a bundle on held-out clips and captions and write its card's figures; the exit code of what fails, else 0.

    Results lie in a folder of `folder` that has the weights' hash for a name: a bundle made anew is evaluated anew.
    """
    weights = b"".join(path.read_bytes() for path in sorted(model.rglob("*.safetensors")))
    folder = folder / hashlib.sha256(weights).hexdigest()[:16]
    common = ("--model", str(model), "--clips", str(clips))
    tasks = {"one pass": ("all", "--videos", str(videos)), "both directions": ("v2c", "--both_directions")}
    runs = {name: folder / name.replace(" ", "_") for name in tasks}
    for name, (task, *words) in tasks.items():
        if code := _stage("evaluation", "jog3r", "evaluate", task, *common, *words, "--out", str(runs[name])):
            return code
    write_figures(model, figures_of(runs))
    return 0


def _stage(name: str, script: str, *arguments: str) -> int:
    code = run(script, *arguments)
    if code:
        logger.error("error: stage %s of make tiny ended with exit code %d; the same command goes on with it", name, code)
    return code


def main(arguments: list[str] | None = None) -> int:
    """All stages in order; a user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"), help="where stages keep their files")
    parser.add_argument("--bundle", type=Path, default=None, help="folder to write at the end (default: RUNS/bundle)")
    parser.add_argument(
        "--recipes",
        type=Path,
        default=TRAINING / "recipes",
        help="folder of tiny_*.yaml, that for `new` if it is there (default: training/recipes)",
    )
    parser.add_argument(
        "--only_bundle", action="store_true", help="only rewrite the folder from the last finished stage, and evaluate it"
    )
    parser.add_argument("--clips", type=int, default=200, help="held-out clips of the evaluation at the end")
    parser.add_argument("--videos", type=int, default=64, help="held-out captions, likewise")
    options = parser.parse_args(arguments)
    try:
        with FolderLock(options.runs):
            code = 0 if options.only_bundle else train(options.runs, options.recipes)
            destination = options.bundle or options.runs / "bundle"
            if code == 0:
                bundle(options.runs / "joint" / "pipeline", destination)
                code = evaluate(destination, options.runs / "evaluation", options.clips, options.videos)
    except ValueError as error:
        logger.error("error: %s", error)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
