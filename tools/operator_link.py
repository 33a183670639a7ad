"""The operator's connection to the broker: for tools that leave things there, and look what lies there.

Everything runs in the thread of the caller, inside these calls. What was published and not confirmed is kept, and sent
again over the next connection: a broker that is away for a moment does not end an upload.
"""

import argparse
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tools.operator_login import (
    Login,
    OperatorError,
    UsageError,
    add_broker_options,
    dial_failed,
    login_failed,
    no_connack,
    read_login,
)

__all__ = ["OperatorError", "OperatorLink", "UsageError", "add_broker_options", "connect"]

WINDOW = 32
"""Messages sent and not yet confirmed; the broker's Receive Maximum holds too."""
OUTAGE_S = 60.0
"""A broker that is away for longer ends the tool."""
RETRY_S = 1.0
SHORT_S = 5.0
"""A connection that ended sooner: the next one waits for RETRY_S."""
CONNECT_TIMEOUT_S = 15.0
KEEPALIVE_S = 30
QUIET_S = 1.0
"""Retained messages follow their subscription at once; when none came for so long, there are no more."""
MAX_FRUITLESS = 5
"""Connections in a row over which nothing was confirmed: the broker ends them over what we send."""
_OVERHEAD_BYTES = 512
"""What a PUBLISH has besides its payload: header, topic, properties."""
_SEND_BUFFER_BYTES = 64 << 10  # as in agent/mqtt/client.py: a ping must not wait behind megabytes

OnMessage = Callable[[str, bytes], object]


class _Away(Exception):  # noqa: N818 - a state that is waited out
    """No connection now."""


@dataclass(frozen=True)
class _Message:
    topic: str
    payload: bytes
    expiry_s: int | None = None
    retain: bool = True
    reply_to: str | None = None


def connect(args: argparse.Namespace, say: Callable[[str], object]) -> "OperatorLink":
    """Log in; close it, or use it with `with`. `say` is told when the broker goes away and comes back.

    Raises:
        UsageError: an option is wrong.
        OperatorError: there is no way to the broker; one line that says why.
    """
    return OperatorLink(read_login(args), args.prefix, say)


