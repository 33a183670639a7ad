"""Signs of life of the daemon's loops; the watchdog is fed only while all of them give some."""

import threading
import time

STALE_AFTER_S = 90.0
"""Longer than any deadline inside a loop: a model has a minute to load."""


class Progress:
    """Each loop calls `beat` once a round."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        with self._lock:
            self._beats[loop] = time.monotonic()

    def stuck(self) -> list[str]:
        """The loops that gave no sign of life for too long."""
        limit = time.monotonic() - STALE_AFTER_S
        with self._lock:
            return sorted(loop for loop, beat in self._beats.items() if beat < limit)
