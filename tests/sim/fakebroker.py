"""A small scripted MQTT 5 broker, for what no real one does on demand. It keeps nothing and forwards nothing.

Section numbers are of MQTT Version 5.0, OASIS Standard, 7 March 2019.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.sim import wait_until

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


@dataclass(frozen=True)
class Publish:
    """A PUBLISH that came in (section 3.3)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    size: int
    """Bytes of the whole packet."""


@dataclass(frozen=True)
class Connect:
    """A CONNECT that came in (section 3.1)."""

    protocol_version: int
    clean_start: bool
    keepalive_s: int
    body: bytes


def connack(
    code: int = 0,
    *,
    receive_maximum: int | None = None,
    maximum_packet_size: int | None = None,
    server_keepalive_s: int | None = None,
) -> bytes:
    """A CONNACK packet (section 3.2)."""
    properties = b""
    if server_keepalive_s is not None:
        properties += struct.pack("!BH", 0x13, server_keepalive_s)
    if receive_maximum is not None:
        properties += struct.pack("!BH", 0x21, receive_maximum)
    if maximum_packet_size is not None:
        properties += struct.pack("!BI", 0x27, maximum_packet_size)
    return packet(CONNACK << 4, bytes([0, code]) + varint(len(properties)) + properties)


def publish(topic: str, payload: bytes, *, properties: bytes = b"", qos: int = 1, packet_id: int = 1) -> bytes:
    """A PUBLISH packet, as a broker sends it."""
    name = topic.encode()
    number = struct.pack("!H", packet_id) if qos else b""
    body = struct.pack("!H", len(name)) + name + number + varint(len(properties)) + properties + payload
    return packet(PUBLISH << 4 | qos << 1, body)


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def varint(value: int) -> bytes:
    """A variable byte integer (section 1.5.5)."""
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


@dataclass
class Script:
    """How the broker behaves; may be changed while it runs."""

    connack: bytes | None = field(default_factory=connack)
    """Answer to CONNECT, whatever its bytes are; None: none."""
    hang_up: bool = False
    """Close the connection after CONNECT has been answered."""
    puback: Callable[[Publish], int | None] = lambda _: 0
    """Reason code for a QoS 1 publish; None: no answer."""
    suback: int = 1
    """Reason code for each filter."""
    pingresp: bool = True


class FakeBroker:
    """Listens on a free port of the loopback while it is open."""

    host = "127.0.0.1"

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.port = 0
        self.connects: list[Connect] = []
        self.published: list[Publish] = []
        self.disconnects: list[int] = []
        """Reason codes of DISCONNECT packets."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._server = socket.create_server((self.host, 0))
        self.port = self._server.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # ends a read that waits
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def send(self, raw: bytes) -> None:
        """Say something on the connection that came last."""
        self._sockets[-1].sendall(raw)

    def answer(self, message: Publish, code: int = 0) -> None:
        """PUBACK (section 3.4), when the script gave none."""
        self.send(packet(PUBACK << 4, struct.pack("!HBB", message.packet_id, code, 0)))

    def disconnect(self, code: int) -> None:
        """DISCONNECT (section 3.14)."""
        self.send(packet(DISCONNECT << 4, bytes([code, 0])))

    def hang_up(self) -> None:
        """Close the connection that came last, without a word."""
        with contextlib.suppress(OSError):
            self._sockets[-1].shutdown(socket.SHUT_RDWR)

    def wait_for(self, count: int) -> list[Publish]:
        """Come back when at least so many messages came in."""
        wait_until(lambda: len(self.published) >= count, what=f"{count} messages at the fake broker")
        return list(self.published)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _start(self, body: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=body, args=args, name="fake-broker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                self._sockets.append(sock)
                self._start(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), sock.makefile("rb") as stream:
            while True:
                first, body = _read_packet(stream.read)
                if not self._handle(sock, first, body):
                    sock.shutdown(socket.SHUT_RDWR)

    def _handle(self, sock: socket.socket, first: int, body: bytes) -> bool:
        """Answer a packet; False to hang up."""
        match first >> 4:
            case 1:  # CONNECT
                version, flags, keepalive_s = struct.unpack("!BBH", body[6:10])
                self.connects.append(Connect(version, bool(flags & 2), keepalive_s, body))
                if self.script.connack is not None:
                    sock.sendall(self.script.connack)
                return not self.script.hang_up
            case 3:  # PUBLISH
                message = _parse_publish(first, body)
                self.published.append(message)
                code = self.script.puback(message) if message.qos else None
                if code is not None:
                    sock.sendall(packet(PUBACK << 4, struct.pack("!HBB", message.packet_id, code, 0)))
            case 8:  # SUBSCRIBE
                filters = _count_filters(body)
                sock.sendall(packet(SUBACK << 4, body[:2] + b"\0" + bytes([self.script.suback] * filters)))
            case 12 if self.script.pingresp:
                sock.sendall(packet(PINGRESP << 4, b""))
            case 14:  # DISCONNECT
                self.disconnects.append(body[0] if body else 0)
        return True


def _read_packet(read: Callable[[int], bytes]) -> tuple[int, bytes]:
    def exactly(count: int) -> bytes:
        data = read(count)
        if len(data) < count:
            raise EOFError
        return data

    first = exactly(1)[0]
    size, shift = 0, 0
    while True:
        digit = exactly(1)[0]
        size |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return first, exactly(size)


def _parse_publish(first: int, body: bytes) -> Publish:
    qos = first >> 1 & 3
    end = 2 + int.from_bytes(body[:2])
    topic, packet_id = body[2:end].decode(), 0
    if qos:
        packet_id = int.from_bytes(body[end : end + 2])
        end += 2
    length, end = _parse_varint(body, end)
    size = len(packet(first, body))
    return Publish(topic, body[end + length :], qos, bool(first & 1), bool(first & 8), packet_id, size)


def _count_filters(body: bytes) -> int:
    length, at = _parse_varint(body, 2)
    at += length
    count = 0
    while at < len(body):
        at += 2 + int.from_bytes(body[at : at + 2]) + 1
        count += 1
    return count


def _parse_varint(data: bytes, at: int) -> tuple[int, int]:
    """Value, and where it ends."""
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at
