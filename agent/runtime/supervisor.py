"""Threads that live and die together: the first one to end stops all, then all are joined under one deadline.

After `group.go` of oklog/run. A thread that does not end in time is named, not waited for: threads are daemon threads,
so that the process can end without it.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from agent.errors import AgentError

Body = Callable[[threading.Event], None]

_LOOK_S = 0.25
"""How often the stop event is looked at; `request_stop` is noticed at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run came to its end."""

    by: str | None
    """Name of the thread that ended it; None when it was asked to stop, or when there was nothing left to wait for."""
    error: BaseException | None
    """The first error of any thread, also one that came while stopping."""
    zombies: list[str]
    """Threads that did not end in time."""


@dataclass(slots=True)
class _Member:
    name: str
    body: Body
    may_end: bool
    thread: threading.Thread = field(init=False)
    error: BaseException | None = None


class Supervisor:
    """Starts threads, waits, stops them. For the main thread; `request_stop` may be called from anywhere."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._members: list[_Member] = []
        self._ended: queue.SimpleQueue[_Member | None] = queue.SimpleQueue()

    def add(self, name: str, body: Body, *, may_end: bool = False) -> None:
        """Add a thread before `run`. With `may_end` it may return without ending the rest; an error always ends all."""
        member = _Member(name, body, may_end)
        member.thread = threading.Thread(target=self._work, args=(member,), name=name, daemon=True)
        self._members.append(member)

    def request_stop(self) -> None:
        """Ask for the end. Safe in a signal handler, unlike `Event.set`: that one takes a lock which the interrupted
        main thread may hold."""
        self._ended.put(None)

    def run(self, tick: Callable[[], None] | None = None, tick_s: float = 1.0, join_s: float = 10.0) -> Ending:
        """Start all threads and wait until the first ends or a stop is asked for; then stop and join the others.

        Args:
            tick: called here every `tick_s` seconds while waiting. What it raises is raised, after the threads ended.
            join_s: the time that all threads together have to end, from the stop on.
        """
        ended: list[_Member] = []
        started: list[threading.Thread] = []
        try:
            for member in self._members:
                member.thread.start()
                started.append(member.thread)
            by = self._wait(ended, tick, tick_s)
        finally:
            self._stop.set()
            zombies = _join(started, join_s)
        while not self._ended.empty():
            member_or_stop = self._ended.get()
            if member_or_stop is not None:
                ended.append(member_or_stop)
        return Ending(by, next((member.error for member in ended if member.error), None), zombies)

    def _work(self, member: _Member) -> None:
        try:
            member.body(self._stop)
        except AgentError as exc:  # ours: one line says it all
            member.error = exc
            log.error("thread.failed", thread=member.name, error=str(exc))  # noqa: TRY400
        except BaseException as exc:  # top of a thread: whatever it is, it ends the daemon
            member.error = exc
            log.exception("thread.failed", thread=member.name)
        finally:
            self._ended.put(member)

    def _wait(self, ended: list[_Member], tick: Callable[[], None] | None, tick_s: float) -> str | None:
        """Returns the name of the thread that ends the run, or None; those that have ended go to `ended`."""
        next_tick = time.monotonic()
        while len(ended) < len(self._members) and not self._stop.is_set():
            now = time.monotonic()
            if tick and now >= next_tick:
                tick()
                next_tick = now + tick_s
            try:
                member = self._ended.get(timeout=min(tick_s, _LOOK_S))
            except queue.Empty:
                continue
            if member is None:
                return None
            ended.append(member)
            if member.error or not (member.may_end or self._stop.is_set()):
                return member.name
        return None


def _join(threads: list[threading.Thread], join_s: float) -> list[str]:
    deadline = time.monotonic() + join_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    zombies = [thread.name for thread in threads if thread.is_alive()]
    if zombies:
        log.error("thread.stuck", threads=zombies, waited_s=join_s)
    return zombies
