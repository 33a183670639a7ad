"""A program that gives its data on standard output: a camera tool, `arecord`, a user's script.

It runs in a process group of its own, led by a guard: a shell that waits for the daemon's end, however that comes, and
then kills the group. (PR_SET_PDEATHSIG is no substitute: it strikes when the *thread* that started the program ends,
and spares what the program has started in its turn.) As long as the guard is not waited for, the group's number can be
nobody else's, so that what a program has left behind can be killed as well.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypeAlias

import structlog

from agent.capture.chatter import Chatter
from agent.errors import SourceError

TERM_S = 1.0
"""How long a program may take to end when asked to; then it is killed. With the next two under `reader.GRACE_S`."""
_KILL_S = 0.5
_LAST_WORDS_S = 0.4  # from the end of the output to the end of the program

MAX_LEFT_BEHIND = 3
"""With so many killed programs that still hang in the kernel, no further one is started."""

_SLICE_S = 0.1  # how often a wait looks whether it was interrupted
_CHATTER_BYTES = 1 << 13  # a flood of lines must not keep the output waiting
_GUARD = "trap '' HUP INT TERM; read -r _; kill -KILL 0"
_PACKAGES = {
    "arecord": "alsa-utils",
    "ffmpeg": "ffmpeg",
    "gphoto2": "gphoto2",
    "gst-launch-1.0": "gstreamer1.0-tools",
    "rpicam-vid": "rpicam-apps",
}

_Process: TypeAlias = "subprocess.Popen[bytes]"

log = structlog.get_logger()

_left_behind: list[_Process] = []
_left_behind_lock = threading.Lock()


class Child:
    """One run of a program. Building it starts nothing; make a new one for the next run.

    All but `interrupt` belongs to one thread. What the program says on standard error goes to the log, within bounds,
    while `read` waits; its standard input is empty.
    """

    def __init__(self, command: Sequence[str], name: str, pipe_bytes: int = 1 << 16) -> None:
        """
        Args:
            command: the program and its arguments; no shell looks at them.
            name: how messages call it.
            pipe_bytes: how much it may write ahead before it has to wait; the system may give less.
        """
        self.name = name
        self._command = list(command)
        self._pipe_bytes = pipe_bytes
        self._process: _Process | None = None
        self._guard: _Process | None = None
        self._chatter = Chatter(name)
        self._poll = select.poll()
        self._interrupted = False

    def open(self) -> None:
        """Start the program.

        Raises:
            SourceError: it is not installed (it may be later), or can't be started.
        """
        program = self._command[0]
        if shutil.which(program) is None:
            raise SourceError(f"{self.name}: {program}: {_why_not_there(program)}")
        if _count_left_behind() >= MAX_LEFT_BEHIND:
            raise SourceError(f"{self.name}: {MAX_LEFT_BEHIND} killed programs hang in the kernel; restart the device")
        try:
            self._start()
        except OSError as exc:
            self.close()
            raise SourceError(f"{self.name}: {program} can't be started: {exc.strerror or exc}") from exc

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Wait for output; gives what there is, at least one byte and at most `max_bytes`.

        Raises:
            SourceError: nothing came for `timeout_s`, the program has ended, or it was interrupted.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            process = self._process
            if process is None or self._interrupted:
                raise SourceError(f"{self.name}: closed")
            if _fd(process.stdout) < 0:
                raise self._end_of(process)  # once more
            left_s = deadline_s - time.monotonic()
            if self._has_output(process, min(_SLICE_S, left_s)):
                data = os.read(_fd(process.stdout), max_bytes)
                if data:
                    return data
                raise self._end_of(process)
            # It may be gone while what it has started keeps its output open.
            if process.poll() is not None and not self._has_output(process, 0.0):
                raise self._end_of(process)
            if left_s <= 0.0:
                raise SourceError(f"{self.name}: no data for {timeout_s:.1f} s{self._chatter.quote()}")

    def interrupt(self) -> None:
        """Have `read` come back soon with SourceError, now and from now on. From any thread, at any time."""
        self._interrupted = True

    def close(self) -> None:
        """End the program and all that it has started, in 1.5 s at most. Again, or without an open, it does nothing."""
        self._interrupted = True
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is not None and guard is not None:
            self._ask_to_end(process, guard)
        if guard is not None:
            _signal_group(guard, signal.SIGKILL)  # the guard too, and what a program that has ended left behind
        for killed in (process, guard):
            if killed is not None:
                _collect(killed, self.name)

    def _start(self) -> None:
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, f"edge-agent guard of {Path(self._command[0]).name}"],
            stdin=subprocess.PIPE,  # the other end is ours alone, and closes when we die
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        self._process = subprocess.Popen(
            self._command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=self._guard.pid,
        )
        with contextlib.suppress(OSError):  # more than the system allows: it stays as it is
            fcntl.fcntl(_fd(self._process.stdout), fcntl.F_SETPIPE_SZ, self._pipe_bytes)
        self._poll.register(_fd(self._process.stdout), select.POLLIN)
        self._poll.register(_fd(self._process.stderr), select.POLLIN)

    def _has_output(self, process: _Process, timeout_s: float) -> bool:
        """Wait for output, or its end, or for something on standard error, which is dealt with here."""
        ready = [fd for fd, _ in self._poll.poll(max(0.0, timeout_s) * 1000)]
        if _fd(process.stderr) in ready:
            self._listen(process)
        return _fd(process.stdout) in ready

    def _listen(self, process: _Process) -> None:
        data = os.read(_fd(process.stderr), _CHATTER_BYTES)
        if data:
            self._chatter.feed(data)
        else:
            self._poll.unregister(_fd(process.stderr))

    def _wait_for_end(self, process: _Process, timeout_s: float) -> None:
        """Wait for the program to end, and hear its last words; its output is of no interest any more."""
        deadline_s = time.monotonic() + timeout_s
        if process.stdout is not None and not process.stdout.closed:
            self._poll.unregister(_fd(process.stdout))
            process.stdout.close()
        while time.monotonic() < deadline_s:
            ended = process.poll() is not None
            if self._poll.poll(0 if ended else 10):
                self._listen(process)
            elif ended:
                return

    def _end_of(self, process: _Process) -> SourceError:
        """How it came that there is no more output."""
        self._wait_for_end(process, _LAST_WORDS_S)
        code = process.poll()
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)}"
        else:
            how = f"ended with exit status {code}"
        return SourceError(f"{self.name}: {Path(self._command[0]).name} {how}{self._chatter.quote()}")

    def _ask_to_end(self, process: _Process, guard: _Process) -> None:
        if process.poll() is not None:
            return
        self._chatter.mute()  # it will say that it was ended
        _signal_group(guard, signal.SIGTERM)
        _signal_group(guard, signal.SIGCONT)  # a stopped one hears nothing
        self._wait_for_end(process, TERM_S)  # closes its output: one that waits for room in the pipe may hear nothing


def _why_not_there(program: str) -> str:
    if Path(program).exists():
        return "is not a program that may be run; `chmod +x`, and no mount option noexec"
    package = _PACKAGES.get(Path(program).name)
    return "not installed; " + (f"`apt install {package}`" if package else "install it, or give its whole path")


def _fd(pipe: IO[bytes] | None) -> int:
    return -1 if pipe is None or pipe.closed else pipe.fileno()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # the real-time ones have no names


def _signal_group(guard: _Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody there, or nobody of ours
        os.killpg(guard.pid, number)


def _collect(killed: _Process, name: str) -> None:
    """Wait for the end of a killed process, so that it is no zombie, and give its descriptors back."""
    try:
        killed.wait(_KILL_S)
    except subprocess.TimeoutExpired:  # a driver holds it
        with _left_behind_lock:
            _left_behind.append(killed)
        log.warning("capture.child_left_behind", source=name, pid=killed.pid)
    for pipe in (killed.stdin, killed.stdout, killed.stderr):
        if pipe is not None:
            pipe.close()


def _count_left_behind() -> int:
    with _left_behind_lock:
        _left_behind[:] = [process for process in _left_behind if process.poll() is None]
        return len(_left_behind)
