"""Sensors that the kernel has drivers for: IIO, hwmon, thermal zones, 1-wire."""

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.capture.discover.found import Found, Search, as_configured, entries, printable, read

_MAX_CHANNELS = 64
_W1_INTERVAL_S = 10
_W1_READ_S = 2  # each takes 0.75 s to measure
_THOUSANDTHS = 0.001

_IIO_FILE = re.compile(r"^in_([a-z0-9_-]{1,48})_(input|raw)$")
_NO_NUMBER = ("quaternion", "timestamp")
"""IIO files with more than one number in them."""
_IIO_UNITS: Mapping[str, tuple[str, float]] = {
    "temp": ("temperature_c", _THOUSANDTHS),
    "humidityrelative": ("humidity_percent", _THOUSANDTHS),
    "pressure": ("pressure_kpa", 1.0),
    "illuminance": ("illuminance_lux", 1.0),
    "voltage": ("voltage_mv", 1.0),
    "current": ("current_ma", 1.0),
    "power": ("power_mw", 1.0),
    "accel": ("acceleration_m_s2", 1.0),
    "anglvel": ("angular_velocity_rad_s", 1.0),
    "magn": ("magnetic_field_gauss", 1.0),
}
"""What IIO measures: how we call it, and what brings it to that unit."""
_HWMON_UNITS = {"temp": "temperature_c", "humidity": "humidity_percent"}
_FIXED = "pmic"
"""A zone of the Jetson that always says 100 degrees."""
_AGAIN = "w1_slave_temp"
"""1-wire thermometers come as hwmon too."""


def find_sensors(root: Path) -> Search:
    """A source for each chip; one for all thermal zones, and one for all thermometers on 1-wire."""
    root = root.resolve()
    zones, channels = _thermal_zones(root)
    found = [*_iio(root), *_hwmon(root, {name.replace("-", "_") for name in zones}), *_one_wire(root)]
    if zones:
        found.append(_source(f"thermal zones of this computer, {', '.join(zones[:4])}", channels))
    nothing = (
        "no driver has found one; on a Raspberry Pi, `dtparam=i2c_arm=on` and `dtoverlay=i2c-sensor,bmp280` (or another"
        " chip) in /boot/firmware/config.txt, and `dtoverlay=w1-gpio` for 1-wire"
    )
    return Search("sensor", tuple(found), nothing)


def _source(name: str, channels: Mapping[str, Mapping[str, Any]], **more: Any) -> Found:
    return Found(name, {"type": "sysfs", "channels": dict(channels), **more})


def _iio(root: Path) -> list[Found]:
    found = []
    for folder in entries(root / "sys/bus/iio/devices", "iio:device*"):
        channels: dict[str, dict[str, Any]] = {}
        for path in entries(folder, "in_*_*"):  # `_input` comes before `_raw`, and is what the driver has worked out
            match = _IIO_FILE.match(path.name)
            if match and not any(word in match[1] for word in _NO_NUMBER) and len(channels) < _MAX_CHANNELS:
                name, scale = _iio_name(match[1])
                channels.setdefault(name, _channel(_lasting_path(folder, "iio:device*", root) / path.name, root, scale))
        if channels:
            found.append(_source(f"{_name(folder)} on IIO", channels))
    return found


def _iio_name(text: str) -> tuple[str, float]:
    """`accel_x` -> acceleration_m_s2_x, `voltage0` -> voltage_mv_0, with the factor that makes it so."""
    match = re.match(r"([a-z]+)[_-]?(.*)$", text)
    kind, which = (match[1], match[2]) if match else (text, "")
    name, scale = _IIO_UNITS.get(kind, (kind, 1.0))
    return (f"{name}_{_word(which)}" if which else name), scale


def _hwmon(root: Path, zones: set[str]) -> list[Found]:
    """Chips that measure temperature or humidity, without those that are a thermal zone as well."""
    found = []
    for folder in entries(root / "sys/class/hwmon", "hwmon*"):
        channels: dict[str, dict[str, Any]] = {}
        for path in entries(folder, "*_input")[:_MAX_CHANNELS]:
            match = re.match(r"(temp|humidity)([0-9]{1,3})_input$", path.name)
            if match:
                label = _word(read(folder / f"{match[1]}{match[2]}_label")) or match[2]
                name = _HWMON_UNITS[match[1]] + ("" if label == "1" else f"_{label}")
                name = name if name not in channels else f"{name}_{match[2]}"
                file = _lasting_path(folder, "hwmon*", root) / path.name
                channels[name] = _channel(file, root, _THOUSANDTHS)
        if channels and read(folder / "name") not in {*zones, _AGAIN}:
            found.append(_source(f"{_name(folder)} on hwmon", channels))
    return found


def _thermal_zones(root: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Names of the zones, each once, and a channel for each zone."""
    names: dict[str, None] = {}
    channels: dict[str, dict[str, Any]] = {}
    for folder in entries(root / "sys/class/thermal", "thermal_zone*")[:_MAX_CHANNELS]:
        name = printable(read(folder / "type"))
        if name and _FIXED not in name.lower() and os.access(folder / "temp", os.F_OK):
            names[name] = None
            channel = f"temperature_c_{_word(name)}"
            channel = channel if channel not in channels else f"{channel}_{folder.name.removeprefix('thermal_zone')}"
            channels[channel] = _channel(folder / "temp", root, _THOUSANDTHS)
    return list(names), channels


def _one_wire(root: Path) -> list[Found]:
    folders = [
        folder for folder in entries(root / "sys/bus/w1/devices", "*-*") if os.access(folder / "w1_slave", os.F_OK)
    ]
    if not folders:
        return []
    channels = {}
    for folder in folders[:_MAX_CHANNELS]:
        name = "temperature_c" if len(folders) == 1 else f"temperature_c_{_word(folder.name)}"
        channels[name] = _channel(folder / "w1_slave", root, _THOUSANDTHS)
    slow = {"read_timeout_s": _W1_READ_S * len(channels)} if len(channels) > 2 else {}
    interval_s = max(_W1_INTERVAL_S, _W1_READ_S * len(channels))
    some = f"{len(channels)} thermometers" if len(channels) > 1 else f"thermometer {printable(folders[0].name)}"
    return [_source(f"{some} on 1-wire", channels, interval_s=interval_s, **slow)]


def _channel(path: Path, root: Path, scale: float) -> dict[str, Any]:
    text = as_configured(path, root)
    return {"path": text} if scale == 1.0 else {"path": text, "scale": scale}


def _lasting_path(folder: Path, pattern: str, root: Path) -> Path:
    """The folder by the place of its chip, since numbers change from start to start: .../1-0076/iio:device*.

    As it is when its chip has several, or lies outside the root.
    """
    real = Path(os.path.realpath(folder))
    try:
        among = real.parent.relative_to(root)
    except ValueError:
        return folder
    star = root / glob.escape(str(among)) / pattern
    return star if glob.glob(str(star.relative_to(root)), root_dir=root) == [str(among / real.name)] else folder


def _name(folder: Path) -> str:
    return printable(read(folder / "name")) or folder.name


def _word(text: str) -> str:
    """A label as part of a channel's name: `Package id 0` -> package_id_0."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:32]
