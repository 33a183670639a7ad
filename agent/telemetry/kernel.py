"""Small files of /proc and /sys, read with a bound. What is not there, or can't be read now, is nothing."""

from pathlib import Path

MAX_BYTES = 32 << 10
"""More of a file is not read: a hundred network interfaces fit."""

MAX_ENTRIES = 64
"""More of a folder is not looked at."""

_MAX_NAME_CHARS = 80
"""A Jetson calls itself `NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super`."""


def read(path: Path) -> str:
    """The text of a file without white space and zero bytes around it, or nothing."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("ascii", "replace").strip("\0 \n\t")
    except OSError:
        return ""


def read_integer(path: Path) -> int | None:
    return integer(read(path))


def integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def name(path: Path) -> str:
    """What a file says that something is called: printable ASCII, at most 80 characters, or nothing."""
    text = read(path)[:_MAX_NAME_CHARS]
    return text if text.isascii() and text.isprintable() else ""


def entries(folder: Path, prefix: str = "") -> list[Path]:
    """What is in a folder under names that begin so, in their order."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.name.startswith(prefix))[:MAX_ENTRIES]
    except OSError:
        return []


def chips(sys: Path) -> list[tuple[str, Path]]:
    """The hardware monitors, by their drivers' names: (`rpi_volt`, /sys/class/hwmon/hwmon1)."""
    return [(name(folder / "name"), folder) for folder in entries(sys / "class/hwmon", "hwmon")]
