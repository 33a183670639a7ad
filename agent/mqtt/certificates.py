"""The files that a login needs: whether the next connection could use them, and when their certificates end.

A connection reads its files when it is made (`agent.mqtt.login`): a new file needs no restart, but a bad one would only
be noticed when the connection that is there has ended. So what has changed is tried at once, and that connection stays.
cryptography reads the dates; it is imported where there is a certificate to read.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from agent.config import Mqtt
from agent.errors import LinkDown
from agent.mqtt.login import make_tls_context, read_password
from agent.runtime.clock import rfc3339
from agent.runtime.health import Health

_PART = "login"


class Certificate(NamedTuple):
    """One of the configured files, and until when it is of use."""

    key: Literal["cert_file", "ca_file"]
    path: str
    ends_ns: int | None
    """Unix time; None when it can't be told."""

    @property
    def ends_at(self) -> str | None:
        """The same in RFC 3339."""
        return None if self.ends_ns is None else rfc3339(self.ends_ns)

    def days_left(self, now_ns: int) -> float:
        """Negative once it has ended."""
        return math.inf if self.ends_ns is None else (self.ends_ns - now_ns) / 86400e9

    def complaint(self, now_ns: int, warn_before_s: float) -> str | None:
        """What to do, when it has ended or does so within that time. The text changes only at the end."""
        left_s = self.days_left(now_ns) * 86400
        if left_s > warn_before_s:
            return None
        how = "ends" if left_s > 0 else "has ended"
        return f"mqtt.tls.{self.key}: {self.path} {how} at {self.ends_at}; put a new one there, no restart is needed"


def read_certificates(config: Mqtt) -> list[Certificate]:
    """The configured files that hold certificates; none without TLS.

    Of `cert_file` the first to end counts, as a chain is as good as each of its links. Of `ca_file` the last: while an
    authority is being replaced it holds the old one too, and a file of public authorities always has one that ends.
    """
    tls, found = config.tls, []
    if tls.enabled and tls.cert_file is not None:
        found.append(Certificate("cert_file", tls.cert_file, _end_ns(tls.cert_file, min)))
    if tls.enabled and tls.ca_file is not None:
        found.append(Certificate("ca_file", tls.ca_file, _end_ns(tls.ca_file, max)))
    return found


def _end_ns(path: str, choose: Callable[[Iterable[datetime]], datetime]) -> int | None:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        ends = [one.not_valid_after_utc for one in load_pem_x509_certificates(Path(path).read_bytes())]
    except (OSError, ValueError):  # `make_tls_context` says what is wrong with a file, if OpenSSL minds
        return None
    return int(choose(ends).timestamp()) * 1_000_000_000


class LoginFiles:
    """Watches them. All but `certificates` belongs to one thread."""

    def __init__(self, config: Mqtt, health: Health) -> None:
        self.certificates: list[Certificate] = []
        """As `look` found them last."""
        self._config, self._health = config, health
        tls = config.tls
        paths = [config.password_file, *([tls.ca_file, tls.cert_file, tls.key_file] if tls.enabled else [])]
        self._paths = [path for path in paths if path is not None]
        self._seen: list[object] | None = None
        self._fault: str | None = None

    def look(self, *, connected: bool) -> None:
        """Try what has changed, and tell `health` of what is wrong or ends soon.

        Without a connection the attempts to make one tell what is wrong with the files.
        """
        marks = [_mark(path) for path in self._paths]
        if marks != self._seen:
            self._seen = marks
            self._fault = fault_of(self._config)
            self.certificates = read_certificates(self._config)
        now_ns, warn_before_s = time.time_ns(), self._config.tls.warn_before
        reasons = [text for one in self.certificates if (text := one.complaint(now_ns, warn_before_s))]
        if self._fault and connected:
            reasons.insert(0, f"{self._fault}; the connection that is there stays, the next one would fail")
        if reasons:
            self._health.lost(_PART, "; ".join(reasons))
        else:
            self._health.recovered(_PART)

    def telemetry(self) -> dict[str, str]:
        """Fields of `agent.wire.messages.MqttTelemetry`."""
        names = {"cert_file": "certificate_expires_at", "ca_file": "ca_expires_at"}
        return {names[one.key]: one.ends_at for one in self.certificates if one.ends_at is not None}


def fault_of(config: Mqtt) -> str | None:
    """Why a connection could not be made with the files as they are now; None when they are good."""
    try:
        if config.password_file is not None:
            read_password(config.password_file)
        if config.tls.enabled:
            make_tls_context(config.tls)
    except LinkDown as exc:
        return str(exc)
    return None


def _mark(path: str) -> object:
    """Another one when the file is another, has other content, or other permissions."""
    try:
        found = os.stat(path)  # noqa: PTH116 - one call, follows links, as certificates are often swapped
    except OSError as exc:
        return exc.errno
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
