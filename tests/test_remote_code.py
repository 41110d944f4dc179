"""Generic loading: diffusers' own loader with the package, and without it from a folder that carries the code."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_components import PROMPT, seeded, tiny_pipeline

from jog3r import Jog3rPipeline
from jog3r.evaluation.predictions import pipeline_hash
from jog3r.pipelines.loading.any_pipeline import load_pipeline
from jog3r.pipelines.loading.embedded_code import REQUIREMENTS

WITHOUT_PACKAGE = """
import gc
gc.disable()
import importlib.util, sys
sys.path.append(sys.argv[3])  # its .pth files are not read: an editable jog3r is not found
assert importlib.util.find_spec("jog3r") is None
import torch
from diffusers import DiffusionPipeline
sys.modules["av"] = None  # is not installed
try:
    DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
except ImportError as error:
    print(error)
del sys.modules["av"]
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
seed = lambda: torch.Generator().manual_seed(0)
made = pipe("{prompt}", num_inference_steps=8, output_type="pt", reconstruction_timestep=200, generator=seed())
read = pipe(video=torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(1)), generator=seed())
torch.save([made.frames, made.poses, made.pointmaps, read.poses], sys.argv[2])
import jog3r.export.player  # reads its scripts and styles
made.clip(0), pipe.save_pretrained(sys.argv[1] + "/again")
""".replace("{prompt}", PROMPT)


def test_a_folder_with_code_loads_where_the_package_is_not_installed(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model", with_code=True)
    places = [str(tmp_path / "model"), str(tmp_path / "output.pt"), sysconfig.get_path("purelib")]
    environment = {
        "PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-I", "-S", "-c", WITHOUT_PACKAGE, *places]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Jog3rPipeline needs the package av: pip install 'torch>=2.6'" in done.stdout
    made = pipe(PROMPT, num_inference_steps=8, output_type="pt", reconstruction_timestep=200, generator=seeded())
    read = pipe(video=torch.rand(3, 16, 16, 3, generator=seeded(1)), generator=seeded())
    found = torch.load(tmp_path / "output.pt")
    for value, expected in zip(found, (made.frames, made.poses, made.pointmaps, read.poses), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def test_the_installed_package_needs_no_trust_for_a_folder_with_code(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, with_code=True)
    assert type(Jog3rPipeline.from_pretrained(tmp_path)) is type(load_pipeline(str(tmp_path))) is Jog3rPipeline
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)) is Jog3rPipeline


def test_diffusers_own_loader_finds_the_pipeline(model: Path) -> None:
    assert type(DiffusionPipeline.from_pretrained(model)) is Jog3rPipeline


def test_what_to_install_is_what_the_package_asks_for() -> None:
    setup = (Path(__file__).resolve().parents[1] / "setup.py").read_text()
    assert all(f'"{requirement}"' in setup for requirement in REQUIREMENTS)


def test_the_installed_package_needs_no_trust_for_a_repository_with_code(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--coded"
    pipe = tiny_pipeline()
    pipe.save_pretrained(repository / "snapshots" / revision, with_code=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    again = Jog3rPipeline.from_pretrained("someone/coded", **options)
    assert type(again) is Jog3rPipeline and pipeline_hash(again) == pipeline_hash(pipe)
    assert pipeline_hash(load_pipeline("someone/coded", **options)) == pipeline_hash(pipe)
