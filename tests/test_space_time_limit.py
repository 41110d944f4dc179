"""A request that takes too long is stopped with a sentence, and the worker is free for the next."""

from pathlib import Path

import pytest

pytest.importorskip("gradio")
from gradio_client import Client
from space_server import PROMPT, running_space


def test_a_request_out_of_time_is_stopped(tmp_path: Path):
    with running_space(tmp_path, request_seconds=0.05) as running:
        client = Client(running.url, verbose=False, download_files=str(tmp_path / "downloads"))
        for _ in range(2):
            with pytest.raises(Exception, match="longer than 0 seconds"):
                client.predict(PROMPT, 0, 100, 2.5, 4, api_name="/generate")
