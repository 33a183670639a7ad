"""Tells at intervals how things are."""

import threading
import time
from collections.abc import Callable

FIRST_AFTER_S = 2.0
"""Long enough for a first frame, short enough for who is waiting for the device."""


def report_loop(interval_s: float, report: Callable[[], None], stop: threading.Event) -> None:
    """Body of a thread: call `report` soon after the start and then every `interval_s` seconds, without drift.

    Reports that would have been due while one took too long are left out.
    """
    due_s = time.monotonic() + min(FIRST_AFTER_S, interval_s)
    while not stop.wait(max(0.0, due_s - time.monotonic())):
        report()
        due_s += interval_s
        late_s = time.monotonic() - due_s
        if late_s > 0:
            due_s += interval_s * (late_s // interval_s + 1)
