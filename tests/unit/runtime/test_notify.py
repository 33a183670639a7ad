"""What systemd hears, over real sockets."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd makes it, and what it puts into NOTIFY_SOCKET."""
    name = f"edge-agent-test-{os.getpid()}"
    address, variable = (f"\0{name}", f"@{name}") if request.param == "abstract" else (str(tmp_path / "notify"),) * 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(address)
        yield listener, variable


def test_every_message_arrives(manager: tuple[socket.socket, str]):
    listener, variable = manager
    notifier = Notifier({"NOTIFY_SOCKET": variable})
    notifier.ready()
    notifier.status("2 pipelines\nonline")
    notifier.watchdog()
    notifier.stopping()
    expected = [b"READY=1", b"STATUS=2 pipelines online", b"WATCHDOG=1", b"STOPPING=1"]
    assert expected == [listener.recv(1000) for _ in expected]


@pytest.mark.parametrize("variable", ["", "relative", "vsock:2:1", "/does/not/exist", "@nobody", "/" + "x" * 300])
def test_a_socket_that_is_not_there_is_no_error(variable: str):
    notifier = Notifier({"NOTIFY_SOCKET": variable})
    notifier.ready()
    notifier.status("\udc80")
    notifier.stopping()


def test_without_systemd_nothing_happens():
    notifier = Notifier({})
    notifier.ready()
    assert notifier.watchdog_s is None


def test_a_manager_that_does_not_read_does_not_block_for_ever(tmp_path: Path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler,
    ):
        listener.bind(str(tmp_path / "notify"))
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"x", str(tmp_path / "notify"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).watchdog()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environ: dict[str, str], expected: float | None):
    assert expected == Notifier(environ).watchdog_s
