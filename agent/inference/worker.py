"""The process around a bundle, seen from the daemon.

A native crash or hang of a model costs frames, not the agent. Workers are forked from one small server process that
has numpy, OpenCV and the TFLite runtime imported, so that a new one costs milliseconds.
"""

import contextlib
import mmap
import multiprocessing
import multiprocessing.util
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import DupFd
from pathlib import Path

import msgspec
import numpy as np

from agent.config import Delegate
from agent.errors import ModelError, WorkerLost
from agent.inference.protocol import ERROR, MAX_ANSWER_BYTES, REQUEST, Answer, BundleInfo
from agent.values import Image

START_TIMEOUT_S = 60.0
"""A large model from a slow card takes its time to load."""

_SLICE_S = 0.25
"""How often a wait looks whether the daemon is to stop."""

_decode_info = msgspec.msgpack.Decoder(BundleInfo).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_error = msgspec.msgpack.Decoder(str).decode


def warm_up() -> ForkServerContext:
    """Start the server that workers are forked from; it imports while the caller does other things."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads made before a fork are missing after it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agent.inference.serve"])
    ensure_running()
    return context


def tidy_up(folder: Path) -> None:
    """Take away the temporary folder that a daemon which was killed has left; `folder` is where this is written down.

    The server's socket lies in it, and Python only takes it away at an orderly end.
    """
    note = folder / "workers-tmp"
    with contextlib.suppress(OSError):
        left = Path(note.read_text(encoding="utf-8"))
        if left.parent == Path(tempfile.gettempdir()) and left.name.startswith("pymp-"):
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):
        note.write_text(multiprocessing.util.get_temp_dir(), encoding="utf-8")


class Worker:
    """One worker process. All is for one thread, except that `close` may come from another."""

    def __init__(
        self, folder: Path, *, threads: int | None, delegate: Delegate | None, timeout_s: float, stop: threading.Event
    ) -> None:
        """Args: the bundle's folder; `timeout_s` for one frame; a set `stop` ends every wait early."""
        self._folder, self._threads, self._delegate = folder, threads, delegate
        self._timeout_s, self._stop = timeout_s, stop
        self._process: ForkServerProcess | None = None
        self.info: BundleInfo
        """Which model it runs; there from `start` on."""
        self.loss: str | None = None
        """How the process was lost, once it was."""
        self._memory_fd = -1
        self._memory: mmap.mmap | None = None

    def start(self) -> BundleInfo:
        """Start the process and load the bundle in it.

        Raises:
            ModelError: the bundle can't be used.
            WorkerLost: the process died or did not get ready in time.
        """
        context = warm_up()
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)  # it is polled first, with a deadline
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._memory_fd = os.memfd_create("edge-agent-frame")
        process = context.Process(
            target=_serve,
            args=(_Fd(far_end.fileno()), _Fd(self._memory_fd), self._folder, self._threads, self._delegate),
            daemon=True,
        )
        try:
            process.start()
        except (OSError, EOFError) as exc:  # the server was killed; the next try starts another
            self._socket.close()
            os.close(self._memory_fd)
            raise WorkerLost(f"no process for the model: {str(exc).lower()}") from exc
        finally:
            far_end.close()
        self._process = process
        try:
            self.info = _decode_info(self._receive(START_TIMEOUT_S))
            return self.info
        except ModelError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the worker process, for telemetry."""
        return self._process.pid if self._process else None

    def run(self, image: Image, min_confidence: float) -> Answer:
        """Have one picture looked at: `submit` and `receive`."""
        self.submit(image, min_confidence)
        return self.receive()

    def submit(self, image: Image, min_confidence: float) -> None:
        """Hand over a picture (uint8, H x W or H x W x C); it is copied. `receive` has to follow before the next.

        Raises:
            WorkerLost: the process has crashed.
        """
        if self._process is None:
            raise WorkerLost(self.loss or "the model's process is closed")
        np.copyto(self._room_for(image), image)
        channels = image.shape[2] if image.ndim == 3 else 0
        try:
            self._socket.send(REQUEST.pack(image.shape[0], image.shape[1], channels, min_confidence))
        except OSError as exc:
            raise self._lost("crashed") from exc

    def receive(self) -> Answer:
        """Wait for the answer to the picture that was handed over.

        Raises:
            ModelError: the model failed on this picture; the worker lives on.
            WorkerLost: the process crashed, or missed its deadline and was killed.
        """
        return _decode_answer(self._receive(self._timeout_s))

    def _room_for(self, image: Image) -> Image:
        if self._memory is None or len(self._memory) < image.nbytes:
            os.ftruncate(self._memory_fd, image.nbytes)
            self._memory = mmap.mmap(self._memory_fd, image.nbytes)
        return np.frombuffer(self._memory, np.uint8, image.nbytes).reshape(image.shape)

    def _receive(self, timeout_s: float) -> bytes:
        """The next message's body, or the error that it carries."""
        deadline = time.monotonic() + timeout_s
        while not self._poll.poll(min(_SLICE_S, timeout_s) * 1000):
            if self._stop.is_set():
                raise self._lost("was stopped")
            if time.monotonic() >= deadline:
                raise self._lost(f"gave no answer within {timeout_s:g} s")
        try:
            message = self._socket.recv(MAX_ANSWER_BYTES)
        except OSError as exc:
            raise self._lost("crashed") from exc
        if not message:
            raise self._lost("crashed")
        if message[:1] == ERROR:
            raise ModelError(_decode_error(message[1:]))
        return message[1:]

    def _lost(self, what: str) -> WorkerLost:
        """End what is left of the process and say how it ended."""
        process = self._process
        if process is not None and what == "crashed":
            process.join(1.0)
        code = process.exitcode if process else None
        self.close()
        if what == "crashed" and code is not None:
            what = f"crashed with {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        self.loss = f"the model's process {what}"
        return WorkerLost(self.loss)

    def close(self) -> None:
        """Kill the process; a model has nothing to save. Safe to call twice, and before `start`."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            process.kill()
        self._socket.close()
        process.join(2.0)
        self._memory = None
        os.close(self._memory_fd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class _Fd:
    """A file descriptor that travels to the worker together with its arguments."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (_same, (DupFd(self._fd),))  # DupFd only works while a process is being started


def _same(fd: object) -> object:
    return fd


def _serve(*args: object) -> None:
    from agent.inference.serve import serve  # in the worker only: the daemon has no need of the TFLite runtime

    serve(*args)  # type: ignore[arg-type]
