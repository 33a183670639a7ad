"""A slot of a few places between two threads: the newest items win, and what had to make room is counted."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestSlot(Generic[T]):
    """Holds the newest items. The drop policy is "newest wins"; `put_wait` is the lossless variant."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._items: deque[T] = deque()
        self.dropped = 0
        """Items that made room before anyone took them."""

    def put(self, item: T, places: int = 1) -> None:
        """Put an item in; with so many there already, the oldest make room."""
        with self._changed:
            while len(self._items) >= places:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def put_wait(self, item: T, timeout_s: float) -> bool:
        """Wait until all are taken, then put the item in; False when one stayed."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._items, timeout_s):
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> T | None:
        """Take the oldest item out, waiting for one; None when none came in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout_s):
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item
