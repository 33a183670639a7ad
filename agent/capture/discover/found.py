"""What discovery hands out, and the small tools its parts share."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

MAX_TEXT_CHARS = 80
MAX_ENTRIES = 256
"""More of a folder is not looked at."""
_MAX_FILE_BYTES = 1 << 16

Kind = Literal["camera", "microphone", "sensor", "serial", "gpsd"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """One device, and the part of the configuration that uses it."""

    name: str
    """What it is, for people: `HD Pro Webcam C920 at /dev/video0`."""
    settings: Mapping[str, Any]
    """Keys and values of that part of the configuration."""
    section: Literal["source", "gps"] = "source"
    """Which part it is: the source of a pipeline, or the section gps."""
    details: tuple[str, ...] = ()
    """More about it, a line each."""
    problem: str | None = None
    """Why it can't be used yet, with the mend."""


@dataclass(frozen=True, slots=True)
class Search:
    """What the search for one kind of device came to."""

    kind: Kind
    found: tuple[Found, ...] = field(default=())
    nothing: str = ""
    """When nothing was found: why that may be, and the mend."""


def read(path: Path) -> str:
    """The text of a small file of /proc or /sys, without white space around it; nothing when it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace").strip("\0 \t\n")
    except (OSError, ValueError):
        return ""


def printable(text: str) -> str:
    """A name that a device gives itself, fit for a terminal: one line, nothing that steers it."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(clean.split())[:MAX_TEXT_CHARS]


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What is in a folder under such names, video2 before video10; without names that can't be printed."""
    try:
        return sorted((path for path in folder.glob(pattern) if path.name.isprintable()), key=_natural)[:MAX_ENTRIES]
    except OSError:
        return []


def as_configured(path: Path, root: Path) -> str:
    """The path as it stands in the configuration: without the folder that stands for / here."""
    return f"/{path.relative_to(root)}"


def access_problem(path: Path, root: Path, group: str) -> str | None:
    """Why this device file can't be used: it is not there, or this user may not."""
    if not os.access(path, os.F_OK):
        return f"{as_configured(path, root)} is not there; in a container, hand it in with `--device`"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"no permission; add the user that runs the agent to the group {group}"
    return None


def all_in_time(tasks: Sequence[Callable[[], T]], timeout_s: float) -> list[T | None]:
    """Do all side by side; None for each that is not done in time: its thread stays behind in the driver that hangs."""
    results: list[T | None] = [None] * len(tasks)

    def do(number: int) -> None:
        results[number] = tasks[number]()

    threads = [threading.Thread(target=do, args=(i,), name="discover", daemon=True) for i in range(len(tasks))]
    deadline_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return list(results)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", path.name)]
