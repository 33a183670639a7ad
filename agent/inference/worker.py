"""The process around a bundle, seen from the daemon.

A native crash or hang of a model costs frames, not the agent. Workers are forked from one small server process that
has numpy, OpenCV and the TFLite runtime imported, so that a new one costs milliseconds.
"""

import contextlib
import fcntl
import math
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
from collections import deque
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET

from agent.config import Delegate
from agent.errors import ModelError, WorkerLost
from agent.inference.golden import GoldenReport, is_finite, report_on
from agent.inference.memory import process_memory_bytes
from agent.inference.protocol import (
    ERROR,
    GOLDEN_REQUEST,
    MAX_ANSWER_BYTES,
    REQUEST,
    Answer,
    BundleInfo,
    GoldenSample,
    Ready,
    WorkerLimits,
)
from agent.manifest import Reference
from agent.runtime.text import one_line
from agent.values import Image, Samples, Tensor

START_TIMEOUT_S = 60.0
"""A large model from a slow card takes its time to load."""

_SLICE_S = 0.25
"""How often a wait looks whether the daemon is to stop."""

_MAX_ERROR_CHARS = 500
_KEPT = 128
"""Inference times that a worker remembers."""

T = TypeVar("T")
_PROCESSES = threading.Lock()
"""Held to start a process or ask for its end: multiprocessing looks at all its children when it starts one, and whoever
asks second is told another exit code."""

Ending = Literal["crashed", "killed", "hung", "stopped"]
"""By itself; from outside, as when the device is out of memory; at its deadline; with the daemon."""


_decode_ready = msgspec.msgpack.Decoder(Ready).decode
_decode_any_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_sample = msgspec.msgpack.Decoder(GoldenSample).decode
_decode_error = msgspec.msgpack.Decoder(str).decode


def _decode_answer(data: bytes) -> Answer:
    """Raises as msgspec does, also for numbers that no decoder gives: rules, pictures and messages are made of them."""
    answer = _decode_any_answer(data)
    times_ms, anomaly = (answer.preprocess_ms, answer.infer_ms, answer.decode_ms), answer.found.anomaly
    usual = anomaly is UNSET or (anomaly.score >= 0.0 and anomaly.threshold > 0.0)
    founds = [answer.found, *([answer.evidence.found] if answer.evidence else [])]
    if not (usual and all(map(is_finite, founds)) and all(0.0 <= one_ms < math.inf for one_ms in times_ms)):
        raise msgspec.ValidationError("numbers that no decoder gives")
    return answer


