"""Fixtures shared by all tests: a tiny model, and where the reference tensors and real clips lie, when they are there."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SHARED = Path(__file__).resolve().parents[2] / "shared"

with socket.socket() as _free:  # Gradio's servers look for a free port from here on, not from 7860, where somebody's may be
    _free.bind(("127.0.0.1", 0))
    os.environ["GRADIO_SERVER_PORT"] = str(_free.getsockname()[1])


_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _fixed_seed_and_threads() -> None:
    """Some tests set the number of threads; on a busy machine the next ones would take ten times their time with two."""
    torch.manual_seed(0)
    torch.set_num_threads(_THREADS)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny random pipeline, one for all tests: to read, or to copy."""
    from tiny_components import tiny_pipeline  # not above: half of the tests need no model

    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(path)
    return path


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """`shared_data("re10k")` is the folder of that test data; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"test data {name!r} is not beside the checkout")
        return path

    return find


@pytest.fixture
def parity() -> Callable[[str], tuple[dict, dict[str, torch.Tensor]]]:
    """`parity("reg_a")` is (json, tensors) of that reference item; the test is skipped where it is absent."""

    def load(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
        path = SHARED / "parity" / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"reference tensors {name!r} are not beside the checkout")
        return json.loads(path.with_suffix(".json").read_text()), load_file(path)

    return load
