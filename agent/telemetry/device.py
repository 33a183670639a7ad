"""State of the computer and of the agent's processes, read from /proc and /sys (proc(5), sysfs of the kernel).

What a computer does not have, or hides, is absent from the answer: an absent temperature is not zero degrees.
"""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET, UnsetType

from agent.wire.messages import HostTelemetry, ProcessTelemetry

_MIN_CPU_SPAN_S = 1.0
"""The kernel counts in hundredths of a second: over less, percents say nothing."""

_CPU_ZONES = ("cpu", "soc", "x86_pkg")
"""In names of thermal zones: Raspberry Pi `cpu-thermal`, Jetson `CPU-therm` or `cpu-thermal`, others."""

_THROTTLED_NOW = 0xF
"""Bits of the Raspberry Pi's get_throttled: under-voltage, frequency capped, throttled, soft temperature limit; the
same shifted by 16 tell that it has been so since the start."""


class DeviceReader:
    """Reads what there is. Thread-safe."""

    def __init__(self, disk_of: Path, root: Path = Path("/")) -> None:
        """Args: `disk_of` is a folder on the disk that matters; `root` is where proc and sys are found."""
        self._disk_of = disk_of
        self._proc, self._sys = root / "proc", root / "sys"
        self._lock = threading.Lock()
        self._cpu_before: tuple[float, int, int] | None = None
        self._cpu_percent: float | UnsetType = UNSET
        self._cpu_ticks: dict[tuple[int, str], int] = {}
        self._cpu_ticks_of_the_dead = 0
        self.host()  # percents of the processor begin to count here

    def host(self) -> HostTelemetry:
        """The computer now; the processor's load since the last time (all cores together are 100)."""
        with self._lock:
            return HostTelemetry(
                cpu_percent=self._read_cpu_percent(),
                memory_available_bytes=self._memory_available(),
                disk_free_bytes=self._disk_free(),
                temperature_c=self._temperature(),
                throttled=self._throttled(),
            )

    def process(self, workers: Iterable[int]) -> ProcessTelemetry:
        """This process together with its workers (process ids).

        Memory that processes share is counted in each of them. Processor time of workers that are gone stays counted.
        """
        rss_pages = threads = 0
        with self._lock:
            now_ticks: dict[tuple[int, str], int] = {}
            for pid in {os.getpid(), *workers}:
                stat = _words_after_name(_read(self._proc / str(pid) / "stat"))
                if len(stat) < 22:
                    continue  # gone
                # Of stat(5), from its third field on: 11, 12 user and system time; 17 threads; 19 start; 21 pages.
                now_ticks[pid, stat[19]] = int(stat[11]) + int(stat[12])
                threads += int(stat[17])
                rss_pages += int(stat[21])
            self._cpu_ticks_of_the_dead += sum(ticks for key, ticks in self._cpu_ticks.items() if key not in now_ticks)
            self._cpu_ticks = now_ticks
            cpu_ticks = self._cpu_ticks_of_the_dead + sum(now_ticks.values())
        return ProcessTelemetry(
            rss_bytes=rss_pages * os.sysconf("SC_PAGE_SIZE"),
            cpu_s=round(cpu_ticks / os.sysconf("SC_CLK_TCK"), 2),
            threads=threads,
        )

    def _read_cpu_percent(self) -> float | UnsetType:
        now_s, line = time.monotonic(), _read(self._proc / "stat").partition("\n")[0].split()
        if len(line) < 9 or line[0] != "cpu":
            return UNSET
        ticks = [int(word) for word in line[1:9]]  # guests after these are counted in user and nice already
        total, idle = sum(ticks), ticks[3] + ticks[4]
        if self._cpu_before is None:
            self._cpu_before = (now_s, total, idle)
            return UNSET
        before_s, before_total, before_idle = self._cpu_before
        if now_s - before_s >= _MIN_CPU_SPAN_S and total > before_total:
            busy = 1.0 - (idle - before_idle) / (total - before_total)
            self._cpu_percent = round(100.0 * min(max(busy, 0.0), 1.0), 1)  # idle may run backwards
            self._cpu_before = (now_s, total, idle)
        return self._cpu_percent

    def _memory_available(self) -> int | UnsetType:
        for line in _read(self._proc / "meminfo").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return UNSET

    def _disk_free(self) -> int | UnsetType:
        try:
            status = os.statvfs(self._disk_of)
        except OSError:
            return UNSET
        return status.f_bavail * status.f_frsize

    def _temperature(self) -> float | UnsetType:
        """The hottest zone of the processor, or of all when none is named after it."""
        zones: list[tuple[bool, float]] = []
        for zone in self._sys.glob("class/thermal/thermal_zone*"):
            name, value = _read(zone / "type").lower(), _integer(_read(zone / "temp"))
            if value is not None and -60_000 < value < 200_000:  # some report -256 degrees while they sleep
                zones.append((any(word in name for word in _CPU_ZONES), value / 1000))
        return max(zones)[1] if zones else UNSET

    def _throttled(self) -> bool | UnsetType:
        """Whether the Raspberry Pi's firmware slows it down now, or its voltage is too low."""
        for path in self._sys.glob("devices/platform/soc*/*firmware/get_throttled"):
            bits = _integer(_read(path), 16)
            if bits is not None:
                return bool(bits & _THROTTLED_NOW)
        for folder in self._sys.glob("class/hwmon/hwmon*"):
            alarm = _integer(_read(folder / "in0_lcrit_alarm")) if _read(folder / "name") == "rpi_volt" else None
            if alarm is not None:
                return alarm != 0
        return UNSET


def _read(path: Path) -> str:
    """The text of a small file, or nothing."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _integer(text: str, base: int = 10) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None


def _words_after_name(stat: str) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second is a name that may hold spaces and brackets."""
    return stat.rpartition(")")[2].split()
