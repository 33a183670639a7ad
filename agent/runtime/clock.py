"""Wall time with a word on whether it can be trusted; the monotonic clock is Python's own.

A device without a battery-backed clock starts at a wrong time. Durations come from the monotonic clock; wall times are
only written into messages, together with `synced` or `unsynced`.
"""

import ctypes
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

ClockState = Literal["synced", "unsynced"]

_STA_UNSYNC = 0x40  # linux/timex.h
_CHECK_EVERY_NS = 10_000_000_000
_TIMESYNCD_FILE = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd(8) touches it whenever it has set the clock."""
_TRUSTED_FOR_S = 32_000.0
"""So long after it was last set the kernel takes its clock for unsynchronised: then it may be 16 s off, by 500 ppm."""


class _Timex(ctypes.Structure):
    """The head of `struct timex` (linux/timex.h) up to `status`; the rest is only reserved."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def _kernel_says_synced() -> bool | None:
    """Ask the kernel, as systemd and chrony report to it; works without either (adjtimex(2), read only).

    None where a sandbox forbids the question: systemd's ProtectClock= can't tell it from setting the clock.
    """
    timex = _Timex()
    try:
        result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return False
    return None if result < 0 else not timex.status & _STA_UNSYNC


def _timesyncd_says_synced() -> bool:
    """Whether it was set lately; when the clock has jumped since, in either direction, it was not."""
    try:
        return abs(time.time() - _TIMESYNCD_FILE.stat().st_mtime) < _TRUSTED_FOR_S
    except OSError:
        return False


class Clock:
    """The system's clock. Thread-safe: the cached state is one reference."""

    def __init__(self) -> None:
        self._state: ClockState = "unsynced"
        self._checked_ns = -_CHECK_EVERY_NS

    def now_ns(self) -> int:
        """Unix time in nanoseconds."""
        return time.time_ns()

    def state(self) -> ClockState:
        """`synced` when the kernel's clock is kept by a time service; asked at most every ten seconds."""
        now_ns = time.monotonic_ns()
        if now_ns - self._checked_ns >= _CHECK_EVERY_NS:
            self._checked_ns = now_ns
            kernel = _kernel_says_synced()
            synced = _timesyncd_says_synced() if kernel is None else kernel
            self._state = "synced" if synced else "unsynced"
        return self._state


def rfc3339(unix_ns: int) -> str:
    """RFC 3339 UTC with milliseconds: `2026-11-22T08:00:00.123Z`. Out-of-range clocks are held at the edges."""
    seconds, ns = divmod(min(max(unix_ns, 0), 253_402_300_799_000_000_000), 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03d}Z"
