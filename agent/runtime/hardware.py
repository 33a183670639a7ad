"""What this computer is called, for releases that are only for some hardware."""

import platform
from collections.abc import Sequence
from pathlib import Path

COMPATIBLE = Path("/proc/device-tree/compatible")
"""The board's names, most exact first, each ended by a zero byte (Devicetree Specification, 2.3.1)."""

MAX_NAMES = 32
MAX_NAME_CHARS = 64
_MAX_BYTES = 4096


def hardware_names(extra: Sequence[str] = (), compatible: Path = COMPATIBLE) -> tuple[str, ...]:
    """The machine (aarch64), what the board says of itself (raspberrypi,5-model-b), and `extra`; each once.

    Never raises: what can't be read, or is no name, is left out. The first 32 are kept, `extra` always among them.
    """
    names = dict.fromkeys((*extra, platform.machine(), *_board(compatible)))
    return tuple(name for name in names if _is_name(name))[:MAX_NAMES]


def _board(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES)
    except OSError:  # a PC has no device tree
        return []
    whole, _, _ = text.rpartition(b"\0")  # what the bound cut off, or nobody ended, is no name
    return whole.decode("ascii", "replace").split("\0")


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARS and name.isascii() and name.isprintable()
