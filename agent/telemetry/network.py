"""Network interfaces: what went through them, and how well the wireless ones hear.

/proc/net/wireless wants the kernel's wireless extensions (proc(5)), which Raspberry Pi OS, Debian and JetPack have; the
newer way, a netlink socket, is closed to the service by its sandbox.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import UNSET, UnsetType

from agent.telemetry import kernel
from agent.wire.host import InterfaceTelemetry, WifiTelemetry

MAX_INTERFACES = 8

_LEFT_OUT = re.compile(r"lo|veth.*")
"""The loopback, and the ends of containers, which come and go by the dozen."""

_DBM_QUALITY_MAX = 70
"""Of link quality where the signal is in dBm, 100 elsewhere (net/wireless/wext-compat.c)."""


def interfaces(proc: Path, sys: Path) -> dict[str, InterfaceTelemetry] | UnsetType:
    """Those with hardware first; others, such as tunnels, unless they are down."""
    found: list[tuple[bool, str, InterfaceTelemetry]] = []
    for name, words in _table(proc / "net/dev"):
        counters = [kernel.integer(word) or 0 for word in words]
        folder = sys / "class/net" / name
        state, virtual = kernel.read(folder / "operstate"), not (folder / "device").exists()
        if len(counters) >= 16 and not (virtual and state == "down"):
            interface = InterfaceTelemetry(
                rx_bytes=counters[0],
                tx_bytes=counters[8],
                rx_errors=counters[2],
                tx_errors=counters[10],
                up=UNSET if state in {"", "unknown"} else state == "up",
            )
            found.append((virtual, name, interface))
    found.sort(key=lambda one: one[:2])
    return {name: interface for _, name, interface in found[:MAX_INTERFACES]} or UNSET


def wifi(proc: Path) -> dict[str, WifiTelemetry] | UnsetType:
    """The interfaces that are connected."""
    found: dict[str, WifiTelemetry] = {}
    for name, words in _table(proc / "net/wireless"):
        values = [kernel.integer(word.rstrip(".")) for word in words[1:3]]
        if len(values) < 2 or values[0] is None or values[1] is None or values[0] <= 0:
            continue
        quality, level = values[0], values[1]
        in_dbm = level < 0
        percent = 100 * quality / (_DBM_QUALITY_MAX if in_dbm else 100)
        if len(found) < MAX_INTERFACES:
            found[name] = WifiTelemetry(
                quality_percent=round(min(percent, 100.0), 1), signal_dbm=float(level) if in_dbm else UNSET
            )
    return found or UNSET


def _table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines `name: words` after two of headings."""
    for line in kernel.read(path).splitlines()[2:]:
        name, colon, rest = line.partition(":")
        name = name.strip()
        if colon and not _LEFT_OUT.fullmatch(name):
            yield name, rest.split()
