"""Simulated devices: the agent's own publish loop, link, back-off and messages; without camera, model and disk.

What it is about is how devices come back to a broker, so nothing of that is copied: `publish_loop` runs as in the
agent, a thread for each device. A worker process holds some, so that `kill -9` of one takes a part of the fleet.
"""

import contextlib
import functools
import logging
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Literal, NamedTuple

import structlog

from agent import __version__
from agent.config import Mqtt
from agent.errors import LinkDown
from agent.mqtt.inbox import Inbox
from agent.mqtt.link import Link
from agent.outbox.record import StoredMessage
from agent.pipeline import publish_loop
from agent.runtime.clock import Clock, rfc3339
from agent.runtime.health import Health
from agent.runtime.progress import Progress
from agent.values import Classification, OutboundMessage, Timing
from agent.wire.messages import FrameInfo, ModelInfo, Result, Stamp, Status, encode
from agent.wire.topics import Topics

PIPELINE = "door"
REPORT_S = 1.0
"""How often a worker says how many results were acknowledged."""
_MODEL = ModelInfo(name="simulated", version="1", sha256="0" * 64)

What = Literal["try", "up", "failed", "down"]


class Happened(NamedTuple):
    """Something about the connection of a device."""

    at_s: float
    """Monotonic, the same for all processes of a machine."""
    device: str
    what: What
    """It tries to connect; is connected; the try failed; the connection ended."""
    why: str = ""


class Acknowledged(NamedTuple):
    """Results that the broker has acknowledged to a worker's devices since its start."""

    total: int


News = Happened | Acknowledged


@dataclass(frozen=True)
class Fleet:
    """What all devices of a worker have in common."""

    mqtt: Mqtt
    devices: tuple[str, ...]
    rate_hz: float
    """Results a second of each."""
    epoch: int
    """Rises with each start of a worker, so that `seq` never repeats."""


class Results:
    """Stands in the place of the outbox: makes a result when it is due, and keeps it until it is acknowledged.

    What was due while there was no connection is made when there is one again: a device brings its backlog along.
    """

    def __init__(self, topics: Topics, stamp: Stamp, rate_hz: float, epoch: int) -> None:
        self._topic, self._stamp, self._rate_hz = topics.results(PIPELINE), stamp, rate_hz
        self._open: deque[StoredMessage] = deque()
        self._sent = 0
        self._epoch = epoch << 32
        self._made = 0
        self._started_s = time.monotonic() - random.uniform(0, 1)  # not all at the same moment
        self.acknowledged = 0

    def begin(self) -> None:
        """A new connection: what is not acknowledged goes out again."""
        self._sent = 0

    def next(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """What to send now, in order."""
        due = int((time.monotonic() - self._started_s) * self._rate_hz) - self._made
        missing = max_count - (len(self._open) - self._sent)
        self._open.extend(self._make() for _ in range(min(due, missing)))
        found: list[StoredMessage] = []
        while self._sent < len(self._open) and len(found) < max_count and max_bytes > 0:
            found.append(self._open[self._sent])
            max_bytes -= len(found[-1].payload)
            self._sent += 1
        return found

    def taken(self, id_: int) -> None:
        """The broker has acknowledged this one and all before it."""
        while self._open and self._open[0].id <= id_:
            self._open.popleft()
            self._sent -= 1
            self.acknowledged += 1

    def _make(self) -> StoredMessage:
        prev = self._epoch + self._made if self._made else 0
        self._made += 1
        result = Result(
            **self._stamp(),
            seq=self._epoch + self._made,
            prev=prev,
            pipeline=PIPELINE,
            captured_at=rfc3339(time.time_ns()),
            frame=FrameInfo(self._made, 640, 480),
            model=_MODEL,
            timing_ms=Timing(1.0, 20.0, 0.5, 22.0),
            classes=[Classification(label="person", class_id=0, confidence=0.9)],
        )
        payload = encode(result)
        return StoredMessage(self._epoch + self._made, self._topic, payload, False, "application/json", (), True)


class WatchedLink(Link):
    """Says when it tries, and what came of it."""

    tell: Callable[[What, str], None]
    _up = False

    def connect(self, timeout_s: float) -> None:
        self.tell("try", "")
        try:
            super().connect(timeout_s)
        except LinkDown as exc:
            self.tell("failed", str(exc))
            raise
        self._up = True
        self.tell("up", "")

    def close(self, last_words: OutboundMessage | None, timeout_s: float) -> None:
        super().close(last_words, timeout_s)
        if self._up:
            self._up = False
            self.tell("down", self.last_error or "")


class Device:
    """One simulated device. `run` is the body of its thread."""

    def __init__(self, fleet: Fleet, name: str, clock: Clock, tell: Callable[[Happened], None]) -> None:
        self._topics, self._stamp = Topics(fleet.mqtt.prefix, name), Stamp(name, clock)
        self._started_at = self._stamp()["time"]
        self.results = Results(self._topics, self._stamp, fleet.rate_hz, fleet.epoch)
        self._health = Health()
        self._link = WatchedLink(
            fleet.mqtt,
            name,
            will=self._status("offline"),
            birth=functools.partial(self._status, "online"),
            topic_filters=self._topics.command_filters(),
            inbox=Inbox(),
        )
        self._link.tell = lambda what, why: tell(Happened(time.monotonic(), name, what, why))

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set."""
        publish_loop(self.results, self._link, self._health, Progress(), lambda: self._status("offline"), stop)

    def wake(self) -> None:
        """See that `stop` is set."""
        self._link.wake()

    def _status(self, state: Literal["online", "offline"]) -> OutboundMessage:
        status = Status(**self._stamp(), state=state, reasons=[], version=__version__, started_at=self._started_at)
        return OutboundMessage(self._topics.status(), encode(status), in_chain=False, retain=True)


def run_worker(pipe: Pipe, fleet: Fleet) -> None:
    """The body of a worker process: runs its devices until the other end of the pipe says so, or is gone."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tool, which then closes the pipe
    lock, stop, clock = threading.Lock(), threading.Event(), Clock()

    def tell(news: News) -> None:
        with lock, contextlib.suppress(OSError):  # nobody listens any more: `poll` below sees it
            pipe.send(news)

    devices = [Device(fleet, name, clock, tell) for name in fleet.devices]
    threads = [threading.Thread(target=device.run, args=(stop,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    while not pipe.poll(REPORT_S):
        tell(_sum(devices))
    stop.set()
    for device in devices:
        device.wake()
    for thread in threads:
        thread.join(10.0)
    tell(_sum(devices))


def _sum(devices: Iterable[Device]) -> Acknowledged:
    return Acknowledged(sum(device.results.acknowledged for device in devices))
