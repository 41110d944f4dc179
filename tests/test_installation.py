"""What installs the package: one sentence for a Python that is too old, and files that name the same packages."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]
OLD = """#!/bin/sh
exec "{python}" -c "import sys; sys.version_info, sys.version = (3, 10, 2), '3.10.2 (main)'; exec(sys.argv[1])" "$2"
"""


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py gives to `setup`."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return given


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_names_a_python_that_is_too_old_and_installs_nothing(tmp_path):
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "oldpython"
    old.write_text(OLD.format(python=sys.executable))
    old.chmod(0o755)
    result = subprocess.run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0 and not (tmp_path / ".venv").exists()
    expected = f"jog3r needs Python 3.11 or newer, {old} is 3.10.2: make demo PYTHON=python3.11"
    assert result.stderr.splitlines()[0] == expected


def test_the_least_python_is_the_same_everywhere(setup_arguments):
    assert setup_arguments["python_requires"] == ">=3.11"
    tools, readme = (ROOT / "pyproject.toml").read_text(), (ROOT / "README.md").read_text()
    assert 'target-version = "py311"' in tools and 'python_version = "3.11"' in tools
    assert 'python_version: "3.11"' in readme and "Python 3.11 or newer" in readme


def test_the_space_installs_the_core_and_the_demo(setup_arguments):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [*setup_arguments["install_requires"], *setup_arguments["extras_require"]["demo"]]
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_every_package_that_is_asked_for_has_a_tested_version(setup_arguments):
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    asked = [*setup_arguments["install_requires"], *sum(setup_arguments["extras_require"].values(), [])]
    assert {re.split(r"[<>=]", requirement)[0].lower() for requirement in asked} <= pinned
