"""The guard around a source: a read that never comes back must not stop the pipeline.

Libraries and drivers can hang in a read for ever, and no call ends that from outside. So a thread of its own opens the
source and reads; the pipeline's thread only watches the clock. A thread that stays away is left behind, and its late
frames go nowhere.
"""

import threading
import time
from collections.abc import Callable
from typing import Literal

import structlog

from agent.capture import FrameSource
from agent.capture.frames import first_frame_s
from agent.errors import SourceError
from agent.values import Frame

GRACE_S = 2.0
"""How long a thread that was told to end may take; longer than OpenCV rounds its timeout up."""
MAX_STUCK = 3
"""With so many threads left behind in one source, no further one is started."""

_TICK_S = 0.1

log = structlog.get_logger()


class Reader:
    """Reads a source again and again. Make one per pipeline; each try is one `start()` and one `watch()`:

        reader = Reader(partial(make_source, spec), slot.put)
        while not stop.is_set():
            try:
                reader.start()
                outcome = reader.watch(stop, stall_timeout_s(spec))   # "ended" or "stopped"
            except SourceError as exc: ...                            # log once, back off, go on

    Frame numbers go on rising over all tries. `sink` is called from the reading thread; while it takes its time, the
    source is not blamed for it. After `watch` has come back, no frame reaches the sink before the next `start`, save
    one that it was already working on for longer than the grace time.
    """

    def __init__(self, make_source: Callable[[], FrameSource], sink: Callable[[Frame], None]) -> None:
        self._make_source = make_source
        self._sink = sink
        self._session: _Session | None = None
        self._left: list[threading.Thread] = []
        self._next_index = 0
        self._broken = 0

    @property
    def stuck(self) -> int:
        """Threads that were left behind and have not come back yet."""
        self._left = [thread for thread in self._left if thread.is_alive()]
        return len(self._left)

    @property
    def broken(self) -> int:
        """Damaged frames that were left out, over all tries."""
        session = self._session
        return self._broken + (0 if session is None else session.source.broken)

    def start(self) -> None:
        """Start the thread: it opens the source, reads until the end, and closes it.

        Raises:
            SourceError: too many threads are stuck in this source already.
        """
        if self._session is not None:
            raise RuntimeError("start() again before watch()")
        source = self._make_source()
        if self.stuck >= MAX_STUCK:
            raise SourceError(f"{source.name}: {self.stuck} reads hang in it; waiting for one to come back")
        self._session = _Session(source, self._sink, self._next_index)
        self._session.thread.start()

    def watch(self, stop: threading.Event, timeout_s: float | None) -> Literal["ended", "stopped"]:
        """Wait for the end of the recording or for `stop`; the thread is over, or left behind, when this comes back.

        `timeout_s`: longest time between two frames; opening and the first frame get more. None: as long as it takes.

        Raises:
            SourceUnusable: the source can never work.
            SourceError: it can't be opened, was lost, or is silent.
            Exception: whatever else ended the thread; a mistake in the program.
        """
        session = self._session
        if session is None:
            raise RuntimeError("watch() before start()")
        try:
            while not session.done.wait(_TICK_S):
                if stop.is_set():
                    return "stopped"
                session.check_stall(timeout_s)
        finally:
            self._leave(session)
        if session.failure is not None:
            raise session.failure
        return "ended"

    def _leave(self, session: "_Session") -> None:
        session.give_up()
        session.thread.join(GRACE_S)
        if session.thread.is_alive():
            self._left.append(session.thread)
            log.warning("capture.thread_left_behind", source=session.source.name, stuck=len(self._left))
        self._session = None
        self._next_index = session.next_index
        self._broken += session.source.broken


class _Session:
    """One try: a thread with its source, and what the watching thread needs to know of it."""

    def __init__(self, source: FrameSource, sink: Callable[[Frame], None], first_index: int) -> None:
        self.source = source
        self.next_index = first_index
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"capture {source.name}", daemon=True)
        self._sink = sink
        self._lock = threading.Lock()
        self._given_up = False
        self._waiting_since_s: float | None = time.monotonic()  # None while the sink has the frame
        self._frames = 0

    def give_up(self) -> None:
        """From now on no frame is handed over; a read that can be woken is."""
        with self._lock:
            self._given_up = True
        self.source.interrupt()

    def check_stall(self, timeout_s: float | None) -> None:
        """Give up, with SourceError, when the source is silent for too long."""
        if timeout_s is None:
            return
        limit_s = timeout_s if self._frames else first_frame_s(timeout_s)
        with self._lock:
            since_s = self._waiting_since_s
            if since_s is None or time.monotonic() - since_s <= limit_s:
                return
            self._given_up = True
        raise SourceError(f"{self.source.name}: no frame for {limit_s:.1f} s")

    def _run(self) -> None:
        try:
            self.source.open(self.next_index)
            while (frame := self.source.read()) is not None and self._hand_over(frame):
                pass
        except BaseException as exc:  # noqa: BLE001 - the top of a thread: watch() raises it in the pipeline's thread
            # The traceback of an expected error is of no use, and holds what the frames in it hold: decoders, threads.
            self.failure = exc.with_traceback(None) if isinstance(exc, SourceError) else exc
        finally:
            try:
                self.source.close()
            finally:
                self.done.set()

    def _hand_over(self, frame: Frame) -> bool:
        """Give the frame to the sink, unless nobody waits for it any more: then False."""
        with self._lock:
            if self._given_up:
                return False
            self._waiting_since_s = None
            self.next_index = frame.index + 1
        self._sink(frame)
        with self._lock:
            self._frames += 1
            self._waiting_since_s = time.monotonic()
        return True
