"""The computer's state, from copies of /proc and /sys as real machines have them, and from the machine at hand."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from agent.telemetry.device import DeviceReader
from agent.wire.messages import HostTelemetry, ProcessTelemetry

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock; to be turned by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def cpu_line(root: Path, **ticks: int) -> None:
    names = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"]
    write(root, "proc/stat", f"cpu  {' '.join(str(ticks.get(name, 0)) for name in names)}\ncpu0 1 2 3\n")


def process(root: Path, pid: int, *, ticks: int, start: int = 5, threads: int = 1, pages: int = 10) -> None:
    fields = ["S"] + ["0"] * 10 + [str(ticks - 1), "1"] + ["0"] * 4 + [str(threads), "0", str(start), "0", str(pages)]
    write(root, f"proc/{pid}/stat", f"{pid} (edge (agent) 1) {' '.join(fields)} 0 0 0\n")


def test_what_is_not_there_is_absent_not_zero(tmp_path: Path, root: Path):
    host = DeviceReader(disk_of=tmp_path / "gone", root=root).host()
    assert HostTelemetry() == host
    assert msgspec.json.encode(host) == b"{}"


def test_a_raspberry_pi(tmp_path: Path, root: Path, clock: list[float]):
    cpu_line(root, user=100, idle=100)
    write(root, "proc/meminfo", "MemTotal:  3884372 kB\nMemFree:  1 kB\nMemAvailable:    3000000 kB\n")
    write(root, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(root, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    write(root, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(root, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    write(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    reader = DeviceReader(disk_of=tmp_path, root=root)
    cpu_line(root, user=125, idle=175)
    clock[0] += 30
    host = reader.host()
    status = os.statvfs(tmp_path)
    assert (host.cpu_percent, host.memory_available_bytes) == (25.0, 3_000_000 * 1024)
    assert (host.temperature_c, host.throttled) == (48.312, True)
    assert host.disk_free_bytes == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)


@pytest.mark.parametrize(
    ("bits", "expected"), [("0", False), ("50000", False), ("50005", True), ("8", True), ("80000", False)]
)
def test_the_firmware_says_whether_it_throttles_now(tmp_path: Path, root: Path, bits: str, expected: bool):
    """Bits from 16 on say that it once did. The voltage alarm is asked only where the firmware is silent."""
    write(root, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{bits}\n")
    write(root, "sys/class/hwmon/hwmon0/name", "rpi_volt\n")
    write(root, "sys/class/hwmon/hwmon0/in0_lcrit_alarm", "0\n" if expected else "1\n")
    assert expected == DeviceReader(disk_of=tmp_path, root=root).host().throttled


def test_a_jetson_has_many_zones_and_some_sleep(tmp_path: Path, root: Path):
    zones = [("cpu-thermal", "51500"), ("gpu-thermal", "-256000"), ("soc0-thermal", "53000"), ("PMIC-Die", "100000")]
    for number, (name, value) in enumerate(zones):
        write(root, f"sys/class/thermal/thermal_zone{number}/type", f"{name}\n")
        write(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{value}\n")
    host = DeviceReader(disk_of=tmp_path, root=root).host()
    assert (host.temperature_c, host.throttled) == (53.0, UNSET)


def test_without_a_zone_of_the_processor_the_hottest_counts(tmp_path: Path, root: Path):
    for number, value in enumerate(["27800", "40000", "not a number"]):
        write(root, f"sys/class/thermal/thermal_zone{number}/type", "acpitz\n")
        write(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{value}\n")
    assert DeviceReader(disk_of=tmp_path, root=root).host().temperature_c == 40.0


def test_waiting_for_the_disk_is_idle_and_guests_are_not_counted_twice(tmp_path: Path, root: Path, clock: list[float]):
    cpu_line(root)
    reader = DeviceReader(disk_of=tmp_path, root=root)
    cpu_line(root, user=40, guest=40, iowait=30, idle=20, steal=10)
    clock[0] += 30
    assert reader.host().cpu_percent == 50.0


def test_load_is_counted_from_the_start_and_not_over_less_than_a_second(tmp_path: Path, root: Path, clock: list[float]):
    cpu_line(root, idle=100)
    reader = DeviceReader(disk_of=tmp_path, root=root)
    clock[0] += 0.5
    cpu_line(root, idle=150)
    assert reader.host().cpu_percent is UNSET
    clock[0] += 0.5
    cpu_line(root, idle=150, user=50)
    assert reader.host().cpu_percent == 50.0
    clock[0] += 0.5
    cpu_line(root, idle=200, user=50)
    assert reader.host().cpu_percent == 50.0
    clock[0] += 0.5
    assert reader.host().cpu_percent == 0.0


def test_an_idle_count_that_runs_backwards_is_full_load(tmp_path: Path, root: Path, clock: list[float]):
    cpu_line(root, idle=100, user=100)
    reader = DeviceReader(disk_of=tmp_path, root=root)
    clock[0] += 2
    cpu_line(root, idle=90, user=150)
    assert reader.host().cpu_percent == 100.0


def test_daemon_and_workers_are_added_up(tmp_path: Path, root: Path):
    process(root, os.getpid(), ticks=200, threads=10, pages=1000)
    process(root, 4001, ticks=300, threads=3, pages=500)
    reader = DeviceReader(disk_of=tmp_path, root=root)
    expected = ProcessTelemetry(rss_bytes=1500 * PAGE_BYTES, cpu_s=500 * TICK_S, threads=13)
    assert expected == reader.process([4001])
    assert expected == reader.process([4001, 4001, os.getpid(), 4999])


def test_processor_time_of_a_worker_that_is_gone_stays_counted(tmp_path: Path, root: Path):
    """Also when the next one has got the same process id."""
    process(root, os.getpid(), ticks=100)
    process(root, 4001, ticks=300)
    reader = DeviceReader(disk_of=tmp_path, root=root)
    reader.process([4001])
    process(root, 4001, ticks=10, start=99)
    assert reader.process([4001]).cpu_s == 410 * TICK_S
    assert reader.process([]).cpu_s == 410 * TICK_S
    (root / "proc/4001/stat").unlink()
    assert reader.process([4001]).cpu_s == 410 * TICK_S


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started.pid
        started.kill()


def test_this_machine(tmp_path: Path, child: int):
    reader = DeviceReader(disk_of=tmp_path)
    host = reader.host()
    assert isinstance(host.memory_available_bytes, int)
    assert host.memory_available_bytes > 1 << 20
    assert isinstance(host.disk_free_bytes, int)
    alone, both = reader.process([]), reader.process([child])
    assert alone.rss_bytes > 5 << 20
    assert both.rss_bytes > alone.rss_bytes + (1 << 20)
    assert both.threads == alone.threads + 1
    assert 0 < alone.cpu_s <= both.cpu_s
