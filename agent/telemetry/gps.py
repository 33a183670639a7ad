"""Where the device is, from gpsd: reports in JSON, a line each (gpsd_json(5)).

Whether a fix is fresh is told by the monotonic clock, from when it came: the time that a receiver gives may be wrong by
years (a week counter that has run over), and is not looked at.
"""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from agent.config import Gps
from agent.runtime.backoff import Backoff
from agent.runtime.health import Health
from agent.wire.host import Position

MAX_LINE_BYTES = 32 << 10
"""gpsd's longest report, the view of the sky, has up to 10 KiB."""

_CONNECT_TIMEOUT_S = 5.0
_MAX_SILENCE_S = 30.0
"""Or `max_age_s`, if that is shorter: then gpsd is taken for gone."""

_HELD_S = 30.0
"""A connection that held for so long was good: the next is tried soon. One that ends at once again is not."""

_LOOK_S = 0.25
"""How often the stop event is looked at."""

_MODES: dict[str, Literal[2, 3]] = {"2": 2, "3": 3}
"""Of reports that tell a position: without and with height."""

_WATCH = b'?WATCH={"enable":true,"json":true};\n'
_ARE_YOU_THERE = b"?VERSION;\n"
"""gpsd says nothing while its receiver says nothing, but always answers this."""


class GpsLost(OSError):  # noqa: N818 - a state that the loop waits out
    """gpsd, or its receiver, is not there; it is tried again."""


@dataclass(frozen=True, slots=True)
class _Fix:
    """A position without its age."""

    receiver: str
    at_s: float  # monotonic
    lat_deg: float
    lon_deg: float
    mode: Literal[2, 3]
    altitude_m: float | UnsetType
    error_m: float | UnsetType
    speed_m_s: float | UnsetType
    track_deg: float | UnsetType


