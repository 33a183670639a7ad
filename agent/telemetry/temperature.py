"""Temperatures: the kernel's thermal zones, and the processor's own sensors in a PC."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from msgspec import UNSET, UnsetType

from agent.telemetry import kernel

MAX_ZONES = 16

_CPU_WORDS = ("cpu", "soc", "x86_pkg")
"""In names of thermal zones: Raspberry Pi `cpu-thermal`, Jetson `CPU-therm` or `cpu-thermal`, others."""

_CPU_CHIPS = ("coretemp", "k10temp", "zenpower")
"""Monitors in processors of PCs; AMD's have no thermal zone."""

_LEFT_OUT = "pmic"
"""`PMIC-Die` of a Jetson is always 100 degrees."""


def thermal_zones(sys: Path) -> dict[str, float]:
    """Degrees of each zone that is awake, by its name; of several with one name the hottest."""
    zones: dict[str, float] = {}
    for folder in kernel.entries(sys / "class/thermal", "thermal_zone"):
        name, value = kernel.name(folder / "type"), _degrees(folder / "temp")
        if name and value is not None and _LEFT_OUT not in name.lower():
            zones[name] = max(value, zones.get(name, value))
    return zones


def shown(zones: dict[str, float]) -> dict[str, float] | UnsetType:
    return dict(islice(zones.items(), MAX_ZONES)) or UNSET


def processor(zones: dict[str, float], chips: Iterable[tuple[str, Path]]) -> float | UnsetType:
    """The processor's hottest sensor, or the hottest zone when none is named after it."""
    ours = [value for name, value in zones.items() if any(word in name.lower() for word in _CPU_WORDS)]
    if not ours:
        sensors = (_degrees(folder / "temp1_input") for name, folder in chips if name in _CPU_CHIPS)
        ours = [value for value in sensors if value is not None] or list(zones.values())
    return max(ours, default=UNSET)


def graphics(zones: dict[str, float]) -> float | UnsetType:
    return max((value for name, value in zones.items() if "gpu" in name.lower()), default=UNSET)


def _degrees(path: Path) -> float | None:
    value = kernel.read_integer(path)
    if value is None or not -60_000 < value < 200_000:  # some report -256 degrees while they sleep
        return None
    return value / 1000
