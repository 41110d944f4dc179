"""Refusals of the MCP server as sentences: Gradio's ask for addresses, which are not fetched, or quote its own HTTP client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from gradio.mcp import GradioMCPServer


class PlainMCPServer(GradioMCPServer):
    """Gradio's server of tools with other texts."""

    def convert_strings_to_filedata(self, *args: Any) -> Any:
        """Clips inside a call as files; `ValueError` where it holds something else."""
        try:
            return super().convert_strings_to_filedata(*args)
        except ValueError:
            raise ValueError("Give the clip itself, as data:video/mp4;base64,...; paths and addresses are not read.") from None

    async def _execute_tool_without_progress(self, *args: Any) -> Any:
        with _answers():
            return await super()._execute_tool_without_progress(*args)

    async def _execute_tool_with_progress(self, *args: Any) -> Any:
        with _answers():
            return await super()._execute_tool_with_progress(*args)


@contextmanager
def _answers() -> Iterator[None]:
    """What this Space answered to Gradio's client, in place of what that says about it."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise ValueError(error.response.json()["detail"]) from None
