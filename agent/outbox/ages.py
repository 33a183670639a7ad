"""How old a message is, as far as that can be believed: a device's clock starts wrong, and jumps.

- A message that this process accepted is as old as the monotonic clock says. Jumps can't touch it.
- One of an earlier process is at least as old as this process, and only that is believed; unless the wall clock was
  synced when the message was accepted, is synced now, and has been for ten minutes without a step. Then the age is
  the difference of the wall times.
- Messages lie in the order of acceptance: what lies before an old one is as old.

So a clock that starts at 1970, or jumps ten years ahead for a moment, drops nothing.
"""

import time
from typing import NamedTuple

from agent.runtime.clock import Clock

_STEP_S = 2.0
"""More than any slewing between two looks: the clock was set."""
_BELIEVE_AFTER_S = 600.0

_clock = Clock()


class Instant(NamedTuple):
    """When something happened, on both clocks."""

    mono_s: float
    """Monotonic. For a message of an earlier process: when this one opened the outbox."""
    unix_s: float
    synced: bool
    """The wall clock was kept by a time service."""
    own: bool = True
    """It happened in this process."""


def read_clocks() -> Instant:
    """Now."""
    return Instant(time.monotonic(), time.time(), _clock.state() == "synced")


class Ages:
    """Watches the wall clock for steps, and tells ages."""

    def __init__(self, now: Instant) -> None:
        self._offset_s = now.unix_s - now.mono_s
        self._steady_since_s = now.mono_s

    def look(self, now: Instant) -> None:
        """Compare the clocks: every few seconds, and before ages are asked for that have consequences."""
        offset_s = now.unix_s - now.mono_s
        if not now.synced or abs(offset_s - self._offset_s) > _STEP_S:
            self._steady_since_s = now.mono_s
        self._offset_s = offset_s

    def age_s(self, then: Instant, now: Instant) -> float:
        """The age that is believed; not over the true one as long as synced clocks are right."""
        least_s = now.mono_s - then.mono_s
        if then.own or not then.synced or now.mono_s - self._steady_since_s < _BELIEVE_AFTER_S:
            return least_s
        return max(least_s, now.unix_s - then.unix_s)
