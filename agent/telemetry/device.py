"""State of the computer and of the agent's processes, read from /proc and /sys (proc(5), sysfs of the kernel).

What a computer does not have, or hides, is absent from the answer: an absent temperature is not zero degrees.
"""

import math
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET, UnsetType

from agent.telemetry import jetson, kernel, network, raspberry, temperature
from agent.wire.host import HostTelemetry
from agent.wire.messages import ProcessTelemetry

_MIN_CPU_SPAN_S = 1.0
"""The kernel counts in hundredths of a second: over less, percents say nothing."""

_ON_TIME = 0.9
"""Share of the interval after which a report is the next one, for reports that come a little early."""


class DeviceReader:
    """Reads what there is. Thread-safe."""

    def __init__(self, disk_of: Path, root: Path = Path("/"), interval_s: float = 30.0) -> None:
        """Args:
        disk_of: a folder on the disk that matters.
        root: where proc, sys and usr are found.
        interval_s: of telemetry; what costs a process is asked once in it.
        """
        self._disk_of = disk_of
        self._proc, self._sys = root / "proc", root / "sys"
        self._firmware = raspberry.Firmware(root / "usr/bin/vcgencmd", interval_s * _ON_TIME)
        self._lock = threading.Lock()
        self._cpu_before: tuple[float, int, int] | None = None
        self._cpu_percent: float | UnsetType = UNSET
        self._cpu_ticks: dict[tuple[int, str], int] = {}
        self._cpu_ticks_of_the_dead = 0
        self._read_cpu_percent()  # they begin to count here

    def host(self) -> HostTelemetry:
        """The computer now; the processor's load since the last time (all cores together are 100)."""
        with self._lock:
            cpu_percent = self._read_cpu_percent()
        memory = self._memory()
        disk_free, disk_total = self._disk()
        chips, zones = kernel.chips(self._sys), temperature.thermal_zones(self._sys)
        return HostTelemetry(
            board=self._board(),
            kernel=kernel.read(self._proc / "sys/kernel/osrelease") or UNSET,
            uptime_s=_first_number(self._proc / "uptime"),
            cpu_percent=cpu_percent,
            load_average=_first_number(self._proc / "loadavg"),
            memory_available_bytes=memory.get("MemAvailable", UNSET),
            memory_total_bytes=memory.get("MemTotal", UNSET),
            swap_free_bytes=memory.get("SwapFree", UNSET),
            swap_total_bytes=memory.get("SwapTotal", UNSET),
            disk_free_bytes=disk_free,
            disk_total_bytes=disk_total,
            temperature_c=temperature.processor(zones, chips),
            temperatures_c=temperature.shown(zones),
            gpu_percent=jetson.gpu_percent(self._sys),
            gpu_temperature_c=temperature.graphics(zones),
            power_w=jetson.power_w(chips),
            network=network.interfaces(self._proc, self._sys),
            wifi=network.wifi(self._proc),
            **raspberry.supply(self._firmware.flags(), chips),
        )

    def process(self, workers: Iterable[int]) -> ProcessTelemetry:
        """This process together with its workers (process ids).

        Memory that processes share is counted in each of them. Processor time of workers that are gone stays counted.
        """
        rss_pages = threads = 0
        with self._lock:
            now_ticks: dict[tuple[int, str], int] = {}
            for pid in {os.getpid(), *workers}:
                stat = _words_after_name(kernel.read(self._proc / str(pid) / "stat"))
                if len(stat) < 22 or not all(stat[place].isdecimal() for place in (11, 12, 17, 21)):
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
        now_s, line = time.monotonic(), kernel.read(self._proc / "stat").partition("\n")[0].split()
        if len(line) < 9 or line[0] != "cpu" or not all(word.isdecimal() for word in line[1:9]):
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

    def _memory(self) -> dict[str, int]:
        """Bytes by the names of /proc/meminfo."""
        found = {}
        for line in kernel.read(self._proc / "meminfo").splitlines():
            name, _, rest = line.partition(":")
            kibibytes = kernel.integer(rest.removesuffix("kB"))
            if kibibytes is not None:
                found[name] = kibibytes * 1024
        return found

    def _disk(self) -> tuple[int | UnsetType, int | UnsetType]:
        """What is free for the agent, and the size."""
        try:
            status = os.statvfs(self._disk_of)
        except OSError:
            return UNSET, UNSET
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def _board(self) -> str | UnsetType:
        """From the device tree; a PC has none, its firmware tells maker and product."""
        if model := kernel.name(self._proc / "device-tree/model"):
            return model
        words = [kernel.name(self._sys / "class/dmi/id" / file) for file in ("sys_vendor", "product_name")]
        return " ".join(word for word in words if word) or UNSET


def _first_number(path: Path) -> float | UnsetType:
    words = kernel.read(path).split()
    try:
        number = float(words[0]) if words else math.nan
    except ValueError:
        return UNSET
    return number if math.isfinite(number) else UNSET


def _words_after_name(stat: str) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second is a name that may hold spaces and brackets."""
    return stat.rpartition(")")[2].split()
