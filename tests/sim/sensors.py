"""Sensors that write, answer and fall silent on demand: a serial port, a Modbus device, files below /sys."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from tests.sim import free_port, wait_until


class Repeater:
    """Does something again and again in a thread of its own, with the number of the turn, until `stop`."""

    def __init__(self, do: Callable[[int], object], interval_s: float = 0.01) -> None:
        self._do, self._interval_s = do, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(self._interval_s):
            self._do(turn)
            turn += 1


class SerialDevice:
    """The far end of a serial port: a pseudo-terminal. `path` is the near end."""

    def __init__(self, link: Path | None = None) -> None:
        """`link`: a path that leads to the port as long as it is plugged in, like those in /dev/serial/by-id."""
        self._far, near = os.openpty()
        tty.setraw(near)  # else it would send back what nobody reads
        self.path = os.ttyname(near)
        os.close(near)
        os.set_blocking(self._far, False)
        self._lock = threading.Lock()
        self._link = link
        if link is not None:
            link.symlink_to(self.path)
            self.path = str(link)

    def write(self, data: bytes) -> None:
        """Send it; what a full line can't take is lost, as on a wire."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._far >= 0:
                os.write(self._far, data)

    def unplug(self) -> None:
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        with self._lock:
            far, self._far = self._far, -1
        if far >= 0:
            os.close(far)


class ModbusDevice:
    """A Modbus TCP server in a process of its own, with registers 0 to 99 of unit 1: what can be frozen and killed."""

    host = "127.0.0.1"

    def __init__(self, holding: list[int], inputs: list[int]) -> None:
        self.port = free_port()
        self._tables = json.dumps([holding, inputs])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(self.port), self._tables])
        wait_until(self._listens, what="the Modbus server listens")

    def freeze(self) -> None:
        """It accepts connections (the kernel does) and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def hanging_file(path: Path) -> Iterator[Path]:
    """A file whose opening never comes back, like one of a driver that waits for its device; let go at the end."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


async def _serve_modbus(port: int, holding: list[int], inputs: list[int]) -> None:
    from pymodbus.server import StartAsyncTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    def table(values: list[int]) -> list[SimData]:
        return [SimData(0, values=values, datatype=DataType.REGISTERS)]

    bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    device = SimDevice(1, simdata=(bits, bits, table(holding), table(inputs)))
    await StartAsyncTcpServer(device, address=(ModbusDevice.host, port))


if __name__ == "__main__":
    asyncio.run(_serve_modbus(int(sys.argv[1]), *json.loads(sys.argv[2])))
