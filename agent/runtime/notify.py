"""What systemd wants to know of a service: sd_notify(3) and sd_watchdog_enabled(3), without libsystemd.

Without systemd (no NOTIFY_SOCKET) all of it does nothing. Nothing here raises: a service that can't tell that it is
well is still well.
"""

import os
import socket
from collections.abc import Mapping

_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Talks to the service manager, from any thread."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environ)
        """Send `watchdog()` this often, which is half of what systemd waits; None when it does not wait for it."""

    def ready(self) -> None:
        """The service has started."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    def watchdog(self) -> None:
        """The service makes progress."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError:
            pass


def _address(value: str) -> str | bytes | None:
    """The socket's address: a path, or with a leading @ a name in the abstract namespace."""
    if value.startswith("@"):
        return b"\0" + os.fsencode(value[1:])
    return value if value.startswith("/") else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC, if it is meant for this process."""
    try:
        if int(environ.get("WATCHDOG_PID") or os.getpid()) != os.getpid():
            return None
        limit_us = int(environ["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    return limit_us / 2e6 if limit_us > 0 else None
