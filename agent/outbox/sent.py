"""Segments that are done with and kept for a while: `{first id}.sent`, the oldest go first.

Nothing depends on them: they are not synced, not counted as pending, and the first to go when the disk is full.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from agent.outbox.record import Record, find_record
from agent.outbox.segment import read_range

_SUFFIX = ".sent"


class SentFiles:
    """Those of one folder. The owner locks."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Takes over what an earlier process kept, as far as `max_bytes` allows it."""
        self._max_bytes = max_bytes
        self._files = deque((path, path.stat().st_size) for path in _numbered(folder, _SUFFIX))
        self._bytes = sum(size for _, size in self._files)
        self._shrink(max_bytes)

    def keep(self, path: Path, size: int) -> bool:
        """Take a segment over; false when it is not kept, and still there."""
        if size > self._max_bytes:
            return False
        kept = path.with_suffix(_SUFFIX)
        try:
            path.rename(kept)
        except OSError:
            return False
        self._files.append((kept, size))
        self._bytes += size
        self._shrink(self._max_bytes)
        return True

    def clear(self) -> int:
        """Give all of them up for their space; so many bytes."""
        size = self._bytes
        self._shrink(0)
        return size

    def _shrink(self, max_bytes: int) -> None:
        while self._files and self._bytes > max_bytes:
            path, size = self._files.popleft()
            self._bytes -= size
            with contextlib.suppress(OSError):  # the next start tries again
                path.unlink()


def read_folder(folder: Path) -> Iterator[Record]:
    """Every whole record in a folder, sent or not, in order. Takes no lock: a daemon may be at work there.

    Raises:
        OSError: the folder or a file in it can't be read.
    """
    stems = sorted({path.stem for suffix in (_SUFFIX, ".seg") for path in _numbered(folder, suffix)})
    last = 0
    for stem in stems:
        data, at = _read_either(folder / stem), 0
        while found := find_record(data, at):
            record, _, at = found
            if record.id > last:  # what lies behind the end of a file may be older
                last = record.id
                yield record


def _read_either(path: Path) -> bytes:
    """The file is renamed when it is sent, perhaps just now."""
    for suffix in (".seg", _SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            file = path.with_suffix(suffix)
            if data := read_range(file, 0, file.stat().st_size):
                return data
    return b""


def _numbered(folder: Path, suffix: str) -> list[Path]:
    names = (path for path in folder.iterdir() if path.suffix == suffix)  # `glob` would hide that it may not look
    return sorted(path for path in names if path.stem.isascii() and path.stem.isdigit())
