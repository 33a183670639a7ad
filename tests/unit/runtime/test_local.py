"""The socket that `edge-agent status` and `edge-agent models` ask."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.runtime import local
from agent.runtime.local import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, answer_loop, ask
from tests.sim import wait_until

Serve = Callable[[Path, Callable[[bytes], bytes]], None]


@pytest.fixture
def serve() -> Iterator[Serve]:
    stop = threading.Event()
    threads = []

    def start(folder: Path, answer: Callable[[bytes], bytes]) -> None:
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
    serve(tmp_path, lambda _: b"x" * 500_000)
    assert ask(tmp_path) == b"x" * 500_000
    assert ask(tmp_path) == b"x" * 500_000


def test_a_folder_may_have_a_longer_path_than_sockets_allow(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    serve(folder, lambda _: b"here")
    assert ask(folder) == b"here"


def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "status.sock").write_bytes(b"")
    serve(tmp_path, lambda _: b"new")
    assert ask(tmp_path) == b"new"


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ask(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        ask(tmp_path / "nowhere")


def test_one_that_hangs_up_does_no_harm(tmp_path: Path, serve: Serve) -> None:
    """The answer is larger than what the kernel holds for a reader that never reads."""
    serve(tmp_path, lambda _: b"x" * 500_000)
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(tmp_path / "status.sock"))
    assert len(ask(tmp_path)) == 500_000


def test_the_socket_is_gone_at_the_end(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=answer_loop, args=(tmp_path, lambda _: b"x", stop))
    thread.start()
    wait_until(lambda: answers(tmp_path))
    stop.set()
    thread.join(5)
    assert not (tmp_path / "status.sock").exists()


def test_a_request_arrives_whole(tmp_path: Path, serve: Serve) -> None:
    serve(tmp_path, lambda request: b"got " + request)
    assert ask(tmp_path) == b"got "
    assert ask(tmp_path, b"{}") == b"got {}"
    assert ask(tmp_path, b"x" * MAX_REQUEST_BYTES) == b"got " + b"x" * MAX_REQUEST_BYTES


def test_a_request_that_is_too_large_is_not_looked_at(tmp_path: Path, serve: Serve) -> None:
    requests = []
    serve(tmp_path, lambda request: requests.append(len(request)) or b"x")
    with pytest.raises(OSError, match=r"."):
        ask(tmp_path, b"x" * (MAX_REQUEST_BYTES + 1))
    assert ask(tmp_path, b"small") == b"x"
    assert max(requests) == 5


def test_no_answer_is_an_error(tmp_path: Path, serve: Serve) -> None:
    serve(tmp_path, lambda request: b"" if request else b"x")
    with pytest.raises(ConnectionAbortedError, match="no answer"):
        ask(tmp_path, b"{}")


def test_an_answer_without_end_is_an_error(tmp_path: Path, serve: Serve) -> None:
    serve(tmp_path, lambda request: b"x" * (MAX_ANSWER_BYTES + 1 if request else 1))
    with pytest.raises(ConnectionAbortedError, match="more than"):
        ask(tmp_path, b"{}")


def test_a_daemon_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "status.sock"))
        server.listen(1)
        with pytest.raises(TimeoutError):
            ask(tmp_path, timeout_s=0.1)


@pytest.mark.parametrize("rude", ["never ends its request", "sends byte by byte", "never reads"])
def test_a_rude_client_does_not_keep_others_away(tmp_path: Path, serve: Serve, rude: str) -> None:
    serve(tmp_path, lambda request: b"x" * (MAX_ANSWER_BYTES if request else 1))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "status.sock"))
        client.send(b"{")
        if rude == "never reads":
            client.shutdown(socket.SHUT_WR)
        stop = threading.Event()
        dripping = threading.Thread(target=_drip, args=(client, stop))
        if rude == "sends byte by byte":
            dripping.start()
        try:
            assert ask(tmp_path, timeout_s=10) == b"x"
        finally:
            stop.set()
            if dripping.ident is not None:
                dripping.join(5)


def test_who_asks_for_the_status_does_not_wait_for_an_answer_that_takes_long(tmp_path: Path, serve: Serve) -> None:
    """Such as to `models activate`, which loads a model: the daemon would be taken for gone."""
    go, asked = threading.Event(), threading.Event()

    def answer(request: bytes) -> bytes:
        if request:
            asked.set()
            go.wait(20)
        return b"x"

    serve(tmp_path, answer)
    operator = threading.Thread(target=ask, args=(tmp_path, b"activate", 20))
    operator.start()
    try:
        assert asked.wait(5)
        assert ask(tmp_path) == b"x"
    finally:
        go.set()
        operator.join(5)


def test_silent_clients_do_not_keep_others_away(tmp_path: Path, serve: Serve) -> None:
    serve(tmp_path, lambda _: b"x")
    with contextlib.ExitStack() as silent:
        for _ in range(6):
            silent.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "status.sock"))
        assert ask(tmp_path) == b"x"


def _drip(client: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        try:
            client.send(b" ")
        except OSError:
            return


def test_a_folder_that_refuses_the_socket_is_tried_again(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a disk that is read-only for a while: that ends no daemon."""
    monkeypatch.setattr(local, "_RETRY_S", 0.01)
    in_the_way = tmp_path / "status.sock"
    in_the_way.mkdir()
    timer = threading.Timer(0.2, in_the_way.rmdir)
    timer.start()
    serve(tmp_path, lambda _: b"well")
    assert ask(tmp_path) == b"well"
