"""Accounts of what was sent and how the broker answered. No I/O, no clock of its own.

What MQTT 5 allows a broker to answer to a publish (section 3.4.2.1) falls in two: under 0x80 it has the message, from
0x80 on it has not. A refusal may be about the message (its topic is forbidden) or about the broker (a quota). Dropping
messages for the second would lose what was promised, so a refusal counts against a message only when the broker took
something else on the same connection; each connection begins with the status message, so there always is something.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

FIRST_FAILURE = 0x80
NO_SUBSCRIBERS = 0x10
NOT_AUTHORIZED = 0x87
TOPIC_INVALID = 0x90

TRIES = 5
"""Refusals after which a message is given up."""


@dataclass(slots=True)
class _Flight:
    """One QoS 1 publish. A refusal is `held` once it has been settled."""

    id: int
    """0 for what goes beside the stream."""
    topic: str
    state: Literal["waiting", "done", "refused", "held"] = "waiting"
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Parked:
    """A message that was given up: the broker takes others, but not this one."""

    topic: str
    reason: str


class Ledger:
    """Lives as long as the agent, over all connections. Used by one thread.

    Ids of the stream rise in the order they are offered, within a connection; after a new `begin` the offers start
    again at the first that was not taken from `take`.
    """

    def __init__(self) -> None:
        self._line: deque[_Flight] = deque()  # of the stream, in the order sent
        self._open: dict[int, _Flight] = {}  # by packet id, oldest first
        self._ready: list[_Flight] = []
        self._had: dict[int, str] = {}  # with its topic: a gap that took a message's place has its id
        self._refusals: dict[int, int] = {}
        self._forbidden: set[str] = set()
        self._took_any = False
        self._progress_at_s = 0.0

    @property
    def open(self) -> int:
        """Publishes that wait for their answer."""
        return len(self._open)

    @property
    def refused(self) -> bool:
        """The broker refused a message of the stream: nothing more should be sent on this connection."""
        return any(flight.state in {"refused", "held"} for flight in self._line)

    def begin(self) -> None:
        """A new connection: what was offered in the last one will be offered again."""
        self._ready.clear()
        self._took_any = False

    def forget(self) -> None:
        """Whatever the broker had acknowledged is sent again when it is offered again."""
        self._had.clear()

    def end(self) -> None:
        """The connection is gone. What the broker had acknowledged out of order is remembered, not sent again."""
        self._ready += self._prefix()
        done = [flight for flight in self._line if flight.state == "done"]
        self._had.update((flight.id, flight.topic) for flight in (*self._ready, *done))
        self._line.clear()
        self._open.clear()

    def offer(self, message_id: int, topic: str) -> bool:
        """Take the next message of the stream into the line; False when it is not to be sent: the broker has it."""
        if not self._line:
            self._had = {had: its for had, its in self._had.items() if had >= message_id}
            self._refusals = {had: tries for had, tries in self._refusals.items() if had >= message_id}
        had = self._had.pop(message_id, None) == topic
        self._line.append(_Flight(message_id, topic, "done" if had else "waiting"))
        return not had

    def park(self) -> None:
        """Give up the message that was offered last, unsent."""
        self._line[-1].state = "done"

    def sent(self, packet_id: int, now_s: float, *, beside_stream: str | None = None) -> None:
        """The message that was offered last, or one beside the stream on this topic, went out as this packet."""
        if not self._open:
            self._progress_at_s = now_s
        self._open[packet_id] = self._line[-1] if beside_stream is None else _Flight(0, beside_stream)

    def answered(self, packet_id: int, code: int, reason: str, now_s: float) -> bool:
        """The broker's answer to a packet; False when it is to none that is open."""
        if packet_id not in self._open:
            return False
        if packet_id == next(iter(self._open)):
            self._progress_at_s = now_s
        flight = self._open.pop(packet_id)
        if code < FIRST_FAILURE:
            self._took_any = True
            self._forbidden.discard(flight.topic)
            flight.state = "done"
        else:
            flight.state, flight.code, flight.reason = "refused", code, reason
        return True

    def settle(self) -> Iterator[Parked]:
        """Give up refused messages that had their tries; on a topic that is known to be forbidden they have one."""
        for flight in self._line:
            if flight.state == "refused" and flight.topic in self._forbidden and self._took_any:
                yield _park(flight)
            elif flight.state == "refused" and not self._open:  # first let the rest of the answers come
                flight.state = "held"
                if self._took_any and self._count(flight) >= TRIES:
                    if flight.code in {NOT_AUTHORIZED, TOPIC_INVALID}:
                        self._forbidden.add(flight.topic)
                    yield _park(flight)

    def refusal(self) -> tuple[str, str] | None:
        """Topic and reason of the first message that stays refused, once `settle` has seen every answer."""
        return next(((flight.topic, flight.reason) for flight in self._line if flight.state == "held"), None)

    def take(self) -> list[int]:
        """Ids that are done with, in the order sent, up to the first that is not. Each is handed out once."""
        done, self._ready = [flight.id for flight in (*self._ready, *self._prefix())], []
        for id_ in done:
            self._had.pop(id_, None)
        return done

    def stalled_s(self, now_s: float) -> float:
        """How long the oldest open publish has been the oldest without an answer; 0 when none is open."""
        return now_s - self._progress_at_s if self._open else 0.0

    def _prefix(self) -> list[_Flight]:
        done: list[_Flight] = []
        while self._line and self._line[0].state == "done":
            flight = self._line.popleft()
            done.append(flight)
            self._refusals.pop(flight.id, None)
        return done

    def _count(self, flight: _Flight) -> int:
        tries = self._refusals.get(flight.id, 0) + 1
        self._refusals[flight.id] = tries
        return tries


def _park(flight: _Flight) -> Parked:
    flight.state = "done"
    return Parked(flight.topic, flight.reason)
