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
    write(root, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(root, "proc/sys/kernel/osrelease", "6.12.47+rpt-rpi-v8\n")
    write(root, "proc/uptime", "350735.47 234388.90\n")
    write(root, "proc/loadavg", "0.25 0.33 0.42 1/213 4711\n")
    reader = DeviceReader(disk_of=tmp_path, root=root)
    cpu_line(root, user=125, idle=175)
    clock[0] += 30
    host = reader.host()
    status = os.statvfs(tmp_path)
    assert (host.board, host.kernel) == ("Raspberry Pi 4 Model B Rev 1.4", "6.12.47+rpt-rpi-v8")
    assert (host.uptime_s, host.load_average) == (350735.47, 0.25)
    assert (host.cpu_percent, host.memory_available_bytes) == (25.0, 3_000_000 * 1024)
    assert host.temperature_c == 48.312
    assert (host.memory_total_bytes, host.swap_total_bytes) == (3_884_372 * 1024, UNSET)
    assert host.disk_free_bytes == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)
    assert host.disk_total_bytes == status.f_blocks * status.f_frsize


def test_without_a_zone_of_the_processor_the_hottest_counts(tmp_path: Path, root: Path):
    for number, value in enumerate(["27800", "40000", "not a number"]):
        write(root, f"sys/class/thermal/thermal_zone{number}/type", "acpitz\n")
        write(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{value}\n")
    assert DeviceReader(disk_of=tmp_path, root=root).host().temperature_c == 40.0


def test_a_laptop(tmp_path: Path, root: Path):
    """Its firmware tells what it is; AMD's processors have a hardware monitor and no thermal zone of their own."""
    write(root, "sys/class/dmi/id/sys_vendor", "LENOVO\n")
    write(root, "sys/class/dmi/id/product_name", "20XK0015GE\n")
    write(root, "proc/meminfo", "MemTotal: 16 kB\nMemAvailable: 8 kB\nSwapTotal: 4 kB\nSwapFree: 0 kB\n")
    write(root, "sys/class/thermal/thermal_zone0/type", "acpitz\n")
    write(root, "sys/class/thermal/thermal_zone0/temp", "71000\n")
    write(root, "sys/class/hwmon/hwmon0/name", "nvme\n")
    write(root, "sys/class/hwmon/hwmon0/temp1_input", "80000\n")
    write(root, "sys/class/hwmon/hwmon1/name", "k10temp\n")
    write(root, "sys/class/hwmon/hwmon1/temp1_input", "55250\n")
    host = DeviceReader(disk_of=tmp_path, root=root).host()
    assert host.board == "LENOVO 20XK0015GE"
    assert (host.swap_total_bytes, host.swap_free_bytes) == (4096, 0)
    assert (host.temperature_c, host.temperatures_c) == (55.25, {"acpitz": 71.0})
    assert (host.throttled, host.under_voltage, host.gpu_percent, host.wifi) == (UNSET,) * 4


@pytest.mark.parametrize(
    ("model", "board"), [("\0", UNSET), ("\x1b[2J\0", UNSET), ("N\u00e9\0", UNSET), ("x" * 99, "x" * 80)]
)
def test_a_board_that_calls_itself_something_odd(tmp_path: Path, root: Path, model: str, board: object):
    write(root, "proc/device-tree/model", model)
    assert DeviceReader(disk_of=tmp_path, root=root).host().board == board


def test_zones_are_bounded_and_of_one_name_the_hottest_counts(tmp_path: Path, root: Path):
    for number in range(30):
        write(root, f"sys/class/thermal/thermal_zone{number}/type", f"zone{number // 2}\n")
        write(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{30_000 + 1000 * number}\n")
    for number in range(30, 60):
        write(root, f"sys/class/thermal/thermal_zone{number}/type", f"zone{number}\n")
        write(root, f"sys/class/thermal/thermal_zone{number}/temp", "20000\n")
    zones = DeviceReader(disk_of=tmp_path, root=root).host().temperatures_c
    assert isinstance(zones, dict)
    assert (len(zones), zones["zone0"], zones["zone5"]) == (16, 31.0, 41.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "no number",
        "1 2 3",
        "cpu  1 2",
        "nan inf",
        "cpu a b c d e f g h",
        "\xff\xfe\0",
        ": : :\n" * 50,
        "9" * 40_000,
    ],
)
def test_files_that_hold_something_else_are_as_if_they_were_not_there(tmp_path: Path, root: Path, text: str):
    names = ("uptime", "loadavg", "stat", "meminfo", "net/dev", "net/wireless")
    for name in names:
        write(root, f"proc/{name}", text)
    for folder in ("thermal/thermal_zone0", "hwmon/hwmon0", "devfreq/gpu"):
        for name in ("type", "temp", "name", "temp1_input", "in0_lcrit_alarm", "device/load"):
            write(root, f"sys/class/{folder}/{name}", text)
    host = DeviceReader(disk_of=tmp_path, root=root).host()
    assert (host.cpu_percent, host.memory_total_bytes, host.temperature_c, host.gpu_percent) == (UNSET,) * 4
    assert (host.network, host.wifi) == (UNSET, UNSET)
    assert "null" not in msgspec.json.encode(host).decode()


def test_a_process_that_tells_words_for_numbers_is_as_if_it_were_gone(tmp_path: Path, root: Path):
    write(root, f"proc/{os.getpid()}/stat", f"1 (x) {'S ' * 30}\n")
    assert DeviceReader(disk_of=tmp_path, root=root).process([]).threads == 0


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
    assert isinstance(host.uptime_s, float)
    assert host.kernel == os.uname().release
    assert "lo" not in (host.network or {})
    alone, both = reader.process([]), reader.process([child])
    assert alone.rss_bytes > 5 << 20
    assert both.rss_bytes > alone.rss_bytes + (1 << 20)
    assert both.threads == alone.threads + 1
    assert 0 < alone.cpu_s <= both.cpu_s


def test_a_look_costs_little(tmp_path: Path):
    """Processor time, with much room for slow machines; 0.3 ms is usual."""
    reader = DeviceReader(disk_of=tmp_path)
    reader.host()
    began_s = time.thread_time()
    for _ in range(50):
        reader.host()
    assert (time.thread_time() - began_s) / 50 < 0.01
