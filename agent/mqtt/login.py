"""What a connection needs from files and from the name server. Read anew for each, so that a new file just works."""

import contextlib
import queue
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from agent.config import Tls
from agent.errors import LinkDown
from agent.mqtt.reasons import dial_failed, tls_reason

_MAX_PASSWORD_BYTES = 65535  # MQTT 5, section 3.1.3.6


def read_password(path: str) -> str:
    """The first line of the password file, which never gets into a message or a log.

    Raises:
        LinkDown: it can't be read, is empty, or is no text.
    """
    try:
        with Path(path).open("rb") as file:
            line = file.readline(_MAX_PASSWORD_BYTES + 2).rstrip(b"\r\n")
        password = line.decode()
    except OSError as exc:
        raise LinkDown(f"mqtt.password_file: {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:  # its text would hold the password
        raise LinkDown(f"mqtt.password_file: {path}: expected UTF-8 text") from None
    if not 1 <= len(line) <= _MAX_PASSWORD_BYTES:
        raise LinkDown(f"mqtt.password_file: {path}: expected a password on the first line, got {len(line)} bytes")
    return password


class TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho leaves that to the garbage collector. Says why the peer hung up."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """As ever; where the peer has gone, its last word is looked for. In TLS 1.3 (RFC 8446, section 4.4.2.4) a
        client learns only after the handshake that its certificate is not taken: CONNECT is on its way then."""
        try:
            return super().send(data, flags)
        except (ssl.SSLEOFError, ConnectionError):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.recv(1)  # raises the alert
            raise


def make_tls_context(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the broker's certificate and its name checked, always.

    Raises:
        LinkDown: names the key of the file that can't be used.
    """
    for key, path in (("ca_file", tls.ca_file), ("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        _check_readable(key, path)
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as exc:  # also ssl.SSLError; the file may be swapped at this instant
        raise LinkDown(f"mqtt.tls.ca_file: {tls.ca_file}: expected certificates in PEM, got {tls_reason(exc)}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file is not None:  # Python 3.13 began to refuse what most people's own authorities look like
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.sslsocket_class = TlsSocket
    if tls.cert_file is not None:
        try:  # without a password, OpenSSL would ask for the one of an encrypted key on the terminal, and wait
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: b"-")
        except OSError as exc:
            pair = f"{tls.cert_file}, {tls.key_file}"
            raise LinkDown(
                f"mqtt.tls.cert_file, key_file: {pair}: expected a certificate and its key in PEM, without a password, "
                f"got {tls_reason(exc)}"
            ) from exc
    return context


def _check_readable(key: str, path: str | None) -> None:
    """OpenSSL does not say which of its files is missing."""
    if path is None:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as exc:
        raise LinkDown(f"mqtt.tls.{key}: {path}: {exc.strerror}") from exc


def look_up(host: str, port: int, timeout_s: float) -> int:
    """How many addresses a host name has.

    `getaddrinfo` has no deadline (a name server that is away costs 5 to 40 s), so a thread asks, and is left behind
    when it takes too long; it ends by itself.

    Raises:
        LinkDown: the name is not known, or nobody answered in time.
    """
    answer: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(len(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as exc:
            answer.put(exc)

    threading.Thread(target=ask, name="mqtt-look-up", daemon=True).start()
    try:
        found = answer.get(timeout=timeout_s)
    except queue.Empty:
        raise LinkDown(f"{host}: the name server does not answer") from None
    if isinstance(found, Exception):
        raise LinkDown(dial_failed(found, f"{host}:{port}")) from found
    return found
