"""Segment files: `{first id}.seg`, records one after the other. Space comes back by unlinking whole files."""

import contextlib
import errno
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.outbox.ages import Instant
from agent.outbox.chain import Point
from agent.outbox.record import find_record

SEGMENT_BYTES = 512 * 1024
"""A record that would make a file larger starts the next one. Each new file costs ext4 some blocks of its journal."""

_BEFORE_WRITE_BACK_S = 20.0
"""Linux writes back what has been in the page cache for 30 s (vm.dirty_expire_centisecs), within five more."""

_BLOCK_BYTES = 16 * 1024


@dataclass(slots=True, eq=False)
class Segment:
    """What is known of a file without reading it. Its ids are contiguous."""

    path: Path
    first: int
    """Id of its first record."""
    last: int
    """Id of its last record."""
    size: int
    """Bytes of whole records."""
    start: Point
    """The chain before its first record."""
    end: Point
    """The chain after its last record."""
    oldest: Instant
    """When its first record was accepted."""
    newest: Instant
    """When its last record was accepted."""
    dirty: bool = True
    """Not known to be synced."""

    def pending(self, done: int) -> int:
        """How many of its ids lie behind `done`."""
        return self.last - max(done, self.first - 1)


def segment_files(folder: Path) -> list[Path]:
    """All segments of a folder, oldest first; files of other names are left alone."""
    return sorted(path for path in folder.glob("*.seg") if path.stem.isascii() and path.stem.isdigit())


def read_range(path: Path, offset: int, size: int, *, strict: bool = False) -> bytes:
    """Bytes of a file. What the disk can't read is damage: a block comes as zeros, and a whole file as nothing, as does
    one that is not there.

    Raises:
        OSError: anything else; `strict`: also what the disk can't read.
    """
    lenient = not strict
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError) or (lenient and exc.errno == errno.EIO):
            return b""
        raise
    try:
        end = offset + size
        spans = [(at, min(_BLOCK_BYTES, end - at)) for at in range(offset, end, _BLOCK_BYTES)]
        return b"".join(_read_block(fd, at, length, lenient) for at, length in spans)
    finally:
        os.close(fd)


def _read_block(fd: int, offset: int, size: int, lenient: bool) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as exc:
        if exc.errno != errno.EIO or not lenient:
            raise
        return bytes(size)


def load_segment(path: Path, opened: Instant) -> tuple[Segment | None, int, bool]:
    """Scan a file that an earlier process wrote, and cut off what lies behind its last whole record.

    Args:
        path: the file; it is unlinked when no record in it is whole.
        opened: now.

    Returns:
        The segment or None; how many damaged places have a whole record behind them; whether there was anything but
        allocated space behind the last.

    Raises:
        OSError: it can't be opened or cut.
    """
    data = read_range(path, 0, path.stat().st_size)
    segment: Segment | None = None
    damaged = at = 0
    while found := find_record(data, at):
        record, begin, end = found
        if segment and record.id <= segment.last:
            break  # blocks of an older file, which some file systems show after a power cut
        damaged += begin > at
        at = end
        when = Instant(opened.mono_s, record.accepted_unix_s, record.synced, own=False)
        if segment is None:
            segment = Segment(path, record.id, record.id, end, record.before, record.after, when, when)
        segment.last, segment.size, segment.end, segment.newest = record.id, end, record.after, when
    if segment is None:
        path.unlink()
    elif at < len(data):
        os.truncate(path, segment.size)
    return segment, damaged, bool(data[at:].strip(b"\0"))


def accepted_after(segment: Segment, done: int) -> float:
    """When the first record behind `done` was accepted, in Unix seconds; when its last was, if none can be read."""
    with contextlib.suppress(OSError):
        data, at = read_range(segment.path, 0, segment.size), 0
        while found := find_record(data, at):
            record, _, at = found
            if record.id > done:
                return record.accepted_unix_s
    return segment.newest.unix_s


