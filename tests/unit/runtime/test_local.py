"""The socket that `edge-agent status` asks."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.runtime.local import answer_loop, ask
from tests.sim import wait_until

Serve = Callable[[Path, Callable[[], bytes]], None]


@pytest.fixture
def serve() -> Iterator[Serve]:
    stop = threading.Event()
    threads = []

    def start(folder: Path, answer: Callable[[], bytes]) -> None:
        threads.append(threading.Thread(target=answer_loop, args=(folder, answer, stop)))
        threads[-1].start()
        wait_until(lambda: answers(folder))

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def answers(folder: Path) -> bool:
    try:
        return bool(ask(folder))
    except OSError:
        return False


def test_whoever_asks_gets_the_whole_answer(tmp_path: Path, serve: Serve) -> None:
    serve(tmp_path, lambda: b"x" * 500_000)
    assert ask(tmp_path) == b"x" * 500_000
    assert ask(tmp_path) == b"x" * 500_000


def test_a_folder_may_have_a_longer_path_than_sockets_allow(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    serve(folder, lambda: b"here")
    assert ask(folder) == b"here"


def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "status.sock").write_bytes(b"")
    serve(tmp_path, lambda: b"new")
    assert ask(tmp_path) == b"new"


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ask(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        ask(tmp_path / "nowhere")


def test_one_that_hangs_up_does_no_harm(tmp_path: Path, serve: Serve) -> None:
    """The answer is larger than what the kernel holds for a reader that never reads."""
    import socket

    serve(tmp_path, lambda: b"x" * 500_000)
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(tmp_path / "status.sock"))
    assert len(ask(tmp_path)) == 500_000


def test_the_socket_is_gone_at_the_end(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=answer_loop, args=(tmp_path, lambda: b"x", stop))
    thread.start()
    wait_until(lambda: answers(tmp_path))
    stop.set()
    thread.join(5)
    assert not (tmp_path / "status.sock").exists()
