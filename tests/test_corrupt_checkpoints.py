"""A hundred damaged or malicious checkpoints: each refused with a message that names the file, none run."""

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from original_checkpoints import opensora_shapes, random_weights
from safetensors.torch import save

from jog3r import Jog3rTransformer3DModel

WEIGHTS = random_weights(opensora_shapes(depth=1, width=16))
NAMES = sorted(name for name in WEIGHTS if not name.startswith("pos_embed"))
Write = Callable[[Path], None]


class RunsCode:
    """Unpickling this creates the folder that a test then looks for."""

    def __init__(self, function: Callable, argument: str):
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple:
        return self.call


def evaluated(code: RunsCode) -> RunsCode:
    return RunsCode(eval, f"__import__('os').mkdir({code.call[1][0]!r})")


def torch_bytes(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def as_pth(content: object) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / "bad.pth", torch_bytes(content))


def as_bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / name, content)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_code(function: Callable, hidden: Callable[[RunsCode], object], **options: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        command = f"mkdir {folder / 'executed'}" if function is os.system else str(folder / "executed")
        content = hidden(RunsCode(function, command))
        data = pickle.dumps(content, protocol=2) if options.pop("plain_pickle", False) else torch_bytes(content, **options)
        return _write(folder / "bad.pth", data)

    return write


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def header_positions(content: bytes) -> list[int]:
    """Bytes of a torch.save archive that say where and what weights are; flags and times of the records say nothing of them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = archive.infolist()
        pickled = next(record for record in records if record.filename.endswith("data.pkl"))
        directory = archive.start_dir
    start = pickled.header_offset
    positions = [*range(start, start + 4), *range(start + 26, start + 30 + len(pickled.filename) + pickled.file_size)]
    for record in records:  # signature, compression, checksum and sizes, place and name
        fields = (*range(4), 10, 11, *range(16, 28), *range(42, 46 + len(record.filename)))
        positions += [directory + offset for offset in fields]
        directory += 46 + len(record.filename) + len(record.extra)
    return positions


def damaged() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    choose = random.Random(0)
    archive, tensors = torch_bytes({"model": WEIGHTS}), save(WEIGHTS)
    old = torch_bytes(WEIGHTS, _use_new_zipfile_serialization=False)
    for part in (0, 0.001, 0.1, 0.5, 0.9, 0.999):
        yield f"truncated pth {part}", as_bytes("bad.pth", archive[: int(len(archive) * part)])
        yield f"truncated safetensors {part}", as_bytes("bad.safetensors", tensors[: int(len(tensors) * part)])
        yield f"truncated old pth {part}", as_bytes("bad.pth", old[: int(len(old) * part)])
    for position in choose.sample(header_positions(archive), 20):
        yield f"flipped pth byte {position}", as_bytes("bad.pth", flipped(archive, position, choose.randrange(8)))
    header = int.from_bytes(tensors[:8], "little")
    for position in choose.sample(range(8 + header), 14):
        yield f"flipped safetensors byte {position}", as_bytes("bad.safetensors", flipped(tensors, position, choose.randrange(8)))
    for position in choose.sample(range(len(tensors) - 8 - header), 4):  # among the weights: caught when it makes one infinite
        start = 8 + header + position // 4 * 4
        content = tensors[:start] + b"\x00\x00\x80\x7f" + tensors[start + 4 :]
        yield f"infinite value at {start}", as_bytes("bad.safetensors", content)
    for name in choose.sample(NAMES, 7):
        others = {key: tensor for key, tensor in WEIGHTS.items() if key != name}
        yield f"without {name}", as_pth(others)
        yield f"renamed {name}", as_pth({**others, f"{name}_": WEIGHTS[name]})
        yield f"shape of {name}", as_pth({**WEIGHTS, name: torch.cat([WEIGHTS[name]] * 2)})
    for name in choose.sample(NAMES, 5):
        for value in (float("nan"), -float("inf")):
            tensor = WEIGHTS[name].clone()
            tensor.view(-1)[-1] = value
            yield f"{value} in {name}", as_pth({"ema": {**WEIGHTS, name: tensor}})
    yield from foreign()


def foreign() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    yield "additional weight", as_pth({**WEIGHTS, "blocks.0.attn.q_norm.weight": torch.ones(4)})
    yield "block number 7", as_pth({name.replace("blocks.0", "blocks.7"): tensor for name, tensor in WEIGHTS.items()})
    yield "block number 10^12", as_pth({**WEIGHTS, "blocks.1000000000000.mlp.fc1.bias": torch.ones(4)})
    yield "integers", as_pth({name: tensor.int() for name, tensor in WEIGHTS.items()})
    yield "a sparse weight", as_pth({**WEIGHTS, NAMES[0]: torch.ones(16, 16).to_sparse()})
    yield "a scalar weight", as_pth({**WEIGHTS, "blocks.0.attn.qkv.bias": torch.tensor(1.0)})
    yield "no tokens", as_pth({**WEIGHTS, "y_embedder.y_embedding": torch.zeros(0, 24)})
    yield "another model", as_pth(torch.nn.Linear(3, 4).state_dict())
    yield "a list", as_pth([torch.ones(2)])
    yield "nothing", as_pth({})
    yield "no weights", as_pth({"ema": {}, "epoch": 1})
    yield "names that are numbers", as_pth({"model": {0: torch.ones(1)}})
    yield "text", as_bytes("bad.pth", b"<html>Access denied</html>")
    yield "text as safetensors", as_bytes("bad.safetensors", b"version https://git-lfs.github.com/spec/v1\noid 0\n")
    yield "code beside the weights", with_code(os.mkdir, lambda code: {"model": WEIGHTS, "args": code})
    yield "code among the weights", with_code(os.mkdir, lambda code: {**WEIGHTS, "code": code})
    yield "code instead of weights", with_code(os.system, lambda code: code)
    yield "code as a key's value", with_code(os.system, lambda code: OrderedDict(model=OrderedDict(a=code)))
    yield "code in an old file", with_code(os.mkdir, lambda code: {"ema": code}, _use_new_zipfile_serialization=False)
    yield "code in a plain pickle", with_code(os.mkdir, lambda code: code, plain_pickle=True)
    yield "evaluated code", with_code(os.mkdir, lambda code: {"model": WEIGHTS, "args": evaluated(code)})


CASES = list(damaged())


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("write", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_is_refused_by_name_and_not_run(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ValueError, match=f"bad{path.suffix}"):
        Jog3rTransformer3DModel.from_single_file(path, num_attention_heads=2)
    assert not (tmp_path / "executed").exists()


def test_the_code_would_have_run(tmp_path: Path) -> None:
    """The malicious files above are what they claim: an ordinary unpickler runs them."""
    path = with_code(os.mkdir, lambda code: code, plain_pickle=True)(tmp_path)
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()


def test_the_undamaged_files_load(tmp_path: Path) -> None:
    for path in (as_pth(WEIGHTS)(tmp_path), as_bytes("good.safetensors", save(WEIGHTS))(tmp_path)):
        assert Jog3rTransformer3DModel.from_single_file(path, num_attention_heads=2).config.num_layers == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        Jog3rTransformer3DModel.from_single_file(tmp_path / "nowhere.pth")
