"""Room for uploads: how many may come in at once, how much may lie here, and what goes when there is no more."""

import threading
import time

from jog3r.space.guard.limits import Refused, SpaceLimits
from jog3r.space.guard.storage import ServerFolder

__all__ = ["UPLOAD_FILES", "UploadRoom"]

_SPARED_SECONDS = 120.0  # files younger than this are still waited for
_COUNTED_SECONDS = 5.0  # for which a count of the files holds: 20,000 of them take most of a second
UPLOAD_FILES = 4  # that one upload may bring; the page and its clients send one file at a time


class UploadRoom:
    """Lets uploads in while there is room; when there is none, the oldest files make some.

    Args:
        folder: Where files lie.
        limits: `keep_bytes`, `keep_files`, `uploads_at_once`, `uploads_per_client`.
    """

    def __init__(self, folder: ServerFolder, limits: SpaceLimits) -> None:
        self.folder = folder
        self.limits = limits
        self._door = threading.Lock()  # one at a time comes in, and may have to count the files
        self._lock = threading.Lock()  # of the lists, held for no time, as uploads leave on the event loop
        self._under_way: list[tuple[int, str | None]] = []
        self._entered: list[int] = []  # of which the last count knows nothing, or not all
        self._size, self._count = 0, 0
        self._counted_at = self._full_at = float("-inf")

    def enter(self, length: int, client: str | None = None) -> None:
        """An upload of at most `length` bytes begins; may look through the folder, so not for an event loop.

        Args:
            length: Bytes.
            client: Whose it is; None for one that is not bounded.

        Raises:
            Refused: There is no room.
        """
        with self._door:
            if len(self._under_way) >= self.limits.uploads_at_once:
                raise Refused("Too many uploads are coming in at the moment; please try again in a minute.")
            theirs = [one for _, one in list(self._under_way) if one == client]
            if client is not None and len(theirs) >= self.limits.uploads_per_client:
                raise Refused(f"You have {len(theirs)} uploads coming in; please wait until one of them is done.")
            if time.monotonic() >= self._counted_at + _COUNTED_SECONDS:
                self._count_files()
            if not (self._fits(length) or self._make_room(length)):
                raise Refused("There are too many uploads here at the moment; please try again in a few minutes.")
            with self._lock:
                self._under_way.append((length, client))
                self._entered.append(length)

    def leave(self, length: int, client: str | None = None) -> None:
        """The upload that entered with these is over, whether it lies here now or was cut off."""
        with self._lock:
            self._under_way.remove((length, client))

    def _count_files(self) -> None:
        with self._lock:
            self._entered = [length for length, _ in self._under_way]  # a part of these may be counted twice, none is missed
        self._size, self._count = self.folder.usage()
        self._counted_at = time.monotonic()

    def _fits(self, length: int) -> bool:
        """Whether there is room, if all that entered since the last count came as long as it may be."""
        size, count = self._size + sum(self._entered), self._count + UPLOAD_FILES * len(self._entered)
        return size + length <= self.limits.keep_bytes and count < self.limits.keep_files

    def _make_room(self, length: int) -> bool:
        """Look closer, then let old files go; not again so soon when that was in vain."""
        if time.monotonic() < self._full_at + _COUNTED_SECONDS:
            return False
        self._count_files()  # uploads that were cut off have left nothing
        if not self._fits(length):
            self.folder.remove_oldest(self.limits.keep_bytes // 2, self.limits.keep_files // 2, _SPARED_SECONDS)
            self._count_files()
        fits = self._fits(length)
        self._full_at = float("-inf") if fits else time.monotonic()
        return fits
