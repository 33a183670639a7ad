"""What all targets of the fuzzers share."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.wire.topics import Topics

TOPICS = Topics("edge", "cam-1")
MAX_LINE_CHARS = 1_000
"""Of an error: it goes into a log line, a status or an answer."""


@dataclass(frozen=True)
class Target:
    """A reader, what it may raise, and bytes to begin with."""

    body: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]


def check_line(error: str) -> None:
    """An error is one line for people."""
    assert error
    assert not {"\n", "\r"} & set(error), error[:200]
    assert len(error) <= MAX_LINE_CHARS, error[:200]


@functools.cache
def scratch() -> Path:
    """A folder for this process, in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(prefix="edge-fuzz-", dir=memory if memory.is_dir() else None)
    scratch.folder = folder  # type: ignore[attr-defined] # taken away with the process
    return Path(folder.name)


def written(name: str, data: bytes) -> Path:
    """A file of the scratch folder with these bytes."""
    path = scratch() / name
    path.write_bytes(data)
    return path
