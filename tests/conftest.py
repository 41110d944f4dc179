"""Fixtures shared by all tests: a tiny model, and where the reference tensors and real clips lie, when they are there."""

import gc
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # xdist's first process needs none of it
    import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

with socket.socket() as _free:  # Gradio's servers look for a free port from here on, not from 7860, where somebody's may be
    _free.bind(("127.0.0.1", 0))
    os.environ["GRADIO_SERVER_PORT"] = str(_free.getsockname()[1])

gc.disable()  # until all is imported: nothing of that becomes garbage, and looking for it takes a sixth of the time


@pytest.hookimpl(wrapper=True, tryfirst=True)  # here pytest catches neither output nor warnings
def pytest_collection() -> Iterator[None]:
    result = yield
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # instead of (700, 10, 10), which takes 3 to 5 % of the time
    gc.enable()
    if "training_runs" in sys.modules:  # else nobody asks for processes
        from fork_server import start_fork_server

        start_fork_server()
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Files with processes of their own go first: they take longest, and at the end other workers would have nothing to do."""
    items.sort(key=lambda item: not {"CONTEXT", "TrainingProcesses"} & vars(item.module).keys())  # names in training_runs.py


@pytest.fixture(scope="session")
def _threads() -> int:
    import torch

    return torch.get_num_threads()


@pytest.fixture(autouse=True)
def _fixed_seed_and_threads(_threads: int) -> None:
    """Some tests set the number of threads; on a busy machine the next ones would take ten times their time with two."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(_threads)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny random pipeline, one for all tests: to read, or to copy."""
    from tiny_components import tiny_pipeline  # not above: half of the tests need no model

    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def init(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it to train from, with room beside it for the runs of one test file."""
    return Path(shutil.copytree(model, tmp_path_factory.mktemp("start") / "init"))


@pytest.fixture
def wandb_anew() -> Iterator[None]:
    """wandb remembers for the whole process whether it is offline: each test that asks for this begins and leaves it anew."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    yield
    wandb.teardown()


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
def parity() -> Callable[[str], tuple[dict, dict[str, "torch.Tensor"]]]:
    """`parity("reg_a")` is (json, tensors) of that reference item; the test is skipped where it is absent."""

    from safetensors.torch import load_file

    def load(name: str) -> tuple[dict, dict[str, "torch.Tensor"]]:
        path = SHARED / "parity" / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"reference tensors {name!r} are not beside the checkout")
        return json.loads(path.with_suffix(".json").read_text()), load_file(path)

    return load