def sync_files(segments: list[Segment]) -> None:
    """Make what was written durable; a file that vanished was acknowledged or evicted meanwhile.

    Raises:
        OSError: the disk failed.
    """
    for segment in segments:
        try:
            fd = os.open(segment.path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


class Keeper(Protocol):
    """Where segments go that are done with."""

    def keep(self, path: Path, size: int) -> bool:
        """Take a file over; false when it is to be unlinked."""

    def clear(self) -> int:
        """Give all of them up for their space; so many bytes."""


class SegmentLog:
    """The segments of a folder, oldest first, and the file that is written to. The owner locks."""

    def __init__(
        self, folder: Path, segments: list[Segment], max_span_s: float, *, allocate: bool, sent: Keeper
    ) -> None:
        """`allocate`: every record will be synced. Files get their space at once, so that a sync writes data only."""
        self.segments = deque(segments)
        self.bytes = sum(segment.size for segment in segments)
        self.new_names = bool(segments)
        """There are files whose names are not known to be synced."""
        self._folder = folder
        self._max_span_s = max_span_s
        self._allocate = allocate
        self.sent = sent
        self._active: Segment | None = None
        self._fd = -1
        self._leftover: list[Path] = []

    def append(self, data: bytes, id_: int, before: Point, after: Point, at: Instant) -> None:
        """Write one record: in the page cache when this returns, where a kill can't reach it.

        Raises:
            OSError: it could not be written as a whole; nothing of it is left.
        """
        segment = self._active
        if segment is None or self._is_complete(segment, len(data), id_, at):
            segment = self._start(id_, before, at)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], segment.size + written)
        except OSError:
            if segment.size == 0:
                self.drop(segment)
            else:
                with contextlib.suppress(OSError):  # readers stop at `size` anyway, and recovery cuts it off
                    os.ftruncate(self._fd, segment.size)
            raise
        segment.last, segment.end, segment.newest, segment.dirty = id_, after, at, True
        segment.size += len(data)
        self.bytes += len(data)

    def _is_complete(self, segment: Segment, more: int, id_: int, at: Instant) -> bool:
        too_long = at.mono_s - segment.oldest.mono_s > self._max_span_s
        return too_long or segment.size + more > SEGMENT_BYTES or segment.last + 1 != id_

    def _start(self, first: int, before: Point, at: Instant) -> Segment:
        """The next file. The one before is not synced: once acknowledged it never has to reach the disk."""
        path = self._folder / f"{first:016d}.seg"  # 2**53 has 16 digits: names sort as ids do
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._leftover = [left for left in self._leftover if left != path and not _is_gone(left)]
        self.close()
        self._fd = fd
        if self._allocate:
            with contextlib.suppress(OSError):  # no space for all of it, perhaps for some
                os.posix_fallocate(fd, 0, SEGMENT_BYTES)
        self.new_names = True
        self._active = Segment(path, first, first - 1, 0, before, before, at, at)
        self.segments.append(self._active)
        return self._active

    def trim(self, done: int, now_s: float) -> bool:
        """Remove what is done with as a whole; true when there was any. `now_s` is monotonic.

        The file that is written to goes too, when it has some size, shortly before Linux writes it back: so it never
        costs the disk a write. A small one costs less when it is written than when it is unlinked.
        """
        before = len(self.segments)
        while self.segments and self.segments[0].last <= done:
            if self.segments[0] is self._active and not self._is_worth_unlinking(self._active, now_s):
                break
            self.drop(self.segments[0], keep=True)
        return len(self.segments) < before

    def _is_worth_unlinking(self, active: Segment, now_s: float) -> bool:
        is_old = now_s - active.oldest.mono_s >= _BEFORE_WRITE_BACK_S
        return is_old and active.size >= SEGMENT_BYTES // 8 and not self._allocate

    def drop(self, segment: Segment, *, keep: bool = False) -> None:
        """Unlink a segment, whatever is in it; `keep`: or hand it over to who keeps what was sent.

        Emptying the file to use it again would write more: ext4 flushes on close what was cut to nothing before, and
        an inode that stays dirty is written back after half a minute with all that is in it then.
        """
        if segment is self._active:
            self.close()
        self.segments.remove(segment)
        self.bytes -= segment.size
        if keep and self.sent.keep(segment.path, segment.size):
            return
        if not _is_gone(segment.path):
            self._leftover.append(segment.path)  # until the disk takes changes again; or the next start drops it

    def close(self) -> None:
        if self._active:
            os.close(self._fd)
            self._active = None


def _is_gone(path: Path) -> bool:
    """Whether a file could be unlinked, or was not there any more."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
