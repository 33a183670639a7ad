"""Counts starts of the daemon that did not end well, so that a crash loop is noticed by what crashes."""

import contextlib
import json
import zlib
from pathlib import Path

from agent.runtime.files import write_atomic

REVERT_AFTER = 3
"""When so many starts before this one did not last, a model that has not proved itself is taken back: once may be a
power cut and twice bad luck, and at systemd's RestartSec=5 three take less than a minute."""

SAFE_MODE_AFTER = 6
"""When so many did not, the start is without inference: taking the model back did not help, which got three starts as
well. The device can be reached then, for commands and for a release that mends it."""

SAFE_MODE_S = 600.0
"""How long it goes without inference before it tries again by itself: nobody may be there who could tell it to, and
a source or an accelerator may be well again. Long enough to send it something."""

_NAME = "starts"
_MAX_BYTES = 256
_LIMIT = 1_000_000
"""A count stays below this, whatever happens."""


class StartCounter:
    """The file `starts` in a folder, which has to be there. For one thread.

    It never raises: a disk that can't be written must not keep the agent from starting.
    """

    def __init__(self, folder: Path, configuration: str = "") -> None:
        """`configuration`: all of it. Starts with another one do not count: somebody has been there, and mended it."""
        self._path, self._of = folder / _NAME, f"{zlib.crc32(configuration.encode()):08x}"

    def begin(self) -> int:
        """Count this start, durably. Gives how many starts in a row there were that `good` did not follow, this one
        included: 1 is all well. A damaged file counts as none; with a disk that can't be written it is always 1."""
        for left in self._path.parent.glob(f".{_NAME}.*.tmp"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                left.unlink()
        count = min(self._load() + 1, _LIMIT)
        return count if self._save(count) else 1

    def good(self) -> None:
        """This start was a good one, or it ends as it should: the next is the first again, durably."""
        if self._load():
            self._save(0)

    def _load(self) -> int:
        try:
            with self._path.open("rb") as file:
                text, _, seal = file.read(_MAX_BYTES).rstrip(b"\n").rpartition(b" ")
            if seal != _seal(text):
                return 0
            content = json.loads(text)
            count = content["in_a_row"] if content["of"] == self._of else 0
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        return count if type(count) is int and 0 <= count <= _LIMIT else 0

    def _save(self, count: int) -> bool:
        text = json.dumps({"of": self._of, "in_a_row": count}).encode()
        try:
            write_atomic(self._path, text + b" " + _seal(text) + b"\n")
        except OSError:
            return False
        return True


def _seal(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
