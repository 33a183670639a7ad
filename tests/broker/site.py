"""What the tests of access share: the example's broker with certificates and passwords, and anybody who comes to it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.config import Mqtt, Tls
from agent.errors import LinkDown
from agent.mqtt.client import Answer, Connection
from agent.mqtt.inbox import Inbound, Inbox
from agent.mqtt.link import Link
from agent.values import OutboundMessage
from agent.wire.topics import Topics
from tests.sim import wait_until
from tests.sim.certificates import CertificateAuthority
from tests.sim.example_broker import ExampleBroker

PASSWORDS = {"cam-3": "three", "cam-4": "four", "collector": "stored", "operator": "pushed"}


class Client:
    """Anybody, with the agent's own connection: a certificate, or a user with a password, or neither."""

    def __init__(self, mqtt: Mqtt, client_id: str, will: OutboundMessage | None = None) -> None:
        self.inbox = Inbox()
        self._connection = Connection(mqtt, client_id, will, self.inbox)
        self._connection.open(20.0, clean_start=True)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> Answer:
        """Send something, and come back with what the broker says to it."""
        packet_id = self._connection.publish(OutboundMessage(topic, payload, in_chain=False, retain=retain), 1)
        self._until(lambda: any(answer.packet_id == packet_id for answer in self._connection.answers))
        return next(answer for answer in self._connection.answers if answer.packet_id == packet_id)

    def subscribe(self, *filters: str) -> None:
        """Ask for messages, also for those that lie there."""
        self._connection.subscribe(filters, retained=True)

    def hear_until(self, topic: str, text: bytes = b"") -> list[Inbound]:
        """What came, up to the first message of this topic with this text in it."""
        came: list[Inbound] = []

        def there() -> bool:
            while (message := self.inbox.take(0.0)) is not None:
                came.append(message)
            return any(message.topic == topic and text in message.payload for message in came)

        self._until(there)
        return came

    def lose(self) -> None:
        """End without a word: the broker publishes the will."""
        self._connection.drop()

    @property
    def ended(self) -> str | None:
        return self._connection.ended

    def _until(self, condition: Callable[[], bool]) -> None:
        def turn() -> bool:
            assert self._connection.ended is None, self._connection.ended
            if condition():
                return True
            self._connection.serve(0.05)
            return False

        wait_until(turn, 20.0)


class Site:
    """The example's broker, and ways to come to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broker = folder, ExampleBroker(folder / "broker", PASSWORDS)
        self.ca_file = str(self.broker.servers.ca_file)
        self._opened: list[Client] = []

    def with_certificate(self, name: str, by: CertificateAuthority | None = None, **options: Any) -> Mqtt:
        tls = Tls(enabled=True, ca_file=self.ca_file, **(by or self.broker.clients).client(name, **options))
        return Mqtt(host="localhost", port=self.broker.port, tls=tls)

    def without_certificate(self, port: int) -> Mqtt:
        return Mqtt(host="localhost", port=port, tls=Tls(enabled=True, ca_file=self.ca_file))

    def with_password(self, user: str | None, password: str) -> Mqtt:
        path = self.folder / f"{user}.password"
        path.write_text(password)
        tls = Tls(enabled=True, ca_file=self.ca_file)
        port = self.broker.password_port
        return Mqtt(host="localhost", port=port, tls=tls, username=user, password_file=str(path))

    def come(self, mqtt: Mqtt, client_id: str, will: OutboundMessage | None = None) -> Client:
        self._opened.append(Client(mqtt, client_id, will))
        return self._opened[-1]

    def certified(self, name: str) -> Client:
        return self.come(self.with_certificate(name), name)

    def refused(self, mqtt: Mqtt, client_id: str) -> str:
        with pytest.raises(LinkDown) as caught:
            self.come(mqtt, client_id)
        return str(caught.value)

    def leave(self) -> None:
        for client in self._opened:
            client.lose()
        self._opened.clear()


@contextlib.contextmanager
def linked(mqtt: Mqtt, topics: Topics, retained: Sequence[str] = ()) -> Iterator[Link]:
    """A device's link as the daemon makes it; its inbox is its attribute."""

    def status(payload: bytes) -> OutboundMessage:
        return OutboundMessage(topics.status(), payload, in_chain=False, retain=True)

    inbox = Inbox()
    link = Link(
        mqtt,
        topics.device,
        will=status(b"offline"),
        birth=lambda: status(b"online"),
        topic_filters=dataclasses.replace(topics, groups=("yard",)).command_filters(),
        retained_filters=retained,
        inbox=inbox,
    )
    link.came = inbox  # type: ignore[attr-defined]
    try:
        link.connect(20.0)
        yield link
    finally:
        link.close(None, 1.0)
