"""kill -9 in the middle of a request: the restarted server works, and nothing of the killed one is served or left."""

import json
import os
import runpy
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("gradio")
from space_server import PATIENCE_SECONDS, PROMPT, connected, save_tiny_model, wait_for
from training_runs import CONTEXT

GOOD = (PROMPT, 0, 20, 1.0, 4)


def _serve(words: list[str], folder: Path) -> None:
    """`python -m jog3r serve` in a process that has imported its libraries already."""
    os.chdir(folder)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["jog3r", "serve", *words]
    runpy.run_module("jog3r", run_name="__main__", alter_sys=True)


def _start(model: str, folder: Path) -> tuple[BaseProcess, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = CONTEXT.Process(target=_serve, args=(["--model", model, "--host", "127.0.0.1", "--port", str(port)], folder))
    process.start()
    url = f"http://127.0.0.1:{port}/"
    wait_for(lambda: _status(url) == 200 or not process.is_alive())
    assert process.is_alive(), (folder / "log.txt").read_text()
    return process, url


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _upload(url: str) -> str:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="old.mp4"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{url}gradio_api/upload", head + b"old\r\n--x--\r\n", kind)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)[0]


def test_a_killed_server_starts_again_and_serves_nothing_old(tmp_path: Path):
    model = save_tiny_model(tmp_path / "model")
    folder = tmp_path / "tmp"
    folder.mkdir()
    process, url = _start(model, folder)
    try:
        client = connected(url)
        old = _upload(url)
        assert _status(f"{url}gradio_api/file={old}") == 200
        wait_for(client.submit(PROMPT, 0, 100, 2.5, 4, api_name="/generate").outputs)  # the first update has come
    finally:
        process.kill()
        process.join()
    assert Path(old).exists()

    process, url = _start(model, folder)
    try:
        assert not Path(old).exists() and _status(f"{url}gradio_api/file={old}") in (403, 404)
        assert len(list(folder.glob("jog3r-space-*"))) == 1
        client = connected(url, tmp_path / "downloads")
        result = client.predict(*GOOD, api_name="/generate")
        glb = next(path for path in result[5] if path.endswith(".glb"))
        assert "Done" in result[0] and Path(glb).read_bytes()[:4] == b"glTF"
        wait_for(client.submit(PROMPT, 0, 100, 2.5, 4, api_name="/generate").outputs)  # the first update has come
    finally:
        process.terminate()
        process.join(PATIENCE_SECONDS)
    assert process.exitcode == 0
    assert not list(folder.glob("jog3r-space-*"))  # an ended server leaves nothing, even in the middle of a request
    assert PROMPT not in (folder / "log.txt").read_text()
