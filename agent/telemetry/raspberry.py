"""What only a Raspberry Pi tells: whether its firmware slows it down, and whether its supply is too weak.

The firmware's own file in sysfs (soc:firmware/get_throttled) is not asked: it is deprecated, and reads 0 where
`vcgencmd get_throttled` says otherwise (raspberrypi/linux#2367).
"""

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.telemetry import kernel

_UNDER_VOLTAGE = 0x1
_THROTTLED = 0xF
"""Bits of get_throttled: under-voltage, frequency capped, throttled, soft temperature limit."""

_SINCE_BOOT_SHIFT = 16
"""The same bits, so much higher, tell that it has been so since the start."""

_TIMEOUT_S = 1.0
_ANSWER = re.compile(rb"throttled=0x([0-9a-fA-F]{1,8})\s*")


class Firmware:
    """Asks the firmware through vcgencmd, which needs /dev/vcio (group video). Thread-safe."""

    def __init__(self, program: Path, every_s: float) -> None:
        """Args: `every_s`: between two questions; the answer of the first holds meanwhile."""
        self._program, self._every_s = program, every_s
        self._asking = threading.Lock()
        self._due_s = time.monotonic()
        self._flags: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def flags(self) -> int | None:
        """The bits of get_throttled; None where nobody answers. While one thread asks, others get the last answer."""
        if self._asking.acquire(blocking=False):
            try:
                if time.monotonic() >= self._due_s:
                    self._due_s = time.monotonic() + self._every_s
                    self._flags = self._ask()
            finally:
                self._asking.release()
        return self._flags

    def _ask(self) -> int | None:
        if not os.access(self._program, os.X_OK) or (self._child is not None and self._child.poll() is None):
            return None  # no Raspberry Pi, or the last one still hangs in the driver
        try:
            self._child = subprocess.Popen(
                [self._program, "get_throttled"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return None
        with self._child.stdout or contextlib.nullcontext():
            try:
                answer, _ = self._child.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()  # `subprocess.run` would now wait for ever for one that can't be killed
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(_TIMEOUT_S / 10)
                return None
        match = _ANSWER.fullmatch(answer)
        return int(match[1], 16) if match else None


def supply(flags: int | None, chips: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """Fields of HostTelemetry: what the firmware's bits say, or what can be known without them.

    The kernel's alarm (hwmon `rpi_volt`) knows the voltage only: while it is silent, it may be too hot.
    """
    if flags is not None:
        ever = flags | flags >> _SINCE_BOOT_SHIFT
        return {
            "throttled": bool(flags & _THROTTLED),
            "throttled_since_boot": bool(ever & _THROTTLED),
            "under_voltage": bool(flags & _UNDER_VOLTAGE),
            "under_voltage_since_boot": bool(ever & _UNDER_VOLTAGE),
            "throttled_flags": f"{flags:#x}",
        }
    alarms = [kernel.read_integer(folder / "in0_lcrit_alarm") for name, folder in chips if name == "rpi_volt"]
    if not alarms or alarms[0] is None:
        return {}
    if alarms[0] == 0:
        return {"under_voltage": False}
    return dict.fromkeys(("throttled", "throttled_since_boot", "under_voltage", "under_voltage_since_boot"), True)
