"""One connection to the broker. The only file that imports paho.

paho is used for its packets, not for its thread: the publish thread drives the socket itself (`serve`). That costs 0.8
of the CPU a message, and there is no thread that dies of an exception while paho still calls itself connected, takes
20 s to join, or never sees its CONNACK because `select` ends at 1,024 files.

Nor for its queue: paho resends by rules of its own after a reconnect, over every limit. A `Connection` is used once.
"""

import functools
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import structlog
from paho.mqtt.client import Client, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.config import Mqtt
from agent.errors import LinkDown
from agent.mqtt import reasons
from agent.mqtt.inbox import MAX_PAYLOAD_BYTES, Inbound, Receiver
from agent.mqtt.ledger import FIRST_FAILURE
from agent.mqtt.login import look_up, make_tls_context, read_password
from agent.mqtt.trouble import Trouble
from agent.mqtt.waker import Waker

SESSION_EXPIRY_S = 7 * 86400
"""Commands for a device that is away wait this long on the broker."""
RECEIVE_MAXIMUM = 10
MAX_INBOUND_BYTES = MAX_PAYLOAD_BYTES + (8 << 10)
"""Larger packets the broker keeps to itself: the payload, and 8 KiB for its topic and properties. No more than needed:
paho's time rises with the square of the number of properties, 0.7 s for a packet of this size and 13 s for 256 KiB."""
MAX_PACKET_BYTES = 268_435_455
"""What MQTT can carry (section 2.1.4)."""
SEND_BUFFER_BYTES = 64 << 10
"""What the kernel may hold. Left alone it takes megabytes, and on a slow uplink a ping behind them looks unanswered."""

_log = structlog.get_logger()


