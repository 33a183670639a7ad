"""What is not well at the moment, and what went wrong lately. The log hears of each loss once, and once of its end.

A part is called `area` or `area.name`: `broker`, `capture.front-door`. Its log events are `{area}.lost` and
`{area}.recovered`, with the name as field `name`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from agent.runtime.clock import rfc3339

MAX_LAST_ERRORS = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastError:
    """Something that went wrong."""

    time: str
    """RFC 3339."""
    part: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Loss:
    reason: str
    since_ns: int  # monotonic


class Health:
    """Register of the parts that are lost. Thread-safe.

    `on_change` is called, from the thread that brought the news, after `reasons()` has become another; one call after
    the other, so that what the last one sees and tells is how it is. Keep figures that change all the time out of
    reasons: each new text is a change.
    """

    def __init__(self, on_change: Callable[[], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._losses: dict[str, _Loss] = {}
        self._errors: deque[LastError] = deque(maxlen=MAX_LAST_ERRORS)
        self._on_change = on_change
        self._telling = threading.Lock()

    def lost(self, part: str, reason: str) -> None:
        """A part does not work, and why. To be said as often as you like."""
        with self._lock:
            before = self._losses.get(part)
            if before and before.reason == reason:
                return
            self._losses[part] = _Loss(reason, before.since_ns if before else time.monotonic_ns())
            self._errors.append(LastError(rfc3339(time.time_ns()), part, reason))
        if before:
            _log_for(part).debug(f"{_area(part)}.still_lost", reason=reason)
        else:
            _log_for(part).warning(f"{_area(part)}.lost", reason=reason)
        self._changed()

    def recovered(self, part: str) -> None:
        """A part works. To be said as often as you like."""
        with self._lock:
            loss = self._losses.pop(part, None)
        if loss:
            away_s = round((time.monotonic_ns() - loss.since_ns) / 1e9, 1)
            _log_for(part).info(f"{_area(part)}.recovered", after_s=away_s)
            self._changed()

    def is_lost(self, part: str) -> bool:
        with self._lock:
            return part in self._losses

    def reasons(self) -> list[str]:
        """A line for each lost part, `capture.front-door: no such device`, the longest lost first."""
        with self._lock:
            return [f"{part}: {loss.reason}" for part, loss in self._losses.items()]

    def last_errors(self) -> list[LastError]:
        """What was lost lately, at most 20, oldest first."""
        with self._lock:
            return list(self._errors)

    def _changed(self) -> None:
        if self._on_change:
            with self._telling:
                self._on_change()


def _area(part: str) -> str:
    return part.partition(".")[0]


def _log_for(part: str) -> structlog.stdlib.BoundLogger:
    name = part.partition(".")[2]
    bound: structlog.stdlib.BoundLogger = log.bind(name=name) if name else log
    return bound
