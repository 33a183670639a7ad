"""A disk that refuses, or a process that ends, at the n-th change of a file system: no part of the agent is replaced.

CPython announces each open for writing, rename, deletion and new folder to audit hooks (PEP 578); a hook that raises
keeps it from happening. A hook can't be taken away again, so there is one, and it does nothing while nobody asks it to.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killed(BaseException):
    """The process is gone: whatever still runs of it can't change anything any more."""


class Trouble:
    """What happens at which change; for the thread that made it."""

    def __init__(self, at: int, error: BaseException, *, lasting: bool) -> None:
        """Args: the first change that does not happen, from 1; what is raised instead; whether also from then on."""
        self._at, self._error, self._lasting = at, error, lasting
        self._thread = threading.get_ident()
        self.changes = 0
        """Asked for so far."""

    @property
    def happened(self) -> bool:
        return self.changes >= self._at

    def change(self) -> None:
        """One is about to happen."""
        if threading.get_ident() == self._thread:
            self.changes += 1
            if self.changes == self._at or (self._lasting and self.happened):
                raise self._error


_current: list[Trouble] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _current and (event in _CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & _WRITES)):
        _current[-1].change()


sys.addaudithook(_hook)


@contextlib.contextmanager
def trouble(at: int, error: BaseException, *, lasting: bool = False) -> Iterator[Trouble]:
    """While it lasts, this thread's `at`-th change raises `error` instead; `lasting`: all after it too."""
    _current.append(Trouble(at, error, lasting=lasting))
    try:
        yield _current[-1]
    finally:
        _current.pop()


@contextlib.contextmanager
def killed_at(at: int) -> Iterator[Trouble]:
    """`kill -9` before the `at`-th change; comes back where the process would be gone."""
    with contextlib.suppress(Killed), trouble(at, Killed(), lasting=True) as going:
        yield going
