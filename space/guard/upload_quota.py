"""Room for uploads: how many may come in at once, how much may lie here, and what goes when there is no more."""

import threading

from jog3r.space.guard.limits import Refused, SpaceLimits
from jog3r.space.guard.storage import ServerFolder

SPARED_SECONDS = 120.0  # files younger than this are still waited for
UPLOAD_FILES = 4  # that one upload may bring; the page and its clients send one file at a time


class UploadQuota:
    """Lets uploads in while there is room; when there is none, the oldest files make some.

    Args:
        folder: Where files lie.
        limits: `keep_bytes`, `keep_files`, `uploads_at_once`, `uploads_per_client`.
    """

    def __init__(self, folder: ServerFolder, limits: SpaceLimits) -> None:
        self.folder = folder
        self.limits = limits
        self._lock = threading.Lock()  # one upload at a time comes in
        self._under_way: list[tuple[int, str | None]] = []

    def enter(self, length: int, client: str | None = None) -> None:
        """An upload of at most `length` bytes begins; counts the files of the folder, so not for an event loop.

        Args:
            length: Bytes.
            client: Whose it is; None for one that is not bounded.

        Raises:
            Refused: There is no room.
        """
        with self._lock:
            if len(self._under_way) >= self.limits.uploads_at_once:
                raise Refused("Too many uploads are coming in at the moment; please try again in a minute.", 507)
            theirs = [one for _, one in list(self._under_way) if one == client]
            if client is not None and len(theirs) >= self.limits.uploads_per_client:
                raise Refused(f"You have {len(theirs)} uploads coming in; please wait until one of them is done.", 507)
            if not (self._fits(length, *self.folder.usage()) or self._fits(length, *self._make_room())):
                raise Refused("There are too many uploads here at the moment; please try again in a few minutes.", 507)
            self._under_way.append((length, client))

    def leave(self, length: int, client: str | None = None) -> None:
        """The upload that entered with these is over, whether it lies here now or was cut off."""
        self._under_way.remove((length, client))  # without the lock: on the event loop, which must not wait for a count

    def _fits(self, length: int, size: int, count: int) -> bool:
        """Whether there is room beside `count` files of `size` bytes, if all uploads that come in become as long as they may."""
        lengths = [one for one, _ in list(self._under_way)]  # a part of these may be counted twice, none is missed
        size, count = size + sum(lengths), count + UPLOAD_FILES * len(lengths)
        return size + length <= self.limits.keep_bytes and count < self.limits.keep_files

    def _make_room(self) -> tuple[int, int]:
        """Let old files go; returns bytes and number of those that stay."""
        return self.folder.remove_oldest(self.limits.keep_bytes // 2, self.limits.keep_files // 2, SPARED_SECONDS)
