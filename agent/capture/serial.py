"""A serial port, with what Linux and the standard library give.

pyserial would hide three calls (open, tcsetattr, poll) behind a package that was last released in 2020, and would not
wake a read from another thread without more of them.
"""

import errno
import fcntl
import os
import select
import termios
import threading
import time
import tty

from agent.capture.lines import LineSource, line_parser
from agent.config import SerialSource
from agent.errors import SourceError

_SLICE_S = 0.1
"""How often a wait looks whether it was interrupted."""
_MENDS = {
    errno.EACCES: "; put the service's user into the group dialout",
    errno.EBUSY: "; another program has it",
    errno.ENOENT: "; is it plugged in? `ls /dev/serial/by-id` shows what is",
}


class SerialPort:
    """One opening of a serial port: 8 bits, no parity, 1 stop bit, no flow control; nobody else may open it then."""

    def __init__(self, device: str, baud: int) -> None:
        self.name = f"serial port {device}"
        self._device, self._baud = device, baud
        self._fd: int | None = None
        self._poll = select.poll()
        self._interrupted = threading.Event()

    def open(self) -> None:
        try:
            self._fd = os.open(self._device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._set_up(self._fd)
        except OSError as exc:
            self.close()
            raise SourceError(f"{self.name}: {exc.strerror or exc}{_MENDS.get(exc.errno or 0, '')}") from exc
        except termios.error as exc:
            self.close()
            raise SourceError(f"{self.name}: no serial port, or it can't do {self._baud} baud: {exc.args[-1]}") from exc

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        deadline_s = time.monotonic() + timeout_s
        while self._fd is not None and not self._interrupted.is_set():
            left_s = deadline_s - time.monotonic()
            if self._poll.poll(max(0.0, min(_SLICE_S, left_s)) * 1000):
                if data := self._take(self._fd, max_bytes):
                    return data
            elif left_s <= 0.0:
                raise SourceError(f"{self.name}: no data for {timeout_s:.1f} s")
        raise SourceError(f"{self.name}: closed")

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._interrupted.set()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _set_up(self, fd: int) -> None:
        """Bytes as they come, at the right speed; what came before is thrown away.

        Raises:
            termios.error: it is no terminal, or can't have that speed.
        """
        tty.setraw(fd)
        mode = termios.tcgetattr(fd)
        mode[2] = (mode[2] | termios.CLOCAL | termios.CREAD) & ~(termios.CRTSCTS | termios.CSTOPB)
        mode[4] = mode[5] = getattr(termios, f"B{self._baud}")
        termios.tcsetattr(fd, termios.TCSAFLUSH, mode)
        fcntl.ioctl(fd, termios.TIOCEXCL)
        self._poll.register(fd, select.POLLIN)

    def _take(self, fd: int, max_bytes: int) -> bytes:
        """Raises SourceError when it was unplugged: then it is always ready, and has nothing."""
        try:
            data = os.read(fd, max_bytes)
        except BlockingIOError:  # poll may be wrong
            return b""
        except OSError as exc:
            raise SourceError(f"{self.name}: {exc.strerror or exc}; was it unplugged?") from exc
        if not data:
            raise SourceError(f"{self.name}: it hung up; was it unplugged?")
        return data


def make_serial(spec: SerialSource) -> LineSource:
    """The source that this part of the configuration describes; not open yet."""
    channels, parse = line_parser(spec.format, spec.channels, spec.delimiter)
    port = SerialPort(spec.device, spec.baud)
    return LineSource(port, channels, parse, timeout_s=spec.read_timeout_s, joins_late=True)
