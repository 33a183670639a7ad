"""The other side, simulated or real: servers that tests start, and that can misbehave."""

import os
import shutil
import socket
import time
from collections.abc import Callable

import pytest


def require_program(name: str, mend: str) -> str:
    """Path of a program that a test needs. Missing, it fails the test where CI is set, and skips it elsewhere."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        message = f"{name} is not installed: {mend}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def free_port() -> int:
    """A TCP port on the loopback that nobody used a moment ago; another process may still come first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Come back when the condition holds; fail when it does not in time. For what can't notify."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {timeout_s:g} s in vain{': ' if what else ''}{what}")
        time.sleep(0.005)
