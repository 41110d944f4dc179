"""The Space as an MCP server: its tools, their results, and that they open no door that the page keeps shut."""

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("gradio")
mcp = pytest.importorskip("mcp", reason="the package mcp is not installed")
from mcp.client.streamable_http import streamable_http_client
from space_files import write_video
from space_server import PROMPT, Running, running_space

from jog3r.space.guard.clients import Clients
from jog3r.space.guard.limits import Refused

GOOD = {"prompt": PROMPT, "seed": 3, "steps": 20, "guidance": 1.0, "frames": 4}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_MCP_SERVER", "True")
        with running_space(tmp_path_factory.mktemp("mcp")) as running:
            yield running


def _with_session(running: Running, ask: Any) -> Any:
    async def run() -> Any:
        async with (
            streamable_http_client(f"{running.url}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await ask(session)

    return asyncio.run(run())


def _call(running: Running, tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
    """Whether it failed, and its texts."""
    result = _with_session(running, lambda session: session.call_tool(tool, arguments))
    return bool(result.isError), "\n".join(getattr(part, "text", "") for part in result.content)


def test_the_tools_are_the_three_endpoints_with_their_arguments_explained(running: Running):
    tools = {tool.name: tool for tool in _with_session(running, lambda session: session.list_tools()).tools}
    assert set(tools) == {"generate", "reconstruct", "compare"}
    for tool in tools.values():
        assert tool.description and all(value["description"] for value in tool.inputSchema["properties"].values())


def test_a_prompt_gives_a_clip_with_its_cameras(running: Running):
    failed, text = _call(running, "generate", GOOD)
    assert not failed and "Done" in text and "manual_seed(3)" in text and "cameras.json" in text


def test_a_clip_inside_the_request_gives_its_cameras(running: Running, tmp_path: Path):
    data = base64.b64encode(write_video(tmp_path / "clip.mp4", 8).read_bytes()).decode()
    failed, text = _call(running, "reconstruct", {"video": f"data:video/mp4;base64,{data}", "frames": 4})
    assert not failed and "Done" in text
    assert list(running.space.folder.served.rglob("file.mp4"))  # where it is deleted after an hour


@pytest.mark.parametrize(
    "video",
    [
        *("https://example.com/x.mp4", "http://127.0.0.1:1/x.mp4", "http://169.254.169.254/latest", "file:///etc/passwd"),
        *("/etc/passwd", "../../etc/passwd", "data:text/html;base64,PGI+", "data:video/mp4;base64,AAAA", ""),
    ],
)
def test_no_address_and_no_path_is_read(running: Running, video: str):
    failed, text = _call(running, "reconstruct", {"video": video, "frames": 4})
    assert failed and "root:" not in text and "Traceback" not in text
    if not video.startswith("data:"):
        told = ("addresses are not fetched", "paths and addresses are not read")
        assert any(sentence in text for sentence in told) and "http" not in text.replace(video, "")


@pytest.mark.parametrize("wrong", [{"prompt": ""}, {"prompt": "a\0b"}, {"steps": 10**6}, {"frames": "many"}, {"seed": -1}])
def test_wrong_values_are_refused(running: Running, wrong: dict[str, Any]):
    failed, text = _call(running, "generate", GOOD | wrong)
    assert failed and text and "Traceback" not in text and "Value " not in text


def test_a_full_queue_is_said(running: Running, monkeypatch: pytest.MonkeyPatch):
    """What the gate answers to Gradio's own client reaches the program that called the tool."""

    def full(*_: Any) -> Any:
        raise Refused("Too many requests of yours are waiting.", 429)

    monkeypatch.setattr(Clients, "joining", full)
    failed, text = _call(running, "generate", GOOD)
    assert failed and text.endswith("Too many requests of yours are waiting.") and "429" not in text


def test_files_of_results_can_be_fetched(running: Running):
    _, text = _call(running, "generate", GOOD)
    addresses = re.findall(rf"{re.escape(running.url)}gradio_api/file=\S+?cameras\.json", text)
    with urlopen(addresses[0]) as answer:  # noqa: S310  # of this server
        assert len(json.load(answer)["frames"]) == GOOD["frames"]
    assert json.dumps(str(running.space.folder.path / "requests"))[1:-1] not in text
