"""What only a Jetson tells: how busy its GPU is, and what its rails take. Nothing here wants more than sysfs."""

from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET, UnsetType

from agent.telemetry import kernel

MAX_RAILS = 16

_GPU_NODES = ("gpu", "gp10b", "gv11b", "ga10b")
"""Names of the GPU in the device tree: Nano, TX2, Xavier, Orin."""

_CHANNELS = (1, 2, 3)
"""Of an INA3221; more inputs of its driver are sums."""


def gpu_percent(sys: Path) -> float | UnsetType:
    """Load of the GPU at this moment; the kernel gives per mille."""
    for folder in kernel.entries(sys / "class/devfreq"):
        if kernel.name(folder / "device/of_node/name") in _GPU_NODES:
            load = kernel.read_integer(folder / "device/load")
            if load is not None and 0 <= load <= 1000:
                return load / 10
    return UNSET


def power_w(chips: Iterable[tuple[str, Path]]) -> dict[str, float] | UnsetType:
    """Watts of each rail that a power monitor watches, by its label. A channel that is called NC leads nowhere."""
    rails: dict[str, float] = {}
    for chip, folder in chips:
        for channel in _CHANNELS if chip == "ina3221" else ():
            label = kernel.name(folder / f"in{channel}_label")
            millivolts = kernel.read_integer(folder / f"in{channel}_input")
            milliamperes = kernel.read_integer(folder / f"curr{channel}_input")
            if label in {"", "NC"} or millivolts is None or milliamperes is None or len(rails) >= MAX_RAILS:
                continue
            rails[label] = round(millivolts * milliamperes / 1e6, 3)
    return rails or UNSET
