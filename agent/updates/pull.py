"""Asks for the chunks of a blob, one or two at a time, as politely as the link needs it.

Each chunk is a retained message of its own: to subscribe to its topic is to ask for it. So results on the same
connection keep their latency, and the broker needs no memory for a device that fetches.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from agent.errors import UpdateFailed

WINDOW = 2
"""Chunks on their way at a time. More is no faster on a LAN, and on a slow link each holds up results."""
SLOW_S = 0.020
"""A link that takes longer for a chunk is slow: one chunk at a time then, and a pause after each."""
PAUSE_RATIO = 2.0
"""The pause, in times of a chunk: results have a slow link for themselves for two thirds of the time."""
LEAVE_TOGETHER = 8
"""Subscriptions that brought their chunk are ended so many at a time: a fifth of the work with a chunk is for that."""
RETRY_S = 30.0
STALL_S = 300.0


class Wires(Protocol):
    """What is needed of the connection; `agent.mqtt.link.Link` is one."""

    @property
    def connects(self) -> int: ...
    @property
    def connected(self) -> bool: ...
    @property
    def denied(self) -> Mapping[str, str]: ...

    def want(self, topics: Iterable[str]) -> None: ...
    def unwant(self, topics: Iterable[str]) -> None: ...


class Chunk(NamedTuple):
    """One that came."""

    topic: str
    payload: bytes
    at_s: float
    """Monotonic time when it came."""


class ChunkBox:
    """Between the publish thread and the one that receives. Holds one message for each topic that is awaited now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._awaited: set[str] = set()
        self._came: dict[str, Chunk] = {}
        self.dropped = 0
        """Messages that nobody asked for."""

    def put(self, topic: str, payload: bytes) -> None:
        """Keep a message if it is awaited. Never raises; blocks for no longer than a look into a table."""
        with self._changed:
            if topic not in self._awaited:
                self.dropped += 1
                return
            self._awaited.discard(topic)
            self._came[topic] = Chunk(topic, payload, time.monotonic())
            self._changed.notify_all()

    def expect(self, topics: Iterable[str]) -> None:
        """Keep the next message of each of these topics."""
        with self._changed:
            self._awaited.update(topics)

    def forget(self, topics: Iterable[str]) -> None:
        """Neither wait for these topics any more, nor keep what came of them."""
        with self._changed:
            for topic in topics:
                self._awaited.discard(topic)
                self._came.pop(topic, None)

    def take(self, topics: Collection[str], timeout_s: float) -> Chunk | None:
        """What came of one of these topics; None when nothing did in time."""
        with self._changed:
            self._changed.wait_for(lambda: any(topic in self._came for topic in topics), timeout_s)
            return next((self._came.pop(topic) for topic in topics if topic in self._came), None)


class Pace:
    """How politely to ask. The fastest of the last three chunks counts: a hiccup of this machine is no slow link."""

    def __init__(self, retry_s: float = RETRY_S, stall_s: float = STALL_S) -> None:
        self.retry_s, self.stall_s = retry_s, stall_s
        self.pause_until_s = 0.0
        self._times_s: deque[float] = deque(maxlen=3)

    @property
    def window(self) -> int:
        return WINDOW if self._times_s and min(self._times_s) <= SLOW_S else 1

    def took(self, chunk_s: float, now_s: float) -> None:
        self._times_s.append(chunk_s)
        if (fastest_s := min(self._times_s)) > SLOW_S:
            self.pause_until_s = now_s + PAUSE_RATIO * fastest_s


class Pull:
    """Asks for the chunks of one blob until all are there. No disk."""

    def __init__(
        self, name: str, topic_of: Callable[[int], str], indices: Iterable[int], wires: Wires, box: ChunkBox, pace: Pace
    ) -> None:
        """`name` is what errors call a chunk of it."""
        self._name, self._topic_of = name, topic_of
        self._wires, self._box, self._pace = wires, box, pace
        self._due = [(0.0, index) for index in sorted(indices)]  # when to ask for which, a heap
        self._asked: dict[str, tuple[int, float]] = {}  # what is on its way, by topic: index, since when
        self._over: list[str] = []  # subscriptions that brought their chunk
        self._connects = 0
        self.waited_s = 0.0
        """With a connection and in vain, since this was last set back to 0."""

    @property
    def done(self) -> bool:
        """Every chunk came, and none of them is to be asked for again."""
        return not self._due and not self._asked

    def step(self, wait_s: float) -> tuple[int, bytes] | None:
        """Ask for what may be asked for, and wait for a chunk.

        Raises:
            UpdateFailed: missing_chunks.
        """
        chunk = self._box.take(self._asked, 0.0)  # before any is asked for again: it may have come with the last words
        if chunk is None:
            self._check()
            self._ask()
            now_s, pause_until_s = time.monotonic(), self._pace.pause_until_s
            chunk = self._box.take(self._asked, min(wait_s, pause_until_s - now_s) if pause_until_s > now_s else wait_s)
            self.waited_s += time.monotonic() - now_s if self._wires.connected else 0.0
        if chunk is None:
            return None
        index, asked_s = self._asked.pop(chunk.topic)
        self._pace.took(chunk.at_s - asked_s, time.monotonic())
        self._over.append(chunk.topic)
        self._ask()  # the next one is on its way while this one is looked at
        return index, chunk.payload

    def ask_again(self, indices: Iterable[int]) -> None:
        """What came was wrong. It is asked for later, so that wrong bytes on the broker cost time and no more."""
        for index in indices:
            heapq.heappush(self._due, (time.monotonic() + self._pace.retry_s, index))

    def close(self) -> None:
        """Want nothing any more."""
        self._box.forget(self._asked)
        self._wires.unwant([*self._asked, *self._over])
        self._asked.clear()
        self._over.clear()

    def _ask(self) -> None:
        """Begin subscriptions as far as the pace allows, and end others."""
        now_s, topics = time.monotonic(), []
        allowed = self._wires.connected and self._connects == self._wires.connects and now_s >= self._pace.pause_until_s
        while allowed and len(self._asked) < self._pace.window and self._due and self._due[0][0] <= now_s:
            _, index = heapq.heappop(self._due)
            topics.append(self._topic_of(index))
            self._asked[topics[-1]] = index, now_s
        if len(self._over) >= LEAVE_TOGETHER:
            self._wires.unwant(self._over)
            self._over.clear()
        if topics:
            self._box.expect(topics)
            self._wires.want(topics)

    def _check(self) -> None:
        """Take back what is not on its way any more; raise when there is no hope."""
        now_s, connects = time.monotonic(), self._wires.connects
        renewed, self._connects = connects != self._connects, connects
        for topic, (index, asked_s) in list(self._asked.items()):
            if reason := self._wires.denied.get(topic):
                raise UpdateFailed("missing_chunks", f"{self._name} {index}: {reason}; see the broker's access list")
            if renewed or now_s - asked_s >= self._pace.retry_s:
                del self._asked[topic]
                self._box.forget([topic])
                self._wires.unwant([topic])
                heapq.heappush(self._due, (0.0 if renewed else now_s, index))
        if self.waited_s >= self._pace.stall_s:
            index = min([index for index, _ in self._asked.values()] or [self._due[0][1]])
            raise UpdateFailed(
                "missing_chunks",
                f"{self._name} {index} does not come, or with other bytes; is {self._topic_of(index)} on the broker, "
                "and may the device read it?",
            )
