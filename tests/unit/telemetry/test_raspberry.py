"""What a Raspberry Pi says of its supply: a program in the place of `vcgencmd`, and the alarm of the kernel."""

import os
import threading
import time
from pathlib import Path

import pytest
from msgspec import UNSET

from agent.telemetry.device import DeviceReader
from tests.sim import wait_until
from tests.sim.processes import children_of
from tests.sim.trees import Tree

SUPPLY = ("throttled", "throttled_since_boot", "under_voltage", "under_voltage_since_boot")


@pytest.fixture
def pi(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


def firmware(pi: Tree, script: str) -> Path:
    """A vcgencmd that does so; returns the file in which it notes each call."""
    calls = pi.root / "calls"
    pi.write("usr/bin/vcgencmd", f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
    (pi.root / "usr/bin/vcgencmd").chmod(0o755)
    return calls


def alarm(pi: Tree, value: str) -> None:
    pi.write("sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    pi.write("sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    pi.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", f"{value}\n")


def reader(pi: Tree, interval_s: float = 30.0) -> DeviceReader:
    return DeviceReader(disk_of=pi.root, root=pi.root, interval_s=interval_s)


def supply(pi: Tree) -> tuple[object, ...]:
    host = reader(pi).host()
    return tuple(getattr(host, name) for name in SUPPLY)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0x0", (False, False, False, False)),
        ("0x50000", (False, True, False, True)),
        ("0x50005", (True, True, True, True)),
        ("0x5", (True, True, True, True)),
        ("0x80008", (True, True, False, False)),
        ("0x20002", (True, True, False, False)),
        ("0xe0000", (False, True, False, False)),
    ],
)
def test_the_firmware_tells_now_and_since_the_start(pi: Tree, bits: str, expected: tuple[bool, ...]):
    """Its word counts, whatever the kernel's alarm and the file that reads 0 where it should not say."""
    firmware(pi, f"echo throttled={bits}")
    alarm(pi, "0" if expected[0] else "1")
    pi.write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    assert expected == supply(pi)
    assert reader(pi).host().throttled_flags == bits


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo 'VCHI initialization failed'",
        "echo 'Can not open device file: /dev/vcio' >&2; exit 255",
        "echo throttled=0x",
        "echo throttled=0x123456789",
        "echo throttled=-1",
        "printf 'throttled=0x0\\nthrottled=0x5\\n'",
        "printf 'throttled=\\377'",
        "kill -9 $$",
    ],
)
def test_what_is_no_answer_leaves_the_word_to_the_kernel(pi: Tree, script: str):
    firmware(pi, script)
    alarm(pi, "1")
    assert supply(pi) == (True, True, True, True)
    assert reader(pi).host().throttled_flags is UNSET


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_program_that_cannot_be_started_is_none(pi: Tree, mode: int):
    pi.write("usr/bin/vcgencmd", "\0\0")
    (pi.root / "usr/bin/vcgencmd").chmod(mode)
    assert supply(pi) == (UNSET,) * 4


def test_a_silent_alarm_says_nothing_of_heat_or_of_earlier(pi: Tree):
    alarm(pi, "0")
    assert supply(pi) == (UNSET, UNSET, False, UNSET)


@pytest.mark.parametrize("value", ["", "-", "0.5"])
def test_an_alarm_that_cannot_be_read_is_none(pi: Tree, value: str):
    alarm(pi, value)
    assert supply(pi) == (UNSET,) * 4


def test_the_alarms_of_other_chips_are_not_asked(pi: Tree):
    pi.write("sys/class/hwmon/hwmon0/name", "nct6775\n")
    pi.write("sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n")
    assert supply(pi) == (UNSET,) * 4


def test_it_is_asked_once_in_an_interval(pi: Tree, monkeypatch: pytest.MonkeyPatch):
    """`edge-agent status` may ask as often as it likes. A report that comes a little early is the next one."""
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    calls = firmware(pi, "echo throttled=0x0")
    device = reader(pi, interval_s=30.0)
    for _ in range(3):
        device.host()
    assert calls.read_text() == "get_throttled\n"
    firmware(pi, "echo throttled=0x1")
    now_s[0] += 20
    assert device.host().under_voltage is False
    now_s[0] += 9
    assert device.host().under_voltage is True
    assert calls.read_text() == "get_throttled\n" * 2


def test_one_that_hangs_is_ended_after_a_second_and_nobody_else_waits(pi: Tree):
    calls = firmware(pi, "exec sleep 600")
    alarm(pi, "0")
    device = reader(pi)
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(device.host().under_voltage))
    began_s = time.monotonic()
    asking.start()
    wait_until(calls.exists, what="vcgencmd runs")
    before_s = time.monotonic()
    assert device.host().under_voltage is False
    assert device.process([]).threads == 0  # of a tree without processes
    assert time.monotonic() - before_s < 0.5
    assert asking.is_alive()
    asking.join(10)
    assert found == [False]
    assert 1.0 <= time.monotonic() - began_s < 3.0


def test_its_children_do_not_pile_up(pi: Tree):
    firmware(pi, "echo throttled=0x0")
    device = reader(pi, interval_s=0.0)
    before = children_of(os.getpid())
    for _ in range(5):
        assert device.host().throttled_flags == "0x0"
    assert children_of(os.getpid()) <= before
