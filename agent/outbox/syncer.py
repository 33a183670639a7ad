"""When records reach the disk itself: in groups for callers that wait, or late and only what is not acknowledged."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from agent.errors import OutboxError
from agent.outbox.ackfile import AckFile
from agent.outbox.segment import Segment, SegmentLog, sync_files
from agent.runtime.files import fsync_dir

_TICK_S = 0.25
_TICKS_UNACKED = 3
"""What was there this many ticks ago and is not acknowledged is synced: it is 0.75 to 1 s old."""
_DEADLINE_S = 10.0

log = structlog.get_logger()


class Syncer:
    """Shares the lock of its owner, who moves the public attributes while holding it."""

    def __init__(self, folder: Path, segments: SegmentLog, ackfile: AckFile, lock: threading.Lock) -> None:
        self.written = 0
        """The last accepted id."""
        self.acked = 0
        self.trimmed = False
        """Files were unlinked that the ack file on disk may not know to be acknowledged."""
        self._folder = folder
        self._segments = segments
        self._ackfile = ackfile
        self._lock = lock
        self._wanted = threading.Condition(lock)
        self._finished = threading.Condition(lock)
        self._turn = threading.Lock()  # one sync at a time; taken before the owner's lock, held while the disk works
        self._synced = 0  # also what an earlier process wrote may still be in the page cache only
        self._failed = range(0)  # ids of which the last sync failed: a later one that succeeds proves nothing for them
        self._well = True
        self._looping = False

    def await_durable(self, id_: int) -> None:
        """Wait until a record is on the disk. Callers that wait share a sync; without the loop they do it themselves.

        Raises:
            OutboxError: the disk failed, or did not answer for ten seconds.
        """
        with self._lock:
            self._wanted.notify_all()
            self._finished.wait_for(lambda: not self._looping or self._is_settled(id_), _DEADLINE_S)
            alone = not self._looping and not self._is_settled(id_)
        if alone:
            self.sync()
        if id_ in self._failed or id_ > self._synced:
            raise OutboxError(f"outbox.dir: {self._folder}: the message could not be made durable")

    def _is_settled(self, id_: int) -> bool:
        return id_ <= self._synced or id_ in self._failed

    def loop(self, stop: threading.Event, *, at_once: bool, each_tick: Callable[[], None]) -> None:
        """Sync until stopped, and once more then; `at_once` when callers wait for it."""
        self._set_looping(looping=True)
        history: deque[int] = deque(maxlen=_TICKS_UNACKED)
        tick_s = time.monotonic() + _TICK_S
        try:
            while not stop.is_set():
                self._wait(stop, max(0.0, tick_s - time.monotonic()), at_once=at_once)
                if at_once:
                    self.sync()
                if time.monotonic() >= tick_s:
                    tick_s = time.monotonic() + _TICK_S
                    if len(history) == _TICKS_UNACKED and history[0] > max(self.acked, self._synced):
                        self.sync()
                    history.append(self.written)
                    each_tick()
        finally:
            self._set_looping(looping=False)
            self.sync()

    def _set_looping(self, *, looping: bool) -> None:
        with self._lock:
            self._looping = looping
            self._finished.notify_all()

    def _wait(self, stop: threading.Event, timeout_s: float, *, at_once: bool) -> None:
        if at_once:
            with self._lock:
                self._wanted.wait_for(lambda: not self._is_settled(self.written), timeout_s)
        else:
            stop.wait(timeout_s)

    def sync(self) -> None:
        """Make durable what was written and is not acknowledged. A failing disk is logged, once."""
        with self._turn:
            with self._lock:
                upto = self.written
                dirty = [s for s in self._segments.segments if s.dirty and s.last > self.acked]
                new_names, trimmed = bool(dirty) and self._segments.new_names, bool(dirty) and self.trimmed
                self._mark(dirty, new_names, trimmed, pending=False)
            failure: OSError | None = None
            try:
                if trimmed:
                    self._ackfile.sync()  # what is durable never lies behind files that only this file knows about
                sync_files(dirty)
                if new_names:
                    fsync_dir(self._folder)
            except OSError as exc:
                failure = exc
            with self._lock:
                if failure:
                    self._failed = range(self._synced + 1, upto + 1)
                    self._mark(dirty, new_names, trimmed, pending=True)
                else:
                    self._synced = upto
                self._finished.notify_all()
            if failure and self._well:
                log.error("outbox.sync_failed", folder=str(self._folder), error=str(failure))
            elif not failure and not self._well:
                log.info("outbox.sync_recovered", folder=str(self._folder))
            self._well = not failure

    def _mark(self, segments: list[Segment], new_names: bool, trimmed: bool, *, pending: bool) -> None:
        for segment in segments:
            segment.dirty = pending
        if new_names:
            self._segments.new_names = pending
        if trimmed:
            self.trimmed = pending
