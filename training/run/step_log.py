"""The log of what each step was trained on: `steps.jsonl`, a line a step, without gaps or repetitions after any kill."""

import json
import os
from pathlib import Path
from typing import Any

from jog3r.data.files import write_text

__all__ = ["StepLog", "read_steps"]


class StepLog:
    """Appends `{"step", "positions", "samples", "losses"}` after every step; brought to the disk before each checkpoint.

    Of a run whose halves read places of their own also `"mixture"`: of each place the weight, and the clips of this step.

    Args:
        path: of the file; steps from `first_step` on that stand there are of a run that was killed, and dropped.
        first_step: the step that comes next.
    """

    def __init__(self, path: str | Path, first_step: int):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in read_steps(path) if entry["step"] < first_step] if path.is_file() else []
        write_text(path, "".join(_line(entry) for entry in kept))
        self._file = path.open("a", encoding="utf-8")

    def append(
        self, step: int, positions: list[int], samples: list[str], losses: dict[str, float], mixture: dict[str, Any] | None = None
    ) -> None:
        """One step: places in the stream, and names, of its clips, those of generation first; losses; shares of places."""
        further = {} if mixture is None else {"mixture": mixture}
        self._file.write(_line({"step": step, "positions": positions, "samples": samples, "losses": losses, **further}))
        self._file.flush()  # a killed process loses nothing that is flushed

    def sync(self) -> None:
        """Bring the file to the disk, so that a lost machine loses nothing either."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more steps."""
        self._file.close()


def read_steps(path: str | Path) -> list[dict[str, Any]]:
    """The steps of a log; a last line that a kill cut off is left out."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]  # not splitlines: names may hold other ends of lines
    return [json.loads(line) for line in lines]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