class GpsReader:
    """Keeps the newest fix. Building it starts nothing; `current` may be called from any thread."""

    def __init__(self, spec: Gps, health: Health) -> None:
        self._spec, self._health = spec, health
        self._max_silence_s = min(spec.max_age_s, _MAX_SILENCE_S)
        self._address = f"gpsd at {spec.host}:{spec.port}"
        # Written by `loop` only, each as a whole: readers see the old one or the new one.
        self._fix: _Fix | None = None
        self._sky: tuple[str, float, int] | None = None  # receiver, monotonic time, satellites used

    def current(self) -> Position | None:
        """Where the device is; None while the receiver does not know, or has not said so for `max_age_s`."""
        fix, now_s = self._fix, time.monotonic()
        if fix is None or now_s - fix.at_s > self._spec.max_age_s:
            return None
        sky = self._sky
        is_ours = sky is not None and sky[0] == fix.receiver and now_s - sky[1] <= self._spec.max_age_s
        return Position(
            lat_deg=fix.lat_deg,
            lon_deg=fix.lon_deg,
            mode=fix.mode,
            age_s=round(now_s - fix.at_s, 3),
            altitude_m=fix.altitude_m,
            error_m=fix.error_m,
            speed_m_s=fix.speed_m_s,
            track_deg=fix.track_deg,
            satellites_used=sky[2] if sky is not None and is_ours else UNSET,
        )

    def loop(self, stop: threading.Event) -> None:
        """Body of a thread: read reports, one connection after the other."""
        backoff = Backoff(base_s=0.5, cap_s=15.0)
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                self._follow(stop)
            except GpsLost as exc:
                self._health.lost("gps", str(exc))
                if time.monotonic() - began_s > _HELD_S:
                    backoff.reset()
                stop.wait(backoff.next_s())

    def _follow(self, stop: threading.Event) -> None:
        """Raises GpsLost when the connection ends."""
        try:
            with socket.create_connection((self._spec.host, self._spec.port), _CONNECT_TIMEOUT_S) as connection:
                connection.sendall(_WATCH)
                for line in self._lines(connection, stop):
                    if self._take(_parse(line)):
                        self._health.recovered("gps")
        except GpsLost as exc:
            raise GpsLost(f"{self._address} {exc}") from exc
        except (OSError, ValueError) as exc:  # ValueError: of a host name that can't be one
            problem = (getattr(exc, "strerror", None) or str(exc)).lower()
            raise GpsLost(f"{self._address}: {problem}; is it running, and is gps.host right?") from exc

    def _lines(self, connection: socket.socket, stop: threading.Event) -> Iterator[bytes]:
        """Complete lines, until the stop. Raises GpsLost when it is silent for too long, also when asked."""
        connection.settimeout(_LOOK_S)
        waiting, heard_s, asked = b"", time.monotonic(), False
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                chunk = connection.recv(MAX_LINE_BYTES)
                if not chunk:
                    raise GpsLost("ended the connection")
                waiting += chunk
            *lines, waiting = waiting.split(b"\n")
            if len(waiting) > MAX_LINE_BYTES:
                raise GpsLost(f"sends lines of more than {MAX_LINE_BYTES >> 10} KiB; is gps.port gpsd's?")
            silent_s = time.monotonic() - heard_s
            if lines:
                heard_s, asked = time.monotonic(), False
            elif silent_s > self._max_silence_s:
                raise GpsLost(f"has not answered for {self._max_silence_s:g} s")
            elif silent_s > self._max_silence_s / 2 and not asked:
                connection.sendall(_ARE_YOU_THERE)
                asked = True
            yield from lines

    def _take(self, report: dict[str, Any]) -> bool:
        """Take in a report; tells whether a receiver spoke. Raises GpsLost when it shows that there is none."""
        receiver = report.get("device")
        receiver = receiver if isinstance(receiver, str) else ""
        match report.get("class"):
            case "DEVICES" if not report.get("devices"):
                raise GpsLost("has no receiver; plug it in, or name it in gpsd's options")
            case "DEVICE" if report.get("activated") == 0:
                raise GpsLost("has lost its receiver")
            case "TPV":
                self._take_fix(receiver, report)
                return True
            case "SKY":
                used = _number(report.get("uSat"), 0, 1000)
                if used is not UNSET:
                    self._sky = (receiver, time.monotonic(), int(used))
                return True
        return False  # those that are listed may be silent, or gone

    def _take_fix(self, receiver: str, report: dict[str, Any]) -> None:
        mode = _MODES.get(str(report.get("mode")))
        lat_deg, lon_deg = _number(report.get("lat"), -90, 90), _number(report.get("lon"), -180, 180)
        if mode is None or lat_deg is UNSET or lon_deg is UNSET:
            if self._fix and self._fix.receiver == receiver:  # it knew, and says now that it does not
                self._fix = None
            return
        altitude_m = _number(report.get("altMSL", report.get("alt")), -1e5, 1e8)  # `alt`: gpsd before 3.20
        self._fix = _Fix(
            receiver=receiver,
            at_s=time.monotonic(),
            lat_deg=lat_deg,
            lon_deg=lon_deg,
            mode=mode,
            altitude_m=altitude_m if mode == 3 else UNSET,
            error_m=_error_m(report),
            speed_m_s=_number(report.get("speed"), 0, 1e5),
            track_deg=_number(report.get("track"), 0, 360),
        )


def _parse(line: bytes) -> dict[str, Any]:
    """Raises GpsLost when it is no JSON object: what speaks so is not gpsd."""
    try:
        report = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise GpsLost("sends what is no JSON object; is gps.port gpsd's?")
    return report


def _number(value: object, low: float, high: float) -> float | UnsetType:
    """A finite number within bounds, or nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return UNSET
    return float(value)


def _error_m(report: dict[str, Any]) -> float | UnsetType:
    """The receiver's horizontal error, or what its errors along longitude and latitude come to."""
    horizontal = _number(report.get("eph"), 0, 1e7)
    along_x, along_y = _number(report.get("epx"), 0, 1e7), _number(report.get("epy"), 0, 1e7)
    if horizontal is UNSET and along_x is not UNSET and along_y is not UNSET:
        return round(math.hypot(along_x, along_y), 3)
    return horizontal
