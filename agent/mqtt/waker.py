"""Ends a `poll` from another thread."""

import socket
import threading


class Waker:
    """A pair of sockets; however often it is woken, one byte waits. When it is not open, `wake` does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a byte must never go to a descriptor that was closed and is something else now
        self._woken = False
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def open(self) -> None:
        with self._lock:
            self._ends = socket.socketpair()
            self._woken = False

    def fileno(self) -> int:
        """To poll for reading; -1 when it is not open."""
        return self._ends[0].fileno() if self._ends else -1

    def wake(self) -> None:
        """From any thread."""
        with self._lock:
            if self._ends is not None and not self._woken:
                self._woken = True
                self._ends[1].send(b"\0")

    def clear(self) -> None:
        """Forget that it was woken, before looking at what there is to do."""
        with self._lock:
            if self._ends is not None and self._woken:
                self._woken = False
                self._ends[0].recv(1)

    def close(self) -> None:
        with self._lock:
            for end in self._ends or ():
                end.close()
            self._ends = None
