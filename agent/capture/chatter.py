"""What a program says on standard error: into the log, without passwords, and never so much that it fills a disk."""

import functools
import re
import threading
import time

import structlog

MAX_LINE_CHARS = 300
"""Longer lines are cut."""

_MAX_RAW_BYTES = 4 * MAX_LINE_CHARS
_BURST_LINES = 20
_LINE_EVERY_S = 10.0
_ENDS = re.compile(rb"[\r\n]+")  # a bare return ends the progress lines of ffmpeg
_TIMES = re.compile(r"^(\[[\d:. ]+\]\s*)+")  # of libcamera; a message that is other each time would be news each time
_USER_INFO = re.compile(r"://[^/\s]*@")
_SECRET = re.compile(r"\b(\w*(?:passw|pwd|secret|token|key)\w*\s*[=:]\s*)[^\s&;,]+", re.IGNORECASE)

log = structlog.get_logger()


class Budget:
    """How many lines of one source the log takes: some at once, then few. Thread-safe."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._lines = float(_BURST_LINES)
        self._since_s = time.monotonic()
        self._left_out = 0

    def take(self) -> int | None:
        """None: not this line. Else how many were left out before it."""
        with self._lock:
            now_s = time.monotonic()
            self._lines = min(float(_BURST_LINES), self._lines + (now_s - self._since_s) / _LINE_EVERY_S)
            self._since_s = now_s
            if self._lines < 1.0:
                self._left_out += 1
                return None
            self._lines -= 1.0
            left_out, self._left_out = self._left_out, 0
            return left_out


@functools.lru_cache(maxsize=64)
def _budget_of(source: str) -> Budget:
    """One for all runs of a program: it may say the same each time that it is started again."""
    return Budget(source)


class Chatter:
    """Standard error of one run of a program."""

    def __init__(self, source: str) -> None:
        self._budget = _budget_of(source)
        self._last = b""
        self._rest = b""
        self._muted = False

    def feed(self, data: bytes) -> None:
        """Take bytes as they come; whole lines go to the log."""
        *lines, rest = _ENDS.split(self._rest + data)
        self._rest = rest[:_MAX_RAW_BYTES]  # of a line without end the start is kept
        for line in lines:
            self._say(line)

    def quote(self) -> str:
        """The last line, to stand behind a message; empty when there is none."""
        rest, self._rest = self._rest, b""
        self._say(rest)
        return f": {clean(self._last)}" if self._last else ""

    def mute(self) -> None:
        """From now on nothing goes to the log."""
        self._muted = True

    def _say(self, line: bytes) -> None:
        if self._muted or not line.strip():
            return
        self._last = line
        left_out = self._budget.take()
        if left_out is not None:
            log.info("capture.child_said", source=self._budget.source, line=clean(line), lines_left_out=left_out)


def clean(line: bytes) -> str:
    """One printable line without times, user names in addresses, and what looks like a password."""
    raw = line[:_MAX_RAW_BYTES].decode("utf-8", "replace")
    text = "".join(character if character.isprintable() else " " for character in raw)
    text = _SECRET.sub(r"\1***", _USER_INFO.sub("://", _TIMES.sub("", text.strip())))
    return text if len(text) <= MAX_LINE_CHARS else text[: MAX_LINE_CHARS - 1] + "…"
