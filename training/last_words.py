"""The line that says why a script ended, where its user sees it."""

import json
import logging
import os
import time
from pathlib import Path

__all__ = ["say_why"]

logger = logging.getLogger(__name__)


def say_why(text: str) -> None:
    """Log `error: ...`; torchrun, which prints much behind it, gets the line to repeat at its own end."""
    logger.error("error: %s", text)
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": f"error: {text}", "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(place).write_text(json.dumps({"message": message}), encoding="utf-8")
