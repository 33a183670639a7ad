"""How operators' tools log in to the broker: options, passwords, certificates, and why it did not work."""

import argparse
import os
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.mqtt.login import TlsSocket

PASSWORD_VARIABLE = "EDGE_AGENT_BROKER_PASSWORD"  # noqa: S105 - the name of it
_MAX_PASSWORD_BYTES = 65535  # MQTT 5, section 3.1.3.6


class OperatorError(Exception):
    """What an operator has to mend: one line that says what is wrong and how."""

    exit_code = 1


class UsageError(OperatorError):
    """An option, a file or a bundle is wrong: nothing was begun."""

    exit_code = 2


@dataclass(frozen=True)
class Login:
    """Where the broker is, and who we are."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """The options that `read_login` reads, and `--prefix`."""
    add = parser.add_argument_group("broker").add_argument
    url = "mqtt://[user@]host[:port], or mqtts:// for TLS (default: %(default)s)"
    add("--broker", metavar="URL", default="mqtt://localhost", help=url)
    add("--prefix", type=_prefix, default="edge", help="the devices' mqtt.prefix (default: %(default)s)")
    add(
        "--password-file", metavar="FILE", type=Path, help=f"password on its first line (default: ${PASSWORD_VARIABLE})"
    )
    add("--ca-file", metavar="FILE", type=Path, help="what the broker's certificate must chain to (default: system's)")
    add("--cert-file", metavar="FILE", type=Path, help="your certificate, where the broker asks for one")
    add("--key-file", metavar="FILE", type=Path, help="the key of that certificate")


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, _ - and /, got {text!r}")
    return text


def a_name(text: str) -> str:
    """Type of options that name a device, a group or a fleet."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"expected a name of a-z, 0-9, _ and -, such as cam-1, got {text!r}")
    return text


def read_login(args: argparse.Namespace) -> Login:
    """What the options say.

    Raises:
        UsageError: an option or a file can't be used.
    """
    try:
        url = urlsplit(args.broker)
        host, port = url.hostname, url.port
    except ValueError as exc:
        raise UsageError(f"--broker {args.broker}: {exc}") from exc
    if url.password is not None:
        raise UsageError(
            f"--broker: everybody on this machine can see a password there; use --password-file or ${PASSWORD_VARIABLE}"
        )
    if url.scheme not in ("mqtt", "mqtts") or not host or url.path.strip("/"):
        raise UsageError(f"--broker {args.broker}: expected mqtt://[user@]host[:port], or mqtts:// for TLS")
    username = unquote(url.username) if url.username else None
    if username is None and args.password_file:
        raise UsageError(f"--password-file: whose password? expected --broker {url.scheme}://USER@{host}")
    password = _read_password(args.password_file) if args.password_file else os.environ.get(PASSWORD_VARIABLE)
    tls = _make_tls(args) if url.scheme == "mqtts" else None
    if tls is None and (args.ca_file or args.cert_file or args.key_file):
        raise UsageError(f"--broker {args.broker}: expected mqtts://, since a file for TLS is given")
    return Login(host, port or (8883 if tls else 1883), username, password if username else None, tls)


def _read_password(path: Path) -> str:
    try:
        with path.open("rb") as file:
            password = file.readline(_MAX_PASSWORD_BYTES + 2).rstrip(b"\r\n").decode()
    except UnicodeDecodeError:  # its text would hold the password
        raise UsageError(f"--password-file {path}: expected UTF-8 text") from None
    except OSError as exc:
        raise UsageError(f"--password-file {path}: {exc.strerror}") from exc
    if not password:
        raise UsageError(f"--password-file {path}: expected the password on its first line")
    return password


def _make_tls(args: argparse.Namespace) -> ssl.SSLContext:
    if (args.cert_file is None) != (args.key_file is None):
        raise UsageError("--cert-file and --key-file: expected both or neither")
    try:
        context = ssl.create_default_context(cafile=args.ca_file)
        if args.cert_file:  # without a password, OpenSSL would ask for the one of an encrypted key
            context.load_cert_chain(args.cert_file, args.key_file, password=lambda: b"-")
    except OSError as exc:  # also ssl.SSLError; neither says which file it was
        files = ", ".join(str(path) for path in (args.ca_file, args.cert_file, args.key_file) if path)
        raise UsageError(f"{files}: expected PEM, and a key without a password: {exc.strerror or exc}") from exc
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if args.ca_file:  # Python 3.13 began to refuse what most people's own authorities look like
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def dial_failed(error: Exception, login: Login) -> str:
    """Why there is not even a socket: what `connect` or the TLS handshake raised."""
    match error:
        case socket.gaierror() | UnicodeError():
            what = "host name not found; see --broker"
        case ssl.SSLCertVerificationError():
            what = f"its certificate does not pass: {error.verify_message}; see --broker, --ca-file"
        case ssl.SSLError():
            what = f"TLS failed: {error.reason or error}; does this port speak TLS? see --broker"
        case ConnectionRefusedError():
            what = "nobody listens there; see --broker"
        case TimeoutError():
            what = "no answer; see --broker"
        case _:
            what = getattr(error, "strerror", None) or str(error)
    return f"{login.where}: {what}"


def no_connack(login: Login) -> str:
    """Why a connection began and nobody answered CONNECT."""
    tls = "does it want a certificate? see --cert-file"
    return f"{login.where} does not answer CONNECT: {tls if login.tls else 'is that an MQTT 5 broker, without TLS?'}"


def login_failed(code: int, reason: str, login: Login) -> str:
    """Why the broker answered CONNECT with a reason code over 0x80 (MQTT 5, section 3.2.2.2)."""
    match code:
        case 0x84:
            return f"the broker at {login.where} speaks no MQTT 5"
        case 0x86 | 0x87:
            mend = f"see the user in --broker, and --password-file or ${PASSWORD_VARIABLE}"
            return f"{login.where} refuses the login: {reason.lower()}; {mend}"
        case _:
            return f"{login.where} refuses the connection: {reason.lower()}"
