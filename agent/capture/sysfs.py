"""Sensors that the kernel reads: one small text file below /sys for each value. IIO, hwmon, thermal zones, 1-wire."""

import contextlib
import glob
import math
import re
from collections.abc import Iterator
from pathlib import Path

import structlog

from agent.capture.polled import Polled
from agent.capture.readings import BadReading, as_value, parse_number
from agent.config import SysfsChannel, SysfsSource
from agent.errors import SourceError

_MAX_FILE_BYTES = 4096
_W1_READING = re.compile(r"t=(-?[0-9]{1,7})\s*$")
_LAST_PART = re.compile(r"_[a-z0-9]+$")
_DIGITS = re.compile(r"[0-9]+$")

log = structlog.get_logger()


class SysfsSensor:
    """The files of one source. One that can't be read is a missing value, and is looked for anew the next time."""

    def __init__(self, spec: SysfsSource, root: Path = Path("/")) -> None:
        """`root`: the folder that paths begin in."""
        self.channels = tuple(spec.channels)
        self.name = f"sysfs {', '.join(self.channels)}"[:100]
        self._files = [_ValueFile(channel, root) for channel in spec.channels.values()]
        self._faults: dict[str, str] = {}

    def open(self) -> None:
        """Nothing stays open: a file that was kept open gives ENODEV for ever once its device has gone."""

    def measure(self) -> list[float]:
        values, faults = [], {}
        for name, file in zip(self.channels, self._files, strict=True):
            try:
                values.append(file.read())
            except BadReading as exc:
                values.append(math.nan)
                faults[name] = str(exc)
        if len(faults) == len(self._files):
            raise SourceError(f"{self.name}: {next(iter(faults.values()))}")
        self._tell(faults)
        return values

    def close(self) -> None:
        """Nothing is open."""

    def _tell(self, faults: dict[str, str]) -> None:
        """Log what is lost of the channels, and what is back, once each."""
        for name in self.channels:
            if name in faults and name not in self._faults:
                log.warning("capture.channel_lost", source=self.name, channel=name, reason=faults[name])
            if name in self._faults and name not in faults:
                log.info("capture.channel_recovered", source=self.name, channel=name)
        self._faults = faults


class _ValueFile:
    """One number, wherever its file is at the moment."""

    def __init__(self, channel: SysfsChannel, root: Path) -> None:
        self._channel, self._root = channel, root
        self._path: Path | None = None
        self._scale, self._offset = 1.0, 0.0

    def read(self) -> float:
        """Raises BadReading: there is no such file, or no number in it."""
        path, self._path = self._path or self._find(), None
        try:
            raw = parse_w1(read_text(path)) if path.name == "w1_slave" else number_in(path)
            value = as_value((raw + self._offset) * self._scale * self._channel.scale + self._channel.offset)
        except (BadReading, OSError) as exc:
            raise BadReading(f"{path}: {exc.strerror if isinstance(exc, OSError) else exc}") from exc
        self._path = path
        return value

    def _find(self) -> Path:
        pattern = self._channel.path
        fitting = glob.glob(pattern.lstrip("/"), root_dir=self._root)
        if len(fitting) != 1:
            found = f"{len(fitting)} files fit, expected one" if fitting else "no such file"
            raise BadReading(f"{pattern}: {found}")
        path = self._root / fitting[0]
        self._scale, self._offset = 1.0, 0.0
        if path.name.endswith("_raw"):
            self._scale, self._offset = sibling(path, "scale", 1.0), sibling(path, "offset", 0.0)
        return path


def read_text(path: Path) -> str:
    """Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES).decode(errors="replace")


def number_in(path: Path) -> float:
    """Raises OSError, or BadReading when there is no number in the file."""
    value = parse_number(read_text(path))
    if math.isnan(value):
        raise BadReading("the file is empty")
    return value


def parse_w1(text: str) -> float:
    """The number behind `t=` of a 1-wire thermometer, in thousandths of a degree.

    Raises:
        BadReading: the kernel says that the checksum is wrong, or there is no such number.
    """
    first, _, second = text.partition("\n")
    if not first.rstrip().endswith("YES"):
        raise BadReading("the checksum is wrong; is the wire too long, or the resistor missing?")
    match = _W1_READING.search(second)
    if match is None:
        raise BadReading("no temperature in it")
    return float(match[1])


def sibling(raw: Path, kind: str, default: float) -> float:
    """A number that IIO keeps beside `in_accel_x_raw`: `in_accel_x_scale`, or for all axes `in_accel_scale`."""
    for stem in _stems(raw.name.removesuffix("_raw")):
        with contextlib.suppress(OSError, BadReading):
            return number_in(raw.with_name(f"{stem}_{kind}"))
    return default


def _stems(stem: str) -> Iterator[str]:
    yield stem
    yield _DIGITS.sub("", stem)
    yield _LAST_PART.sub("", stem)


def make_sysfs(spec: SysfsSource, root: Path = Path("/")) -> Polled:
    """The source that this part of the configuration describes; not open yet."""
    return Polled(SysfsSensor(spec, root), spec.interval_s)
