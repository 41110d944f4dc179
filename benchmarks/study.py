"""Do the paper's claims hold at a size that one core affords? The rows of its tables with three seeds, its ablations with one.

    make study                                  # all of it; again and again, until it is through
    python benchmarks/study.py --rows all late  # only some rows: several processes can share the work
    python benchmarks/study.py --page           # only the tables of docs/study.md, from the results that are there

A generator (6 blocks, width 128; VAE and text encoder of the bundled checkpoint) is pre-trained on procedural clips of 8 frames
of 64 x 64 pixels. From it every row of `ROWS` is trained for the same number of steps, then measured with the functions of
`jog3r evaluate` and by judges from outside. Order: the first seed of all rows, the other seeds, the ablations.

Everything resumes: after a kill trainings go on from their checkpoints, and results that are there are not made again. SIGTERM
ends a training cleanly. A result is one JSON file in docs/study/: settings, hashes of weights, what each clip contributed. After
each of them docs/study.md gets its tables and verdicts anew; what is missing is marked there. The pre-trained transformer lies
beside them (docs/study/generator/): whoever goes on with the study starts from it. Remove all of docs/study/ to begin anew.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from study_measure import measure_cameras, measure_videos, measure_with_reader
from study_page import read_results, write_page
from study_runs import Paused, Scale, Workshop, cpu_seconds_a_step, gradient_balance, mean_losses

from jog3r import __version__
from jog3r.data.files import replace_folder, write_text
from jog3r.evaluation.predictions import TEXT_PARTS, pipeline_hash
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.training.saving import save_without_paths

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
MANY = (0, 1, 2)
BALANCED = "balanced"  # lambda at which both losses pull equally hard at the shared weights where the first joint run starts
TEMPORAL = {"trainable": "temporal", "frozen_blocks": 1}  # the paper's choice: of its 28 blocks the first 4 stay as they are


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Attributes:
        name: in file names and claims.
        train: options of train_joint.py beyond the common ones.
        halves: whether a step has clips for the generation and for the reconstruction half.
        seeds: of the training.
        videos: whether its videos are measured, too.
        read_at: time step at which video to cameras reads; None: the pipeline's own, 20 of 1000.
        of: name of the row whose models are measured, where nothing is trained.
    """

    name: str
    train: Mapping[str, Any]
    halves: tuple[bool, bool] = (True, True)
    seeds: tuple[int, ...] = (0,)
    videos: bool = False
    read_at: float | None = None
    of: str | None = None


def _noise(percent: int) -> Row:
    """Trained to read at time steps up to that share of the schedule, and read at the last of these."""
    last = 10 * percent
    return Row(f"noise_{percent}", {**TEMPORAL, "max_reconstruction_timestep": last}, read_at=last)


ROWS = (
    Row("frozen", {"trainable": "none"}, (False, True), MANY, videos=True),
    Row("reconstruction", TEMPORAL, (False, True), MANY, videos=True),
    Row("generation", TEMPORAL, (True, False), MANY, videos=True),
    Row("joint", TEMPORAL, (True, True), MANY, videos=True),
    Row("two_stage", {}, seeds=MANY, of="generation"),
    Row("dust3r", {"model": "dust3r"}, (False, True), MANY),
    Row("tap_early", {**TEMPORAL, "feature_layers": (2,)}),
    Row("tap_middle", {**TEMPORAL, "feature_layers": (4,)}),
    Row("tap_fused", {**TEMPORAL, "feature_layers": (2, 4, 5)}),
    Row("lambda_0.1", {**TEMPORAL, "reconstruction_weight": 0.1}, videos=True),
    Row("lambda_10", {**TEMPORAL, "reconstruction_weight": 10.0}, videos=True),
    Row("all", {"trainable": "all"}, videos=True),
    Row("global", {**TEMPORAL, "head_attention": "global"}),
    _noise(5),
    Row("noise_10", {}, read_at=100, of="joint"),
    _noise(30),
    _noise(60),
    # two remedies, should joint training not win
    Row("balanced", {**TEMPORAL, "reconstruction_weight": BALANCED}, videos=True),
    Row("late", {**TEMPORAL, "reconstruction_warmup_steps": 300}, videos=True),
)


