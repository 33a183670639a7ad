"""What the tests of the link share: a device's link, and a publish loop with a list for an outbox."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from agent.config import Mqtt
from agent.errors import LinkDown
from agent.mqtt.inbox import Inbox
from agent.mqtt.link import BATCH_BYTES, Link
from agent.values import OutboundMessage
from tests.sim import wait_until

DEVICE = "cam-1"
BRANCH = f"edge/devices/{DEVICE}"
STATUS = f"{BRANCH}/status"
COMMANDS = f"{BRANCH}/commands/+"
RESULTS = f"{BRANCH}/results/door"


@dataclass(frozen=True)
class Stored:
    """A message of the outbox."""

    id: int
    topic: str = RESULTS
    payload: bytes = b"{}"
    retain: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()


def numbered(first: int, count: int, topic: str = RESULTS) -> list[Stored]:
    """Messages whose payload is their id."""
    return [Stored(number, topic, b"%d" % number) for number in range(first, first + count)]


def status(state: bytes) -> OutboundMessage:
    return OutboundMessage(STATUS, state, in_chain=False, retain=True)


def make_link(
    port: int,
    *,
    host: str = "127.0.0.1",
    keepalive_s: int = 1,
    filters: Sequence[str] = (COMMANDS,),
    inbox: Inbox | None = None,
    birth: Callable[[], OutboundMessage] = lambda: status(b"online"),
    **options: Any,
) -> Link:
    config = Mqtt(host=host, port=port, keepalive_s=keepalive_s, **options)
    return Link(config, DEVICE, will=status(b"offline"), birth=birth, topic_filters=filters, inbox=inbox or Inbox())


@contextlib.contextmanager
def linked(port: int, **options: Any) -> Iterator[Link]:
    """A link that is connected; whatever becomes of it, it is closed."""
    link = make_link(port, **options)
    try:
        link.connect(5.0)
        yield link
    finally:
        link.close(None, 1.0)


def drive(link: Link, condition: Callable[[], object], timeout_s: float = 10.0) -> list[int]:
    """What the publish thread does, until the condition holds: pump, take acknowledgements, wait."""
    acked: list[int] = []

    def turn() -> bool:
        link.pump()
        acked.extend(link.take_acks())
        if condition():
            return True
        link.wait(0.05)
        return False

    wait_until(turn, timeout_s)
    return acked


def send_all(link: Link, messages: Sequence[Stored], timeout_s: float = 10.0) -> list[int]:
    """Send messages on one connection, and come back with what was acknowledged once all are."""
    acked: list[int] = []
    waiting = list(messages)

    def turn() -> bool:
        link.pump()
        acked.extend(link.take_acks())
        for _ in range(min(link.room(), len(waiting))):
            link.send(waiting.pop(0))
        if len(acked) == len(messages):
            return True
        link.wait(0.05)
        return False

    wait_until(turn, timeout_s, what=f"{len(messages)} acknowledgements")
    return acked


class Publisher:
    """A publish thread around a link, as `agent.pipeline.publish_loop` is, with a list for an outbox."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: list[Stored] = []
        self.acked = 0
        """Id of the last message that is done with."""
        self.acks: list[int] = []
        self.losses: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.link.wake()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def put(self, messages: Sequence[Stored]) -> None:
        self.messages.extend(messages)
        self.link.wake()

    def wait_acked(self, message_id: int, timeout_s: float = 30.0) -> None:
        wait_until(lambda: self.acked >= message_id, timeout_s, what=f"message {message_id} is acknowledged")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.link.connect(5.0)
                self._send_all()
            except LinkDown as exc:
                self.losses.append(str(exc))
                self.link.close(None, 1.0)
                self._stop.wait(0.05)
        self.link.close(status(b"offline"), 3.0)

    def _send_all(self) -> None:
        sent = self.acked
        while not self._stop.is_set():
            self.link.pump()
            for message_id in self.link.take_acks():
                assert message_id > self.acked, "each is acknowledged once, in order"
                self.acked = message_id
                self.acks.append(message_id)
            for message in self._next(sent, self.link.room()):
                self.link.send(message)
                sent = message.id
            self.link.wait(0.25)

    def _next(self, after: int, count: int) -> Iterator[Stored]:
        """The messages after an id: so many, and no more bytes than a batch has, but one in any case."""
        size = 0
        for message in [message for message in self.messages if message.id > after][:count]:
            size += len(message.payload)
            if 0 < size - len(message.payload) and size > BATCH_BYTES:
                return
            yield message
