"""Room for uploads: how many may come in at once, how much may lie here, and what goes when there is no more."""

import threading

from jog3r.space.limits import Refused, SpaceLimits
from jog3r.space.storage import ServerFolder

__all__ = ["UploadRoom"]

_SPARED_SECONDS = 120.0  # files younger than this are still waited for


class UploadRoom:
    """Lets uploads in while there is room; when there is none, the oldest files make some.

    Args:
        folder: Where files lie.
        limits: `keep_bytes`, `keep_files`, `uploads_at_once`.
    """

    def __init__(self, folder: ServerFolder, limits: SpaceLimits) -> None:
        self.folder = folder
        self.limits = limits
        self._under_way: list[int] = []
        self._lock = threading.Lock()

    def enter(self, length: int) -> None:
        """An upload of at most `length` bytes begins; looks through the folder, so not for an event loop.

        Raises:
            Refused: There is no room.
        """
        with self._lock:
            if len(self._under_way) >= self.limits.uploads_at_once:
                raise Refused("Too many uploads are coming in at the moment; please try again in a minute.")
            if not self._fits(length):
                self.folder.remove_oldest(self.limits.keep_bytes // 2, self.limits.keep_files // 2, _SPARED_SECONDS)
                if not self._fits(length):
                    raise Refused("There are too many uploads here at the moment; please try again in a few minutes.")
            self._under_way.append(length)

    def leave(self, length: int) -> None:
        """The upload that entered with `length` is over, whether it lies here now or was cut off."""
        with self._lock:
            self._under_way.remove(length)

    def _fits(self, length: int) -> bool:
        size, count = self.folder.usage()
        return size + sum(self._under_way) + length <= self.limits.keep_bytes and count < self.limits.keep_files
