"""The inside of a worker process: load one bundle, then answer frame after frame until the pipe closes."""

import contextlib
import ctypes
import math
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
from agent.decode.confidence import MAX_CANDIDATES
from agent.errors import ModelError
from agent.inference.bundle import Bundle, load_bundle
from agent.inference.golden import GoldenSet
from agent.inference.memory import process_memory_bytes
from agent.inference.protocol import (
    ANSWER,
    DTYPES,
    ERROR,
    GOLDEN_REQUEST,
    MAX_ANSWER_BYTES,
    READY,
    REQUEST,
    Answer,
    GoldenSample,
    Ready,
    WorkerLimits,
)
from agent.manifest import ClassifyDecoder, Manifest, load_manifest
from agent.values import Image, Samples, Tensor
from agent.wire.archive import ArchiveError, archive_digest

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
_MAX_OPEN_FILES = 128
"""Libraries of accelerators open a few dozen."""
_LEAST_BYTES = 16 << 20
"""Of memory: less would stop models of a few hundred kB."""
_HEADROOM_BYTES = 64 << 20
_MAX_ERROR_CHARS = 2000


def serve(
    far_end: "_InheritedFd",
    memory: "_InheritedFd",
    folder: Path,
    threads: int | None,
    delegate: Delegate | None,
    sha256: str | None,
    limits: WorkerLimits,
) -> None:
    """Body of the worker process; returns when the daemon closes the socket."""
    daemon = socket.socket(fileno=far_end.detach())
    shared = _SharedFrame(memory.detach())
    _give_up_privileges(limits.nice)
    try:
        if sha256 is not None:
            _check_digest(folder, sha256)
        manifest = load_manifest(folder / "manifest.yaml")
        if limits.all_classes:
            manifest = _with_all_classes(manifest)
        bare_bytes = process_memory_bytes("VmRSS")
        _limit_memory(limits.memory_bytes, manifest.limits.max_memory_bytes)
        with _without_greeting():
            bundle = load_bundle(folder, threads=threads, delegate=delegate, manifest=manifest)
    except (ModelError, MemoryError) as exc:
        daemon.send(_error(exc))
        return
    desk = _Desk(bundle, shared, folder, checks_outputs=limits.trial)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon has gone: so do we
        daemon.send(READY + msgspec.msgpack.encode(Ready(bundle.info, bare_bytes, manifest.reference)))
        while request := daemon.recv(REQUEST.size):
            daemon.send(desk.answer(request))


class _Desk:
    """Answers what the daemon asks."""

    def __init__(self, bundle: Bundle, shared: "_SharedFrame", folder: Path, *, checks_outputs: bool) -> None:
        self._bundle, self._shared, self._folder = bundle, shared, folder
        self._run = self._run_checked if checks_outputs else bundle.run
        self._golden: GoldenSet | None = None

    def answer(self, request: bytes) -> bytes:
        try:
            found = self._look(request) if len(request) == REQUEST.size else self._try_golden(request)
        except (ModelError, MemoryError) as exc:
            return _error(exc)
        answer = ANSWER + msgspec.msgpack.encode(found)
        if len(answer) > MAX_ANSWER_BYTES:
            text = f"the answer has {len(answer)} bytes; lower max_detections or raise min_confidence"
            return _error(ModelError(text))
        return answer

    def _look(self, request: bytes) -> Answer:
        dtype, first, second, third, min_confidence, evidence = REQUEST.unpack(request)
        shape = (first, second, third) if third else (first, second)
        return self._run(self._shared.view(shape, DTYPES[dtype]), min_confidence, evidence=evidence)

    def _try_golden(self, request: bytes) -> GoldenSample:
        (index,) = GOLDEN_REQUEST.unpack(request)
        if self._golden is None:
            manifest = self._bundle.manifest
            if manifest.golden is None:
                raise ModelError(f"{self._folder / 'manifest.yaml'}: names no golden samples")
            self._golden = GoldenSet(self._folder, manifest.golden)
        sample, agreement, answer = self._golden.try_one(index, self._run)
        return GoldenSample(sample.input, len(self._golden.samples), agreement, answer.infer_ms)

    def _run_checked(self, data: Image | Samples, min_confidence: float, *, evidence: bool = False) -> Answer:
        answer = self._bundle.run(data, min_confidence, evidence=evidence)
        interpreter = self._bundle.interpreter
        for info, view in zip(interpreter.outputs, interpreter.output_views(), strict=True):
            if view.size and view.dtype.kind == "f" and not np.isfinite(view).any():
                raise ModelError(f"the model's output {info.name} has no finite number")
        return answer


