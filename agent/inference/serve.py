"""The inside of a worker process: load one bundle, then answer frame after frame until the pipe closes."""

import contextlib
import ctypes
import mmap
import multiprocessing.forkserver
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from agent.config import Delegate
from agent.errors import ModelError
from agent.inference.bundle import Bundle, load_bundle
from agent.inference.protocol import ANSWER, ERROR, MAX_ANSWER_BYTES, READY, REQUEST
from agent.values import Image

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(
    far_end: "_InheritedFd", memory: "_InheritedFd", folder: Path, threads: int | None, delegate: Delegate | None
) -> None:
    """Body of the worker process; returns when the daemon closes the socket."""
    _give_up_privileges()
    daemon = socket.socket(fileno=far_end.detach())
    pixels = _SharedPixels(memory.detach())
    try:
        with _without_greeting():
            bundle = load_bundle(folder, threads=threads, delegate=delegate)
    except ModelError as exc:
        daemon.send(_error(str(exc)))
        return
    daemon.send(READY + msgspec.msgpack.encode(bundle.info))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon has gone: so do we
        while request := daemon.recv(REQUEST.size):
            daemon.send(_answer(bundle, pixels, request))


def _answer(bundle: Bundle, pixels: "_SharedPixels", request: bytes) -> bytes:
    height, width, channels, min_confidence = REQUEST.unpack(request)
    shape = (height, width, channels) if channels else (height, width)
    try:
        answer = ANSWER + msgspec.msgpack.encode(bundle.run(pixels.view(shape), min_confidence))
    except ModelError as exc:
        return _error(str(exc))
    if len(answer) > MAX_ANSWER_BYTES:
        return _error(f"the answer has {len(answer)} bytes; lower max_detections or raise min_confidence")
    return answer


def _error(text: str) -> bytes:
    return ERROR + msgspec.msgpack.encode(text)


class _InheritedFd(Protocol):
    """A descriptor on its way into this process."""

    def detach(self) -> int:
        """The descriptor; it is ours from now on."""


class _SharedPixels:
    """The memory file, mapped again whenever the daemon has made it larger."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def view(self, shape: tuple[int, ...]) -> Image:
        size = int(np.prod(shape))
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        return np.frombuffer(self._map, np.uint8, size).reshape(shape)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """LiteRT greets on stderr with each model, in the middle of the daemon's log, and has no switch for it; whatever
    else is written there meanwhile comes a moment later."""
    held, stderr = os.memfd_create("edge-agent-stderr"), os.dup(2)
    os.dup2(held, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        lines = os.pread(held, 1 << 16, 0).splitlines(keepends=True)
        os.write(2, b"".join(line for line in lines if b"Created TensorFlow Lite XNNPACK delegate" not in line))
        os.close(held)
        os.close(stderr)


def _give_up_privileges() -> None:
    """A model is code from outside: it dies with the daemon, dies first when memory is short, and dumps no core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon decides when we end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_the_daemon()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _die_with_the_daemon() -> None:
    """Our parent is the fork server; it ends when nobody holds the other end of its pipe, and we are handed one so that
    we could start processes too. Without it a model that hangs would keep the server and itself alive for ever."""
    alive_fd = getattr(multiprocessing.forkserver._forkserver, "_forkserver_alive_fd", None)  # noqa: SLF001 - see above
    if alive_fd is not None:
        os.close(alive_fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
