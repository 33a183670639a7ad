"""What telemetry says of the computer, and where it is. What can't be read there is absent: absent is not zero."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class InterfaceTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface; the kernel's counters, from when it was made."""

    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    up: bool | UnsetType = UNSET
    """Whether it can carry anything now; absent where the driver does not know, as with tunnels."""


class WifiTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """How well one interface hears its access point."""

    quality_percent: float
    signal_dbm: float | UnsetType = UNSET
    """-50 is good, -80 is bad; absent where the driver has no unit for it."""


class HostTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The computer. What can't be read on it is absent."""

    board: str | UnsetType = UNSET
    """What the board or the PC calls itself."""
    kernel: str | UnsetType = UNSET
    uptime_s: float | UnsetType = UNSET
    """Since the computer started; the daemon's own is one level higher."""
    cpu_percent: float | UnsetType = UNSET
    """Since the last telemetry; all cores together are 100."""
    load_average: float | UnsetType = UNSET
    """Tasks that run or want to, over the last minute."""
    memory_available_bytes: int | UnsetType = UNSET
    memory_total_bytes: int | UnsetType = UNSET
    swap_free_bytes: int | UnsetType = UNSET
    swap_total_bytes: int | UnsetType = UNSET
    disk_free_bytes: int | UnsetType = UNSET
    """On the file system of the outbox."""
    disk_total_bytes: int | UnsetType = UNSET
    temperature_c: float | UnsetType = UNSET
    """The hottest sensor of the processor; of all, where none is named after it."""
    temperatures_c: dict[str, float] | UnsetType = UNSET
    """The kernel's thermal zones by their names, at most 16; of several with one name the hottest."""
    gpu_percent: float | UnsetType = UNSET
    gpu_temperature_c: float | UnsetType = UNSET
    power_w: dict[str, float] | UnsetType = UNSET
    """What each rail of the board takes, by its name, at most 16."""
    throttled: bool | UnsetType = UNSET
    """The Raspberry Pi's firmware slows it down now: too hot, or its voltage too low."""
    throttled_since_boot: bool | UnsetType = UNSET
    """The same now or at any time since the computer started."""
    under_voltage: bool | UnsetType = UNSET
    """The Raspberry Pi's supply is too weak now."""
    under_voltage_since_boot: bool | UnsetType = UNSET
    throttled_flags: str | UnsetType = UNSET
    """What the firmware answered, such as 0x50005 (`vcgencmd get_throttled`)."""
    network: dict[str, InterfaceTelemetry] | UnsetType = UNSET
    """At most 8, those with hardware first; without the loopback and the ends of containers."""
    wifi: dict[str, WifiTelemetry] | UnsetType = UNSET
    """At most 8; only interfaces that are connected."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where the device is, from a satellite receiver that knows it now."""

    lat_deg: float
    """North is positive; WGS 84, as the longitude."""
    lon_deg: float
    """East is positive."""
    mode: Literal[2, 3]
    """3: the height is known too."""
    age_s: float
    """Of the fix, when the message was made; by the monotonic clock."""
    altitude_m: float | UnsetType = UNSET
    """Above mean sea level; only with mode 3."""
    error_m: float | UnsetType = UNSET
    """The receiver's estimate of how far off latitude and longitude may be."""
    speed_m_s: float | UnsetType = UNSET
    """Over ground."""
    track_deg: float | UnsetType = UNSET
    """Direction of travel, clockwise from true north; says nothing at rest."""
    satellites_used: int | UnsetType = UNSET