class Sendable(Protocol):
    """What can be published."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def retain(self) -> bool: ...
    @property
    def content_type(self) -> str: ...
    @property
    def user_properties(self) -> Sequence[tuple[str, str]]: ...


class Answer(NamedTuple):
    """What the broker said to one QoS 1 publish."""

    packet_id: int
    code: int
    reason: str

    @property
    def failed(self) -> bool:
        return self.code >= FIRST_FAILURE


class Connection:
    """From CONNECT to the end of the socket. All but `wake` belongs to one thread."""

    def __init__(self, config: Mqtt, client_id: str, will: Sendable | None, inbox: Receiver) -> None:
        self._config = config
        self._client_id = client_id
        self._where = f"{config.host}:{config.port}"
        self._inbox = inbox
        self._trouble = Trouble()
        self._client = self._make_client(will)
        self._connack: tuple[int, str] | None = None
        self._asked: dict[int | None, Sequence[str]] = {}  # topic filters by packet id
        self._waker = Waker()
        self.wake = self._waker.wake
        """End a `serve` that waits, from any thread."""
        self.window = config.max_in_flight
        """QoS 1 publishes that may wait for their answer; the broker's Receive Maximum is in it."""
        self.max_packet_bytes = MAX_PACKET_BYTES
        self.answers: list[Answer] = []
        """Filled by `serve`; emptied by whoever reads it."""
        self.refused_filters: list[tuple[str, str]] = []
        """Topic filter and reason; like `answers`."""
        self.ended: str | None = None
        """Why the connection is over; None while it is there."""
        self.unreadable = False
        """It is over because of a packet that paho can't read."""

    def open(self, timeout_s: float, *, clean_start: bool) -> None:
        """Connect and log in. `clean_start` drops what waits for this client on the broker.

        Raises:
            LinkDown: one line that says why, and how to mend it. Nothing stays open.
        """
        self._waker.open()
        try:
            self._open(time.monotonic() + timeout_s, clean_start=clean_start)
        except LinkDown:
            self.drop()
            raise
        self._trouble.text = ""

    def _open(self, deadline_s: float, *, clean_start: bool) -> None:
        config, client = self._config, self._client
        if config.tls.enabled:
            client.tls_set_context(make_tls_context(config.tls))
        if config.username is not None or config.password_file is not None:
            password = None if config.password_file is None else read_password(config.password_file)
            client.username_pw_set(config.username or self._client_id, password)
        addresses = look_up(config.host, config.port, deadline_s - time.monotonic())
        steps = addresses + config.tls.enabled
        client.connect_timeout = max(0.1, (deadline_s - time.monotonic()) / steps)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAX_INBOUND_BYTES
        try:
            client.connect(config.host, config.port, config.keepalive_s, clean_start=clean_start, properties=properties)
        except (OSError, ValueError) as exc:
            raise LinkDown(reasons.dial_failed(exc, self._where)) from exc
        while self._connack is None and self.ended is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise LinkDown(f"{self._where} does not answer CONNECT; is that an MQTT broker?")
            self.serve(left_s)
        if self._connack is not None and self._connack[0] != 0:
            raise LinkDown(reasons.login_failed(*self._connack, self._where, self._client_id))
        if self.ended is not None:
            raise LinkDown(reasons.no_connack(self._where, self._trouble.text, tls=config.tls.enabled))

    def subscribe(self, filters: Sequence[str], *, qos: int = 1, retained: bool = False) -> None:
        """Ask for messages, with what lies on the broker already or without it; without it, those that come and stay
        there are marked, which brokers leave out by default."""
        if filters:
            wanted = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
            options = SubscribeOptions(qos=qos, retainAsPublished=not retained, retainHandling=wanted)
            _, packet_id = self._client.subscribe([(topic_filter, options) for topic_filter in filters])
            self._asked[packet_id] = filters

    def unsubscribe(self, filters: Sequence[str]) -> None:
        if filters:
            self._client.unsubscribe(list(filters))

    def publish(self, message: Sendable, qos: int, correlation_data: bytes | None = None) -> int:
        """Send a message that passed `fault_of`; the packet id that its answer will have.

        Raises:
            LinkDown: the connection has ended.
        """
        properties = _properties(message, correlation_data)
        info = self._client.publish(message.topic, message.payload, qos, message.retain, properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.ended = self.ended or reasons.lost(0, self._where, self._trouble.text)
            raise LinkDown(self.ended)
        return info.mid

    def fault_of(self, message: Sendable, correlation_data: bytes | None = None) -> str | None:
        """Why a message can never be sent over this connection; None when it can.

        A broker ends the connection over such a message, so that it would be the first again on the next.
        """
        topic = message.topic
        if not topic.isprintable() or not 0 < len(topic.encode()) <= 65535 or "+" in topic or "#" in topic:
            return "not a topic"
        size = len(topic.encode()) + len(message.payload)
        if size + 1024 < self.max_packet_bytes and not message.user_properties and not correlation_data:
            return None
        packed: bytes = _properties(message, correlation_data).pack()  # type: ignore[no-untyped-call]
        size += len(packed) + 4  # length of the topic, packet id
        size += 1 + next(length for length in (1, 2, 3, 4, 5) if size < 128**length)  # fixed header
        return f"{size} bytes, the broker takes {self.max_packet_bytes}" if size > self.max_packet_bytes else None

    @property
    def idle(self) -> bool:
        """Everything that was published has gone to the kernel."""
        return not self._client.want_write()

    def serve(self, timeout_s: float) -> None:
        """Wait until the broker says something, the socket takes more, or `wake`; read, write, keep alive."""
        sock = self._client.socket()
        if sock is None or self._waker.fileno() < 0:
            return
        poll = select.poll()
        poll.register(self._waker, select.POLLIN)
        poll.register(sock, select.POLLIN | (0 if self.idle else select.POLLOUT))
        pending = self._config.tls.enabled and sock.pending() > 0  # type: ignore[attr-defined] # decrypted already
        ready = dict(poll.poll(0 if pending else max(0, round(timeout_s * 1000))))
        self._waker.clear()
        events = ready.get(sock.fileno(), 0)
        if pending or events & ~select.POLLOUT:
            self._read()
        if events & select.POLLOUT:
            self._client.loop_write()
        self._client.loop_misc()
        if self._client.socket() is None and self.ended is None:
            self.ended = reasons.lost(0, self._where, self._trouble.text)

    def _read(self) -> None:
        try:
            if self._client.loop_read() == MQTTErrorCode.MQTT_ERR_PROTOCOL:
                self._give_up_reading()
        except Exception as exc:  # noqa: BLE001 - paho parses what anyone may send, and raises whatever it trips over
            _log.debug("mqtt.packet_unreadable", error=repr(exc))
            self._give_up_reading()

    def _give_up_reading(self) -> None:
        if self._connack is None or self._connack[0] == 0:
            self.unreadable = True
            self.ended = f"{self._where} sent a packet that can't be read"

    def close(self, timeout_s: float, *, with_will: bool) -> None:
        """Send DISCONNECT, as far as the socket takes it in time, and let go. The broker publishes the will or not."""
        if self._waker.fileno() < 0:
            return
        deadline_s = time.monotonic() + timeout_s
        # 0x04: Disconnect with Will Message (MQTT 5, section 3.14.2.1)
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=0x04) if with_will else None)
        while self._client.socket() is not None and (left_s := deadline_s - time.monotonic()) > 0:
            self.serve(left_s)
        self.drop()

    def drop(self) -> None:
        """Close every socket, now."""
        self.ended = self.ended or "closed"
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._waker.close()

    @property
    def keepalive_s(self) -> int:
        """As the broker wants it; ours, where it wants none."""
        return self._client.keepalive or self._config.keepalive_s

    # --- callbacks of paho, all in the thread that serves: they note what happened and never raise ----------------

    def _make_client(self, will: Sendable | None) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True
        client.max_inflight_messages = 0  # no limit of its own: `window` is kept by the link
        client.enable_logger(self._trouble.logger)
        if will is not None:
            client.will_set(will.topic, will.payload, 1, will.retain, _properties(will, None, PacketTypes.WILLMESSAGE))
        client.on_socket_open = _set_up_socket
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(self, _c: Client, _u: Any, _flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        self.window = min(self.window, getattr(properties, "ReceiveMaximum", 65535))
        self.max_packet_bytes = min(self.max_packet_bytes, getattr(properties, "MaximumPacketSize", MAX_PACKET_BYTES))
        self._connack = reason.value, str(reason)

    def _on_disconnect(
        self, _c: Client, _u: Any, flags: DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if self.ended is not None:
            return
        if flags.is_disconnect_packet_from_server:
            self.ended = reasons.disconnected(reason.value, str(reason), self._where, self._client_id)
        else:
            self.ended = reasons.lost(reason.value, self._where, self._trouble.text)

    def _on_publish(self, _c: Client, _u: Any, packet_id: int, reason: ReasonCode, _p: Properties) -> None:
        self.answers.append(Answer(packet_id, reason.value, str(reason)))

    def _on_subscribe(self, _c: Client, _u: Any, mid: int, codes: list[ReasonCode], _p: Properties | None) -> None:
        for topic_filter, code in zip(self._asked.pop(mid, ()), codes, strict=False):
            if code.is_failure:
                self.refused_filters.append((topic_filter, str(code)))

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        response_topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", None)
        self._inbox.put(
            Inbound(
                topic=topic,
                payload=bytes(message.payload),
                retain=message.retain,
                response_topic=response_topic,
                correlation_data=None if correlation is None else bytes(correlation),
            )
        )


def _set_up_socket(_c: Client, _u: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def _properties(
    message: Sendable, correlation_data: bytes | None, packet_type: int = PacketTypes.PUBLISH
) -> Properties:
    if not message.user_properties and correlation_data is None:
        return _plain_properties(message.content_type, packet_type)
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    properties.ContentType = message.content_type
    for pair in message.user_properties:
        properties.UserProperty = pair
    if correlation_data is not None:
        properties.CorrelationData = correlation_data
    return properties


@functools.lru_cache(maxsize=16)
def _plain_properties(content_type: str, packet_type: int) -> Properties:
    """What nearly every message carries; to make it takes paho longer than to publish."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    properties.ContentType = content_type
    return properties