@dataclass(frozen=True)
class Study:
    """The study in a folder.

    Attributes:
        workshop: makes the models.
        results: folder of the JSON files.
        rows: of the study.
        wanted: names of the rows to measure here; None: all.
    """

    workshop: Workshop
    results: Path
    rows: tuple[Row, ...] = ROWS
    wanted: Collection[str] | None = None

    def run(self, written: Callable[[], object]) -> None:
        """Make every result that is missing; `written` is called after each.

        Raises:
            Paused: after a SIGTERM, or when the time is over.
            ValueError: results of another scale are there.
        """
        for row, seed in self.order():
            is_wanted = self.wanted is None or row.name in self.wanted
            if is_wanted and not self._path(row.name, seed).is_file():
                logger.info("%s, seed %d", row.name, seed)
                self._write(row.name, seed, self.measure(row, seed))
                written()

    def order(self) -> list[tuple[Row, int]]:
        """All runs: the first seed of the rows with several, their other seeds, then the ablations."""
        many = [row for row in self.rows if len(row.seeds) > 1]
        found = [(row, seed) for seed in MANY for row in many if seed in row.seeds]
        return found + [(row, seed) for row in self.rows if row not in many for seed in row.seeds]

    def train(self, row: Row, seed: int) -> Path:
        """The pipeline of a row, trained if it is not there."""
        generation, reconstruction = (clips * half for clips, half in zip(self.workshop.scale.batch, row.halves, strict=True))
        is_dust3r = row.train.get("model") == "dust3r"
        options = dict(row.train)
        if options.get("reconstruction_weight") == BALANCED:
            joint = json.loads(self._path("joint", 0).read_text(encoding="utf-8"))["gradients"]["start"]
            options["reconstruction_weight"] = round(joint["generation"] / joint["reconstruction"], 3)
        start = (self.workshop.dust3r_start if is_dust3r else self.workshop.start)(seed)
        return self.workshop.train(
            start, self._run(row, seed), **options, generation_batch=generation, reconstruction_batch=reconstruction,
            num_steps=self.workshop.scale.steps, decay_fraction=0.7, seed=seed,
        )  # fmt: skip

    def measure(self, row: Row, seed: int) -> dict[str, Any]:
        """Train a row, and measure it."""
        scale, out = self.workshop.scale, self.workshop.folder / "measured" / f"{row.name}-{seed}"
        trained = self._named(row.of or row.name)
        model = self.train(trained, seed)
        tables: dict[str, Any] = {}
        if row.name == "two_stage":
            videos = self.workshop.folder / "measured" / f"{trained.name}-{seed}" / "t2vc"
            tables |= measure_with_reader(videos, scale, self.train(self._named("reconstruction"), seed))
        elif row.halves[1]:
            tables |= measure_cameras(model, out, scale, row.read_at)
        if row.videos:
            shown = model if row.halves[1] else self._with_head(model, self.train(self._named("frozen"), seed))
            tables |= measure_videos(shown, out, scale, ceiling=False) | measure_with_reader(out / "t2vc", scale, None)
            if not self._path("real", 0).is_file():
                self._write("real", 0, {"tables": measure_videos(shown, out, scale, ceiling=True)})
        run = self._run(trained, seed)
        found = {
            "train": dict(row.train), "halves": row.halves, "read_at": row.read_at, "of": row.of,
            "weights": pipeline_hash(load_pipeline(str(model), with_text=False), TEXT_PARTS), "losses": mean_losses(run),
            "cpu_seconds_a_step": cpu_seconds_a_step(run), "tables": tables,
        }  # fmt: skip
        if row.name == "joint":
            ends = {"start": self.workshop.start(seed), "end": model}
            found["gradients"] = {name: gradient_balance(self.workshop, folder, TEMPORAL) for name, folder in ends.items()}
        return found

    def _with_head(self, model: Path, head_of: Path) -> Path:
        """A generator trained without head, with the one of another pipeline: text to video with cameras needs some head.

        What its cameras are worth is not reported.
        """
        folder = model.parent / "with_head"
        if not folder.is_dir():
            pipe = load_pipeline(str(model))
            pipe.register_modules(pointmap_head=load_pipeline(str(head_of), with_text=False).pointmap_head)
            replace_folder(folder, partial(save_without_paths, pipe))
        return folder

    def _named(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def _run(self, row: Row, seed: int) -> Path:
        return self.workshop.folder / "runs" / f"{row.name}-{seed}"

    def _path(self, name: str, seed: int) -> Path:
        return self.results / f"{name}-{seed}.json"

    def _write(self, name: str, seed: int, found: Mapping[str, Any]) -> None:
        generator = pipeline_hash(load_pipeline(str(self.workshop.pretrained())))
        common = {"row": name, "seed": seed, "jog3r": __version__, "scale": asdict(self.workshop.scale), "generator": generator}
        text = json.dumps({**common, **found}, separators=(",", ":")) + "\n"
        self.results.mkdir(parents=True, exist_ok=True)
        write_text(self._path(name, seed), text)


def main() -> int:
    """Entry point; 0 when all is there, 3 when paused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "study", help="of models and checkpoints")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "study", help="of the JSON files")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=[row.name for row in ROWS],
        help="only these; processes that share a folder take different ones",
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    page = ROOT / "docs" / "study.md"

    def written() -> None:
        write_page(page, read_results(options.results, Scale()))

    written()
    if options.page:
        return 0
    workshop = Workshop(options.folder, Scale(), options.results / "generator")
    try:
        workshop.prepare()
        Study(workshop, options.results, wanted=options.rows).run(written)
    except Paused:
        print("paused: the same command goes on", flush=True)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
