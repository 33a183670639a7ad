"""Which messages to send next, and who says that one is done with: the broker, or a collector behind it.

A broker acknowledges before it stores, and forgets what it had not stored when it is killed. So with a collector, what
the broker acknowledged is kept, and sent again from the first on that the collector has not acknowledged: over each new
connection, and when no acknowledgement came for a while.
"""

import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from agent.outbox.record import StoredMessage
from agent.outbox.store import Outbox
from agent.runtime.health import Health
from agent.wire.messages import Ack

MAX_AHEAD = 500
"""Messages that are sent ahead of the collector. More would overrun the queue that a broker keeps for it (mosquitto:
1,000 messages), which then drops the newest: they would arrive late, out of order."""
MAX_WAIT_S = 600.0
"""A collector that is away gets the same again at growing intervals, up to this."""
MAX_ACK_BYTES = 1024

_decode_ack = msgspec.json.Decoder(Ack).decode
_log = structlog.get_logger()


class Delivery(Protocol):
    """What the publish loop asks. One thread."""

    def begin(self) -> None:
        """A new connection."""

    def next(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """What to send now, in order; raises OutboxError when a file can't be read just now."""

    def taken(self, id_: int) -> None:
        """The broker has acknowledged this one and all before it."""


class BrokerDelivery:
    """`trim: broker`: what the broker has acknowledged is done with."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._sent = outbox.acked

    def begin(self) -> None:
        self._sent = self._outbox.acked

    def next(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        messages = self._outbox.next(self._sent, max_count, max_bytes)
        if messages:
            self._sent = messages[-1].id
        return messages

    def taken(self, id_: int) -> None:
        self._outbox.ack(id_)


class CollectorDelivery:
    """`trim: collector`: what a collector has acknowledged is done with.

    Messages outside the chain (snapshots) have no number that a collector could name: they are done with when one
    behind them is.
    """

    def __init__(
        self, outbox: Outbox, resend_after_s: float, health: Health, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._outbox, self._health, self._now_s = outbox, health, now_s
        self._resend_after_s = self._wait_s = resend_after_s
        self._open: dict[int, bool] = {}  # sent over this connection and not done with, with whether it has a number
        self._sent = self._highest = outbox.acked
        self._taken = 0
        self._claimed = 0
        self._progress_s = now_s()
        self._junk_logged = False

    def begin(self) -> None:
        self._restart()
        self._progress_s = self._now_s()

    def take_in(self, payload: bytes) -> None:
        """Take what came on the topic for acknowledgements. In the publish thread; never raises.

        A number that was not sent since the start can be no honest one: nothing is done with on its word. An honest one
        from before comes again, as the collector answers what it gets twice. A lower one than before says nothing new.
        """
        try:
            seq = _decode_ack(payload).seq if len(payload) <= MAX_ACK_BYTES else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            seq = None
        if seq is None or seq > self._highest:
            if not self._junk_logged:
                self._junk_logged = True
                _log.info("outbox.ack_ignored", seq=seq, sent=self._highest)
            return
        self._claimed = max(self._claimed, seq)

    def next(self, max_count: int, max_bytes: int) -> list[StoredMessage]:
        self._settle()
        if self._is_overdue():
            self._health.lost("collector", "no collector acknowledges what is sent; does tools/collect.py run?")
            self._wait_s = min(2 * self._wait_s, MAX_WAIT_S)
            self._restart()
        if not any(self._open.values()):
            self._progress_s = self._now_s()
            if len(self._open) >= MAX_AHEAD:  # snapshots only, and nothing behind them
                self._let_go(self._taken)
        messages = self._outbox.next(self._sent, min(max_count, MAX_AHEAD - len(self._open)), max_bytes)
        for message in messages:
            self._open[message.id] = message.in_chain
            self._sent = message.id
        self._highest = max(self._highest, self._sent)
        return messages

    def taken(self, id_: int) -> None:
        self._taken = id_

    def _settle(self) -> None:
        """Let go what the collector has acknowledged, as far as it was sent over this connection."""
        before = self._outbox.acked
        if self._claimed <= before:
            return
        self._let_go(self._claimed)
        if self._outbox.acked > before:
            self._progress_s, self._wait_s = self._now_s(), self._resend_after_s
            self._health.recovered("collector")

    def _let_go(self, id_: int) -> None:
        self._outbox.ack(id_)
        self._open = {open_: numbered for open_, numbered in self._open.items() if open_ > self._outbox.acked}

    def _is_overdue(self) -> bool:
        """The broker has everything, and the collector has said nothing for too long."""
        waits = self._taken >= self._sent and any(self._open.values())
        return waits and self._now_s() - self._progress_s > self._wait_s

    def _restart(self) -> None:
        self._sent = self._outbox.acked
        self._taken = 0
        self._open.clear()
        self._progress_s = self._now_s()