class OperatorLink:
    """One login, over as many connections as it takes."""

    def __init__(
        self, login: Login, prefix: str, say: Callable[[str], object], session: tuple[str, int] | None = None
    ) -> None:
        """`session`: a client id, and for how many seconds the broker keeps what comes while it is away."""
        self.say = say
        self.outage_s = OUTAGE_S
        """How long the broker may be away."""
        self._login, self._prefix, self._session = login, prefix, session
        self._unconfirmed: dict[int, _Message] = {}
        self._refused: tuple[str, str] | None = None
        self._filters: Sequence[str] = ()
        self._qos = 0
        self._on_message: OnMessage | None = None
        self.user_properties: dict[str, str] = {}
        """Of the message that is being handed over."""
        self.lay_there = False
        """Whether that message lay on the broker, and did not just come."""
        self._subscribed = False
        self._fruitless = 0
        self._since_s = time.monotonic()
        self._connack: ReasonCode | None = None
        self._can_retain = True
        try:
            self._dial()
        except _Away as exc:
            raise OperatorError(str(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out. What was not confirmed is lost."""
        self._client.disconnect()
        _drop(self._client)

    # --- publish --------------------------------------------------------------------------------------------------

    def publish_retained(self, topic: str, payload: bytes, expiry_s: int | None = None) -> None:
        """Leave something on the broker, for so long; an empty payload takes away what lies there. Comes back when
        there is room for more in the window: `confirm` says that it has arrived.

        Raises:
            OperatorError: the broker refuses this one or one before, takes no such size, or is away for too long.
        """
        while len(self._unconfirmed) >= self._window:
            self.wait(1.0)
        if not self._can_retain:
            raise OperatorError(f"the broker at {self._login.where} keeps no messages (mosquitto: retain_available)")
        size = len(payload) + _OVERHEAD_BYTES
        if size > self._max_packet_bytes:
            raise OperatorError(
                f"{topic} needs {size} bytes, the broker at {self._login.where} takes {self._max_packet_bytes}: "
                "raise its limit (mosquitto: max_packet_size)"
            )
        self._send(_Message(topic, payload, expiry_s))

    def command(self, topic: str, payload: bytes, reply_to: str) -> None:
        """Ask a device for something; the answer comes on the topic `reply_to`, to which one has subscribed before.

        Raises:
            OperatorError: as `publish_retained`.
        """
        self._send(_Message(topic, payload, retain=False, reply_to=reply_to))
        self.confirm()

    def confirm(self) -> None:
        """Wait until the broker has everything.

        Raises:
            OperatorError: as `publish_retained`.
        """
        while self._unconfirmed:
            self.wait(1.0)

    @property
    def unconfirmed(self) -> int:
        """Messages that the broker has not acknowledged yet."""
        return len(self._unconfirmed)

    def _send(self, message: _Message) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if message.expiry_s is not None:
            properties.MessageExpiryInterval = message.expiry_s
        if message.reply_to is not None:
            properties.ResponseTopic = message.reply_to
        info = self._client.publish(message.topic, message.payload, 1, message.retain, properties)
        self._unconfirmed[info.mid] = message  # also when the connection has just gone: sent over the next

    # --- subscribe ------------------------------------------------------------------------------------------------

    def subscribe(self, filters: Sequence[str], on_message: OnMessage, qos: int = 1) -> None:
        """Hear what lies there and what comes, from now on in `wait`; instead of what was heard before.

        Raises:
            OperatorError: the broker refuses it, or is away for too long.
        """
        self.unsubscribe()
        self._filters, self._on_message, self._qos = filters, on_message, qos
        self._ask()
        while not self._subscribed:
            self.wait(1.0)

    def unsubscribe(self) -> None:
        """Hear nothing more."""
        if self._filters:
            self._client.unsubscribe(list(self._filters))
        self._filters, self._on_message = (), None

    def retained(self, filters: Sequence[str], expected: int | None = None) -> Iterator[tuple[str, bytes]]:
        """What lies on the broker, one after the other; a topic may come twice. What is published meanwhile is given as
        well, but not waited for: somebody may publish there all the time.

        Args:
            filters: topics, with wildcards or without.
            expected: stop after so many; default: when no more that lay there came for QUIET_S.

        Raises:
            OperatorError: the broker refuses it, or is away for too long.
        """
        came: deque[tuple[str, bytes, bool]] = deque()
        count = 0
        try:  # QoS 0: of QoS 1, mosquitto drops what exceeds its queue, without a word
            self.subscribe(filters, lambda topic, payload: came.append((topic, payload, self.lay_there)), qos=0)
            until_s = time.monotonic() + QUIET_S
            while came or (count != expected and time.monotonic() < until_s):
                if not came:
                    self.wait(max(0.0, until_s - time.monotonic()))
                while came:
                    count += 1
                    topic, payload, lay_there = came.popleft()
                    yield topic, payload
                    if lay_there:
                        until_s = time.monotonic() + QUIET_S
        finally:
            self.unsubscribe()

    def _ask(self) -> None:
        self._subscribed = False
        options = SubscribeOptions(qos=self._qos)
        self._client.subscribe([(topic_filter, options) for topic_filter in self._filters])

    # --- the connection -------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Wait until something happens, at most so long; messages are handed over meanwhile. Makes a new connection
        where the last one has gone.

        Raises:
            OperatorError: the broker refuses something, or is away for too long.
        """
        self._client.loop(timeout_s)
        if self._refused is not None:
            raise OperatorError(self._refusal(*self._refused))
        if self._client.socket() is None:
            self._come_back()

    def _come_back(self) -> None:
        where = self._login.where
        self._fruitless += 1
        if self._fruitless > MAX_FRUITLESS:
            raise OperatorError(f"{where} ends every connection: {self._ended}; see its log and its limits")
        was_short = time.monotonic() - self._since_s < SHORT_S
        twice = (
            f"; has another client the id {self._session[0]}? see --client-id" if was_short and self._session else ""
        )
        self.say(f"{where}: connection lost, trying again{twice}")
        if was_short:  # or two clients with one id would end each other's connections hundreds of times a second
            time.sleep(RETRY_S)
        deadline_s = time.monotonic() + self.outage_s
        while True:
            try:
                self._dial()
                break
            except _Away as exc:
                if time.monotonic() > deadline_s:
                    raise OperatorError(f"{where} was away for {self.outage_s:g} s; at last: {exc}") from exc
                time.sleep(RETRY_S)
        self.say(f"{where}: connected again")
        again = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        for message in again:
            self._send(message)
        if self._filters:
            self._ask()

    def _dial(self) -> None:
        login = self._login
        self._connack, self._ended = None, "it closed the connection"
        self._window, self._max_packet_bytes = WINDOW, 268_435_455  # section 2.1.4
        self._client = self._make_client()
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session[1] if self._session else 0
        clean_start = self._session is None
        try:
            self._client.connect(login.host, login.port, KEEPALIVE_S, clean_start=clean_start, properties=properties)
            answer = self._wait_for_connack(time.monotonic() + CONNECT_TIMEOUT_S)
        except (OSError, ValueError) as exc:
            raise _Away(dial_failed(exc, login)) from exc
        if answer is None or answer.is_failure:
            _drop(self._client)
            raise _Away(no_connack(login) if answer is None else login_failed(answer.value, str(answer), login))
        self._since_s = time.monotonic()

    def _wait_for_connack(self, deadline_s: float) -> ReasonCode | None:
        while self._connack is None and self._client.socket() and (left_s := deadline_s - time.monotonic()) > 0:
            self._client.loop(left_s)
        return self._connack

    def _make_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._session[0] if self._session else f"operator-{secrets.token_hex(6)}",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages = 0  # no limit of its own: `publish_retained` keeps the window
        client.username_pw_set(self._login.username, self._login.password)
        if self._login.tls is not None:
            client.tls_set_context(self._login.tls)
        client.on_socket_open = _set_up_socket
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._hand_over
        return client

    def _on_connect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        self._window = min(self._window, getattr(properties, "ReceiveMaximum", self._window))
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", self._max_packet_bytes)
        self._can_retain = bool(getattr(properties, "RetainAvailable", True))
        self._connack = reason

    def _on_disconnect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, _p: Properties | None) -> None:
        self._ended = str(reason).lower()

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Properties) -> None:
        message = self._unconfirmed.pop(mid, None)
        self._fruitless = 0
        if message is not None and reason.is_failure:
            self._refused = self._refused or (message.topic, str(reason))

    def _on_subscribe(self, _c: Client, _u: Any, _mid: int, codes: list[ReasonCode], _p: Properties | None) -> None:
        self._subscribed, self._fruitless = True, 0
        for topic_filter, code in zip(self._filters, codes, strict=False):
            if code.is_failure:
                self._refused = self._refused or (topic_filter, str(code))

    def _hand_over(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        if self._on_message is not None:
            self.user_properties = dict(getattr(message.properties, "UserProperty", []))
            self.lay_there = message.retain
            self._on_message(message.topic, bytes(message.payload))

    def _refusal(self, topic: str, reason: str) -> str:
        kind = topic.removeprefix(f"{self._prefix}/").split("/")[0]
        rule = f"topic {'read' if kind == 'devices' else 'readwrite'} {self._prefix}/{kind}/#"
        user = f"user {self._login.username}" if self._login.username else "anonymous users"
        return f"the broker refuses {topic}: {reason.lower()}; its access list needs, for {user}: {rule}"


def _drop(client: Client) -> None:
    if (sock := client.socket()) is not None:
        sock.close()


def _set_up_socket(_c: Client, _u: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
