"""Locks the folder, reads what an earlier process left there, and begins an epoch."""

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.errors import OutboxError
from agent.outbox.ackfile import AckFile, AckState
from agent.outbox.ages import Instant
from agent.outbox.chain import Point
from agent.outbox.epoch import begin_epoch, load_epoch
from agent.outbox.segment import Segment, SegmentLog, load_segment, segment_files
from agent.outbox.sent import SentFiles
from agent.runtime.files import fsync_dir

_FILE_IN_THE_WAY = "name a folder, or move the file away"
_NO_RIGHT = "make it a folder that this user may write to, or name another one"
_NO_SPACE = "free some space"
_MENDS = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EEXIST: _FILE_IN_THE_WAY,
    errno.ENOTDIR: _FILE_IN_THE_WAY,
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
}

log = structlog.get_logger()


class Found(NamedTuple):
    """What there is in the folder."""

    ackfile: AckFile
    state: AckState
    log: SegmentLog
    last: int
    """The last id that is known to be accepted."""
    tail: Point
    """The chain up to there."""
    damaged: int
    """Damaged places in the files."""


def recover(folder: Path, opened: ExitStack, max_span_s: float, now: Instant, allocate: bool, keep_bytes: int) -> Found:
    """Open everything in the folder; `opened` closes it.

    Raises:
        OutboxError: one line that names the path, the key, and the mend.
    """
    try:
        _lock(folder, opened)
        return _read(folder, opened, max_span_s, now, allocate, keep_bytes)
    except BlockingIOError as exc:
        raise OutboxError(f"outbox.dir: {folder} is used by another agent; stop it, or name another folder") from exc
    except OSError as exc:
        mend = _MENDS.get(exc.errno or 0, "mend that, or name another folder")
        raise OutboxError(f"outbox.dir: {folder}: {(exc.strerror or str(exc)).lower()}; {mend}") from exc


def _lock(folder: Path, opened: ExitStack) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        fsync_dir(folder.parent)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    opened.callback(os.close, fd)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(folder: Path, opened: ExitStack, max_span_s: float, now: Instant, allocate: bool, keep_bytes: int) -> Found:
    ackfile = AckFile(folder / "ack")
    opened.callback(ackfile.close)
    segments, damaged = _load_segments(folder, now)
    damaged += ackfile.damaged
    state = ackfile.state or AckState(chain=segments[0].start if segments else Point())  # lost: what is left is all
    last = max([state.done, *(segment.last for segment in segments)])
    tail = max([state.head, *(segment.end for segment in segments)])
    state = state._replace(epoch=max(state.epoch, load_epoch(folder), last >> 32))
    state = begin_epoch(folder, ackfile, state)
    fsync_dir(folder)
    if damaged:
        log.warning("outbox.damaged", folder=str(folder), places=damaged)
    found = SegmentLog(folder, segments, max_span_s, allocate=allocate, sent=SentFiles(folder, keep_bytes))
    opened.callback(found.close)
    found.trim(state.done, now.mono_s)
    return Found(ackfile, state, found, last, tail, damaged)


def _load_segments(folder: Path, now: Instant) -> tuple[list[Segment], int]:
    """All segments with a whole record in them, oldest first, and the number of damaged places.

    The end of the last file is none: a kill or a power cut leaves it so, of a message that was not accepted.
    """
    segments: list[Segment] = []
    damaged, torn_end = 0, False
    for path in segment_files(folder):
        segment, places, torn = load_segment(path, now)
        damaged += places + (torn_end and segment is not None)
        torn_end = torn or (torn_end and segment is None)
        if segment:
            segments.append(segment)
    return segments, damaged
