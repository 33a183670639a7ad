"""A word with the daemon on this host: a Unix socket in its own folder that gives one JSON document a connection.

The folder's permissions decide who may ask. The socket is bound and reached through the folder's descriptor, because
the path of a Unix socket may have only 107 characters.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_ANSWER_BYTES = 1 << 20
_NAME = "status.sock"
_TIMEOUT_S = 3.0


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{_NAME}"
    finally:
        os.close(fd)


def answer_loop(folder: Path, answer: Callable[[], bytes], stop: threading.Event) -> None:
    """Body of a thread: give `answer()` to whoever connects. The caller holds the folder's lock, so a socket that is
    there was left by a daemon that died."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        (folder / _NAME).unlink(missing_ok=True)
        with _short_path(folder) as path:
            server.bind(path)
        server.listen(4)
        server.settimeout(0.5)
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):  # who asked and went is no trouble of ours
                connection.settimeout(_TIMEOUT_S)
                connection.sendall(answer())
    (folder / _NAME).unlink(missing_ok=True)


def ask(folder: Path) -> bytes:
    """What the daemon with this folder says.

    Raises:
        OSError: no daemon runs there, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short_path(folder) as path:
        client.settimeout(_TIMEOUT_S)
        client.connect(path)
        parts = bytearray()
        while len(parts) <= MAX_ANSWER_BYTES and (part := client.recv(1 << 16)):
            parts += part
        return bytes(parts)
