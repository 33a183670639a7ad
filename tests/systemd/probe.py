"""What the sandbox lets a program do; runs in the daemon's place, and prints a JSON object.

Each word on the command line is a path to open for reading, beside the attempts that are always made.
"""

import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x10000000
STATE = Path("/var/lib/edge-agent")


def write(path: str) -> None:
    Path(path).write_text("x")
    Path(path).unlink()


def namespace() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def execute() -> None:
    program = STATE / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    try:
        subprocess.run([program], check=True)
    finally:
        program.unlink()


def adjtimex() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.adjtimex(ctypes.create_string_buffer(512)) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write below its own folder": lambda: write(f"{STATE}/x"),
    "write below /tmp": lambda: write("/tmp/x"),
    "open a network socket": lambda: socket.socket(socket.AF_INET).close(),
    "read the device's memory use": lambda: Path("/proc/meminfo").read_text(),
    "give way": lambda: os.nice(1),
    "write its configuration": lambda: write("/etc/edge-agent/x"),
    "write into the program": lambda: write("/opt/edge-agent/x"),
    "write below /usr": lambda: write("/usr/x"),
    "look into /root": lambda: list(Path("/root").iterdir()),
    "see other users' processes": lambda: Path("/proc/1/status").read_text(),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "ask for the clock's state": adjtimex,
    "make a user namespace": namespace,
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "map memory to write and execute": lambda: mmap.mmap(-1, 4096, prot=7).close(),
    "execute a file it wrote": execute,
    "become a real-time process": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
}


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as exc:
        return exc.strerror or str(exc)
    return "works"


if __name__ == "__main__":
    attempts = ATTEMPTS | {path: lambda path=path: os.close(os.open(path, os.O_RDONLY)) for path in sys.argv[1:]}
    print(json.dumps({name: outcome(attempt) for name, attempt in attempts.items()}))
