"""What a daemon does about starts that end badly again and again: it starts without the part that may be to blame."""

import time
from collections.abc import Callable

from agent.runtime.starts import SAFE_MODE_AFTER, SAFE_MODE_S, StartCounter

SAFE_MODE_REASON = (
    f"safe mode: {SAFE_MODE_AFTER} starts in a row ended badly; a new release, the command restart, "
    f"or {SAFE_MODE_S / 60:.0f} minutes end it"
)


class SafeMode:
    """Counts starts, and turns inference off after too many that did not last. For one thread, but for `leave`."""

    def __init__(self, starts: StartCounter, good_after_s: float, allow: Callable[[bool], None]) -> None:
        """Args: a start was good after so many seconds; `allow(False)` turns inference off, `allow(True)` on again."""
        self._starts, self._good_after_s, self._allow = starts, good_after_s, allow
        self._since_s = 0.0  # inference runs since then
        self.active = False
        self._good = False

    def begin(self) -> None:
        """Count this start."""
        self._since_s = time.monotonic()
        self.active = self._starts.begin() > SAFE_MODE_AFTER
        if self.active:
            self._allow(False)

    def tick(self) -> None:
        """Call it about once a second."""
        lasted_s = time.monotonic() - self._since_s
        if self.active and lasted_s > SAFE_MODE_S:
            self.leave()
        elif not self.active and not self._good and lasted_s > self._good_after_s:
            self.good()

    def leave(self) -> None:
        """Try inference again."""
        if self.active:
            self._since_s = time.monotonic()
            self.active = False
            self._allow(True)

    def good(self) -> None:
        """This start was a good one, or it ends as it should."""
        self._good = True
        self._starts.good()
