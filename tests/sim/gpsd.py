"""gpsd: the real one with a receiver that replays a log, and one that says what it is told."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import threading
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.sim import free_port, require_program, wait_until

LOG = Path(__file__).parents[1] / "golden" / "gps" / "haicom-305N.log"
"""Sentences of a receiver that has no fix at first, then one in two and soon in three dimensions."""

VERSION = {"class": "VERSION", "release": "3.22", "rev": "3.22", "proto_major": 3, "proto_minor": 14}
DEVICES = {"class": "DEVICES", "devices": [{"class": "DEVICE", "path": "/dev/ttyACM0", "activated": 1}]}

MEND = "apt-get install --no-install-recommends gpsd"

_SENTENCE_S = 0.01


def sentences(has_fix: bool) -> list[bytes]:
    """What the receiver said before it had a fix, or since then."""
    lines = [line for line in LOG.read_bytes().splitlines(keepends=True) if line.startswith(b"$")]
    first = next(number for number, line in enumerate(lines) if line.startswith(b"$GPRMC") and b",A," in line)
    return lines[first:] if has_fix else lines[: first - 1]


class Gpsd:
    """The real gpsd at a port of its own, with a receiver on a pseudo terminal; a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._sentences: Sequence[bytes] = ()
        self._done = threading.Event()
        self._feeder = threading.Thread(target=self._feed, name="receiver", daemon=True)

    def __enter__(self) -> Self:
        require_program("gpsd", MEND)
        self._receiver, slave = pty.openpty()
        tty.setraw(slave)
        self._device = os.ttyname(slave)
        Path(self._device).chmod(0o666)  # gpsd gives up root
        self._slave = slave  # kept open, so that the terminal outlives gpsd
        self.start()
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._feeder.join(5)
        self.kill()
        os.close(self._slave)
        os.close(self._receiver)

    def start(self) -> None:
        options = ["-N", "-n", "-b", "-S", str(self.port), self._device]
        self._process = subprocess.Popen(
            # A test run that is shot must not leave it behind.
            ["setpriv", "--pdeathsig", "KILL", require_program("gpsd", MEND), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens, what="gpsd listens")

    def say(self, has_fix: bool) -> None:
        """From now on the receiver says this, over and over."""
        self._sentences = sentences(has_fix)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _feed(self) -> None:
        os.set_blocking(self._receiver, False)
        while not self._done.is_set():
            for sentence in self._sentences or ():
                with contextlib.suppress(BlockingIOError):  # gpsd is away: the terminal is full
                    os.write(self._receiver, sentence)
                if self._done.wait(_SENTENCE_S):
                    return
            self._done.wait(_SENTENCE_S)


class FakeGpsd:
    """A server that says what it is told to whoever came last; a context manager."""

    def __init__(self, port: int = 0, *, greets: bool = True, answers: bool = True) -> None:
        """Without `greets` it does not say who it is, without `answers` not that it is there."""
        self._greets, self._answers = greets, answers
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = int(self._server.getsockname()[1])
        self.received = b""
        self.clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._server, *self.clients):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in (self._server, *self.clients):
            sock.close()

    def say(self, *reports: dict[str, Any] | bytes) -> None:
        """Send reports, or bytes as they are."""
        wait_until(lambda: self.clients, what="a client")
        for report in reports:
            data = report if isinstance(report, bytes) else json.dumps(report).encode() + b"\r\n"
            with contextlib.suppress(OSError):  # the client has heard enough
                self.clients[-1].sendall(data)

    def hang_up(self) -> None:
        self.clients[-1].shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._greets:
                    client.sendall(b"".join(json.dumps(report).encode() + b"\r\n" for report in (VERSION, DEVICES)))
                self.clients.append(client)
                self._threads.append(threading.Thread(target=self._listen, args=(client,), daemon=True))
                self._threads[-1].start()

    def _listen(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(4096):
                self.received += chunk
                if self._answers and b"?VERSION;" in chunk:
                    client.sendall(json.dumps(VERSION).encode() + b"\r\n")