def _with_all_classes(manifest: Manifest) -> Manifest:
    decoder = manifest.decoder
    if isinstance(decoder, ClassifyDecoder):
        decoder = msgspec.structs.replace(decoder, top_k=MAX_CANDIDATES)
    return msgspec.structs.replace(manifest, decoder=decoder)


def _error(exc: Exception) -> bytes:
    text = str(exc) if isinstance(exc, ModelError) else "not enough memory for the model"
    return ERROR + msgspec.msgpack.encode(text[:_MAX_ERROR_CHARS])


def _check_digest(folder: Path, sha256: str) -> None:
    """Raises ModelError: the files are others than those that were verified, and must not be used."""
    try:
        found = archive_digest(folder)
    except ArchiveError as exc:
        raise ModelError(str(exc)) from exc
    except OSError as exc:
        raise ModelError(f"{folder}: {exc.strerror or exc}") from exc
    if found != sha256:
        raise ModelError(
            f"{folder}: the files of the bundle have changed: sha256 {found[:12]}..., expected {sha256[:12]}..."
        )


class _InheritedFd(Protocol):
    """A descriptor on its way into this process."""

    def detach(self) -> int:
        """The descriptor; it is ours from now on."""


class _SharedFrame:
    """The memory file, mapped again whenever the daemon has made it larger."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def view(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        size = math.prod(shape)
        if self._map is None or len(self._map) < size * np.dtype(dtype).itemsize:
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        return np.frombuffer(self._map, dtype, size).reshape(shape)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """LiteRT greets on stderr with each model, in the middle of the daemon's log, and has no switch for it; whatever
    else is written there meanwhile comes a moment later, if it is not more than a pipe holds."""
    held, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # full, it drops what comes: nobody waits
    stderr = os.dup(2)
    os.dup2(into, 2)
    os.close(into)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        with contextlib.suppress(OSError):  # nothing was said; or stderr is a file, which we may not write to
            lines = os.read(held, 1 << 16).splitlines(keepends=True)
            os.write(2, b"".join(line for line in lines if b"Created TensorFlow Lite XNNPACK delegate" not in line))
        os.close(held)
        os.close(stderr)


def _give_up_privileges(nice: int) -> None:
    """A model is code from outside: it dies with the daemon, dies first when memory is short, and writes no file.

    Pipes, sockets and devices can be written to, so that accelerators work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon decides when we end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_the_daemon()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(nice)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)


def _limit_memory(*limits_bytes: int | None) -> None:
    """Let the model have so much memory beyond what the process has now.

    Counted is what is private and writable, not libraries and devices. The headroom is for stacks of threads (8 MiB
    each) and heaps of theirs, which are counted whole and hardly used.
    """
    given = [limit for limit in limits_bytes if limit is not None]
    if given:
        limit = max(min(given), _LEAST_BYTES)
        _lower(resource.RLIMIT_DATA, process_memory_bytes("VmData") + limit + _HEADROOM_BYTES)


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(what, (limit, limit))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_the_daemon() -> None:
    """Our parent is the fork server; it ends when nobody holds the other end of its pipe, and we are handed one so that
    we could start processes too. Without it a model that hangs would keep the server and itself alive for ever."""
    alive_fd = getattr(multiprocessing.forkserver._forkserver, "_forkserver_alive_fd", None)  # noqa: SLF001 - see above
    if alive_fd is not None:
        os.close(alive_fd)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