def warm_up() -> ForkServerContext:
    """Start the server that workers are forked from; it imports while the caller does other things."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads made before a fork are missing after it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agent.inference.serve"])
    resource_tracker.ensure_running()  # now, as it lets signals through when it has started
    # The server is born with Ctrl-C held back: it is ours to answer, and would end the server's imports in a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
    """One worker process. All is for one thread, except that `kill` and `close` may come from another."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None,
        delegate: Delegate | None,
        timeout_s: float,
        stop: threading.Event,
        sha256: str | None = None,
        limits: WorkerLimits | None = None,
    ) -> None:
        """
        Args:
            folder: the bundle's.
            threads: of the interpreter; None: as the manifest says.
            delegate: the accelerator; None: the CPU.
            timeout_s: for one frame.
            stop: once set, every wait ends early.
            sha256: of the bundle's archive; other files than those are not loaded. None: whatever is there.
            limits: how the process is held; None: as the manifest says.
        """
        self.folder, self._threads, self._delegate = folder, threads, delegate
        self._timeout_s, self._stop = timeout_s, stop
        self.sha256, self._limits = sha256, limits or WorkerLimits()
        self._process: ForkServerProcess | None = None
        self.info: BundleInfo
        """Which model it runs; there from `start` on."""
        self.reference: Reference | None = None
        """What the model said of the data it was measured on, as its manifest tells."""
        self._bare_bytes = 0
        self.loss: str | None = None
        """How the process was lost, once it was."""
        self.ending: Ending | None = None
        """The same as one word."""
        self.recent_ms: deque[float] = deque(maxlen=_KEPT)
        """Inference times of the last frames, oldest first."""
        self._memory_fd = -1
        self._memory: mmap.mmap | None = None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> BundleInfo:
        """Start the process and load the bundle in it, all within `timeout_s`.

        Raises:
            ModelError: the bundle can't be used.
            WorkerLost: the process died or did not get ready in time.
        """
        context = warm_up()
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)  # it is polled first, with a deadline
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._memory_fd = os.memfd_create("edge-agent-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A process whose memory a model has overwritten could shrink it, and our next frame would end in SIGBUS.
        fcntl.fcntl(self._memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        process = context.Process(
            target=_serve,
            args=(
                _Fd(far_end.fileno()),
                _Fd(self._memory_fd),
                self.folder,
                self._threads,
                self._delegate,
                self.sha256,
                self._limits,
            ),
            daemon=True,
        )
        try:
            with _PROCESSES:
                process.start()
        except (OSError, EOFError) as exc:  # the server was killed; the next try starts another
            self._socket.close()
            os.close(self._memory_fd)
            raise WorkerLost(f"no process for the model: {str(exc).lower()}") from exc
        finally:
            far_end.close()
        self._process = process
        try:
            ready = self._receive(timeout_s, _decode_ready)
            self.info, self._bare_bytes, self.reference = ready.info, ready.bare_bytes, ready.reference
            return self.info
        except ModelError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process is not None

    @property
    def ready(self) -> bool:
        """It has loaded its bundle."""
        return hasattr(self, "info")

    @property
    def pid(self) -> int | None:
        """Of the worker process, for telemetry."""
        return self._process.pid if self._process else None

    def run(self, data: Image | Samples, min_confidence: float, *, evidence: bool = False) -> Answer:
        """Have one frame looked at: `submit` and `receive`."""
        self.submit(data, min_confidence, evidence=evidence)
        return self.receive()

    def submit(self, data: Image | Samples, min_confidence: float, *, evidence: bool = False) -> None:
        """Hand over a picture (uint8, H x W or H x W x C) or samples (float32, T x channels); they are copied.
        `receive` has to follow before the next. With `evidence` the answer tells how sure the model is.

        Raises:
            WorkerLost: the process has crashed.
        """
        self._need_process()
        np.copyto(self._room_for(data), data)
        depth = data.shape[2] if data.ndim == 3 else 0
        dtype = b"u" if data.dtype == np.uint8 else b"f"
        self._send(REQUEST.pack(dtype, data.shape[0], data.shape[1], depth, min_confidence, evidence))

    def receive(self) -> Answer:
        """Wait for the answer to the picture that was handed over.

        Raises:
            ModelError: the model failed on this picture; the worker lives on.
            WorkerLost: the process crashed, or missed its deadline and was killed.
        """
        answer = self._receive(self._timeout_s, _decode_answer)
        self.recent_ms.append(answer.infer_ms)
        return answer

    def try_golden(self, index: int) -> GoldenSample:
        """Have a golden sample of the bundle looked at, from 0 to its `count`.

        Raises:
            ModelError: there are none, their files can't be used, or the model failed; the worker lives on.
            WorkerLost: the process crashed, or missed its deadline and was killed.
        """
        self._send(GOLDEN_REQUEST.pack(index))
        return self._receive(self._timeout_s, _decode_sample)

    def run_golden(self, timeout_s: float) -> GoldenReport:
        """All golden samples.

        Raises:
            ModelError, WorkerLost: as `try_golden`; WorkerLost also when all together take longer than `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        samples = [self.try_golden(0)]
        while len(samples) < samples[0].count:
            if time.monotonic() > deadline_s:
                raise self._lost(f"did not get through its golden samples within {timeout_s:g} s", "hung")
            samples.append(self.try_golden(len(samples)))
        return report_on(samples)

    def peak_memory_bytes(self) -> int:
        """The most that the model ever took: what the process had resident at most, less what it had before it read
        the model; 0 once the process has ended."""
        try:
            return max(0, process_memory_bytes("VmHWM", self.pid) - self._bare_bytes) if self.pid else 0
        except OSError:
            return 0

    def _room_for(self, data: Image | Samples) -> Tensor:
        if self._memory is None or len(self._memory) < data.nbytes:
            os.ftruncate(self._memory_fd, data.nbytes)
            self._memory = mmap.mmap(self._memory_fd, data.nbytes)
        return np.frombuffer(self._memory, data.dtype, data.size).reshape(data.shape)

    def _need_process(self) -> None:
        if self._process is None:
            raise WorkerLost(self.loss or "the model's process is closed")

    def _send(self, request: bytes) -> None:
        self._need_process()
        try:
            self._socket.send(request)
        except OSError as exc:
            raise self._lost("crashed", "crashed") from exc

    def _receive(self, timeout_s: float, decode: Callable[[bytes], T]) -> T:
        """What the next message says; raises the error that it carries."""
        deadline_s = time.monotonic() + timeout_s
        while not self._poll.poll(min(_SLICE_S, timeout_s) * 1000):
            if self._stop.is_set():
                raise self._lost("was stopped", "stopped")
            if time.monotonic() >= deadline_s:
                raise self._lost(f"gave no answer within {timeout_s:g} s", "hung")
        try:
            message = self._socket.recv(MAX_ANSWER_BYTES)
        except OSError as exc:
            raise self._lost("crashed", "crashed") from exc
        if not message:
            raise self._lost("crashed", "crashed")
        try:
            if message[:1] != ERROR:
                return decode(message[1:])
            text = _decode_error(message[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:  # the model has written over the process's memory
            raise self._lost("gave an answer that makes no sense", "crashed") from exc
        raise ModelError(one_line(text, _MAX_ERROR_CHARS) or "the model failed")

    def _lost(self, what: str, ending: Ending) -> WorkerLost:
        """End what is left of the process and say how it ended."""
        process = self._process
        with _PROCESSES:
            if process is not None and what == "crashed":
                process.join(1.0)
            code = process.exitcode if process else None
        self.close()
        if what == "crashed" and code is not None:
            what = f"crashed with {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            ending = "killed" if -code in (signal.SIGKILL, signal.SIGTERM) else ending
        self.loss, self.ending = f"the model's process {what}", ending
        return WorkerLost(self.loss)

    def kill(self) -> None:
        """End the process; whoever waits for its answer gets WorkerLost. `close` has to follow."""
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError, ValueError):
                process.kill()

    def close(self) -> None:
        """Kill the process; a model has nothing to save. Safe to call twice, and before `start`."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            process.kill()
        self._socket.close()
        with _PROCESSES:
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
