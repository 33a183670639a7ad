"""A word with the daemon on this host: a Unix socket in its own folder. Who connects sends one request (JSON; nothing
asks for the status), closes the writing side, and gets one JSON document.

The folder's permissions decide who may ask. The socket is bound and reached through the folder's descriptor, because
the path of a Unix socket may have only 107 characters.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

MAX_REQUEST_BYTES = 64 << 10
MAX_ANSWER_BYTES = 1 << 20
_NAME = "status.sock"
_TIMEOUT_S = 3.0
"""For a whole request, and for a whole answer."""
_AT_ONCE = 8
"""Connections that are served beside each other: an answer that loads a model takes seconds, and who asks for the
status meanwhile would take the daemon for gone."""
_RETRY_S = 10.0

log = structlog.get_logger()


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{_NAME}"
    finally:
        os.close(fd)


def answer_loop(folder: Path, answer: Callable[[bytes], bytes], stop: threading.Event) -> None:
    """Body of a thread: give `answer(request)` to whoever connects. The caller holds the folder's lock, so a socket
    that is there was left by a daemon that died. A disk that refuses it, or too many open files, is tried again."""
    while not stop.is_set():
        try:
            _answer_all(folder, answer, stop)
        except OSError as exc:
            log.warning("status.lost", folder=str(folder), reason=str(exc))
            stop.wait(_RETRY_S)
    with contextlib.suppress(OSError):  # of a disk that refuses; the next start removes it
        (folder / _NAME).unlink()


def _answer_all(folder: Path, answer: Callable[[bytes], bytes], stop: threading.Event) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        (folder / _NAME).unlink(missing_ok=True)
        with _short_path(folder) as path:
            server.bind(path)
        server.listen(16)
        server.settimeout(0.5)
        places = threading.BoundedSemaphore(_AT_ONCE)
        while not stop.is_set():
            if not places.acquire(timeout=0.5):
                continue
            try:
                connection, _ = server.accept()
            except TimeoutError:
                places.release()
                continue
            one = threading.Thread(target=_serve, args=(connection, answer, places), name="status.one", daemon=True)
            try:
                one.start()
            except RuntimeError:  # no room for a thread: who asks may ask again
                connection.close()
                places.release()


def _serve(connection: socket.socket, answer: Callable[[bytes], bytes], place: threading.BoundedSemaphore) -> None:
    """Body of a thread for one connection; frees its place at the end."""
    with connection, contextlib.ExitStack() as at_end:
        at_end.callback(place.release)
        try:
            request = _receive_all(connection, MAX_REQUEST_BYTES, _TIMEOUT_S)
        except OSError:  # it sent too much, or not in time, or hung up
            return
        text = answer(request)
        with contextlib.suppress(OSError):  # who asked and went is no trouble of ours
            connection.settimeout(_TIMEOUT_S)  # for all of it together
            connection.sendall(text)


def ask(folder: Path, request: bytes = b"", timeout_s: float = _TIMEOUT_S) -> bytes:
    """What the daemon with this folder says to a request; nothing asks for its status.

    Args:
        timeout_s: how long to wait for the answer; what loads a model takes longer than a status.

    Raises:
        OSError: no daemon runs there, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short_path(folder) as path:
        client.settimeout(_TIMEOUT_S)
        client.connect(path)
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        text = _receive_all(client, MAX_ANSWER_BYTES, timeout_s)
    if not text:
        raise ConnectionAbortedError("the daemon gave no answer")
    return text


def _receive_all(connection: socket.socket, max_bytes: int, timeout_s: float) -> bytes:
    """All that the other side sends until it closes its writing side.

    Raises:
        OSError: it is more, or takes longer, or the connection broke.
    """
    deadline_s = time.monotonic() + timeout_s
    parts = bytearray()
    while True:
        connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part:
            return bytes(parts)
        parts += part
        if len(parts) > max_bytes:
            raise ConnectionAbortedError(f"more than {max_bytes} bytes")
        if time.monotonic() > deadline_s:
            raise TimeoutError("timed out")
