"""A request that takes too long is stopped with a sentence, its parts share its time, and nothing computes outside of it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")
import gradio as gr
import httpx
from space_files import write_video
from space_server import PATIENCE_SECONDS, PROMPT, connected, running_space, save_tiny_model

from jog3r.space import callbacks
from jog3r.space.guard.limits import SpaceLimits
from jog3r.space.jobs import Done, Failed, Step
from jog3r.space.server import open_space


def test_the_parts_of_a_comparison_share_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given, methods = [], []

    def part(*arguments: object, method: str | None = None) -> Iterator[Step | Done | Failed]:
        given.append(arguments[-1])
        methods.append(method)
        time.sleep(0.2)
        yield Done(np.zeros((4, 16, 16, 3), np.uint8)) if len(given) == 1 else Failed("enough")

    model = save_tiny_model(tmp_path / "model")
    space = open_space(model, bundled=model, limits=SpaceLimits(request_seconds=10), parent=tmp_path)
    monkeypatch.setattr(callbacks, "generate_video", part)
    monkeypatch.setattr(callbacks, "find_cameras", part)
    with pytest.raises(gr.Error, match="enough"):
        list(callbacks.compare(space, PROMPT, 0, 20, 1.0))
    assert given[1] + 0.2 <= given[0] <= 10
    assert methods == [None, "network"]  # tracks of larger pictures would give no pointmaps to compare
    space.folder.close()


def test_gradio_runs_no_ffmpeg_on_what_a_stranger_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("ffmpeg", "ffprobe"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'was_run'}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    with running_space(tmp_path) as running:
        with write_video(tmp_path / "clip.mkv", 4).open("rb") as file:
            (path,) = httpx.post(f"{running.url}gradio_api/upload", files={"files": file}, timeout=PATIENCE_SECONDS).json()
        take_over = next(number for number, function in running.page.fns.items() if function.name == "take_over")
        wish = {"fn_index": take_over, "data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "session_hash": "one"}
        answer = httpx.post(f"{running.url}gradio_api/run/predict", json=wish, timeout=PATIENCE_SECONDS)
        assert answer.json()["data"][0]["path"].endswith("clip.mkv") and not (tmp_path / "was_run").exists()


def test_a_request_out_of_time_is_stopped(tmp_path: Path):
    with running_space(tmp_path, request_seconds=0.05) as running:
        client = connected(running.url, tmp_path / "downloads")
        for _ in range(2):
            with pytest.raises(Exception, match="more computing time than is allowed"):
                client.predict(PROMPT, 0, 100, 2.5, 4, api_name="/generate")
