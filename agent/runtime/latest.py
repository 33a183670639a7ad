"""A one-place slot between two threads: the newest item wins, and what was replaced is counted."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """Holds at most one item. The drop policy is "newest wins"; `put_wait` is the lossless variant."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._item: T | None = None
        self.dropped = 0
        """Items that were replaced before anyone took them."""

    def put(self, item: T) -> None:
        """Put an item in, over the one that nobody has taken yet."""
        with self._changed:
            if self._item is not None:
                self.dropped += 1
            self._item = item
            self._changed.notify_all()

    def put_wait(self, item: T, timeout_s: float) -> bool:
        """Wait for the place to be free, then put the item in; False when it stayed taken."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._item is None, timeout_s):
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> T | None:
        """Take the item out, waiting for one; None when none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
            if item is not None:
                self._changed.notify_all()
            return item
