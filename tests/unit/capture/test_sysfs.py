"""Files below /sys, in a folder that looks like it: what the kernel really gives, and what it gives when it can't."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.capture.readings import BadReading
from agent.capture.sysfs import SysfsSensor, parse_w1
from agent.config import SysfsChannel, SysfsSource
from agent.errors import SourceError

IIO = "/sys/bus/iio/devices/iio:device0"
W1 = "/sys/bus/w1/devices/28-000005e2fdc3/w1_slave"
W1_TEXT = "4b 01 4b 46 7f ff 05 10 e1 : crc=e1 YES\n4b 01 4b 46 7f ff 05 10 e1 t=20687\n"


@pytest.fixture
def sys_with(tmp_path):
    """Lay files below a root; gives the root."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def sensor(root, **channels):
    return SysfsSensor(SysfsSource(channels=channels), root)


@pytest.mark.parametrize(
    ("files", "channel", "expected"),
    [
        ({f"{IIO}/in_temp_input": "25080\n"}, SysfsChannel(path=f"{IIO}/in_temp_input", scale=1e-3), 25.08),
        (
            {f"{IIO}/in_pressure_input": "100.653253906\n"},
            SysfsChannel(path=f"{IIO}/in_pressure_input", scale=10.0),
            1006.53253906,
        ),
        (
            {"/sys/class/hwmon/hwmon3/temp1_input": "-1500\n"},
            SysfsChannel(path="/sys/class/hwmon/hwmon*/temp1_input", scale=1e-3, offset=0.5),
            -1.0,
        ),
        (
            {"/sys/class/thermal/thermal_zone0/temp": "48312"},
            SysfsChannel(path="/sys/class/thermal/thermal_zone0/temp", scale=1e-3),
            48.312,
        ),
        ({W1: W1_TEXT}, SysfsChannel(path="/sys/bus/w1/devices/28-*/w1_slave", scale=1e-3), 20.687),
        (
            {f"{IIO}/in_temp_raw": "120", f"{IIO}/in_temp_scale": "62.5\n", f"{IIO}/in_temp_offset": "-20"},
            SysfsChannel(path=f"{IIO}/in_temp_raw", scale=1e-3),
            6.25,
        ),
        (
            {f"{IIO}/in_accel_x_raw": "-512", f"{IIO}/in_accel_scale": "0.019163"},
            SysfsChannel(path=f"{IIO}/in_accel_x_raw"),
            -9.811456,
        ),
        (
            {f"{IIO}/in_voltage0_raw": "100", f"{IIO}/in_voltage_scale": "0.5"},
            SysfsChannel(path=f"{IIO}/in_voltage0_raw"),
            50.0,
        ),
        (
            {
                f"{IIO}/in_voltage0_raw": "100",
                f"{IIO}/in_voltage_scale": "0.5",
                f"{IIO}/in_voltage0_scale": "0.25",
            },
            SysfsChannel(path=f"{IIO}/in_voltage0_raw"),
            25.0,
        ),
        ({f"{IIO}/in_voltage0_raw": "100"}, SysfsChannel(path=f"{IIO}/in_voltage0_raw"), 100.0),
    ],
)
def test_a_number_becomes_a_value(sys_with, files, channel, expected):
    assert sensor(sys_with(files), value=channel).measure() == pytest.approx([expected])


@pytest.mark.parametrize("text", ["", "\n", "n/a", "nan", "1e39", "12 34", "1" * 5000, "\0\0"])
def test_what_is_no_number_is_a_missing_value_and_so_is_a_file_that_is_not_there(sys_with, text):
    root = sys_with({f"{IIO}/good": "1", f"{IIO}/bad": text})
    channels = {name: SysfsChannel(path=f"{IIO}/{name}") for name in ("good", "bad", "gone")}
    assert np.array_equal(sensor(root, **channels).measure(), [1.0, math.nan, math.nan], equal_nan=True)


def test_a_channel_that_is_lost_is_logged_once_and_once_when_it_is_back(sys_with):
    files = {f"{IIO}/a": "1", f"{IIO}/b": "2"}
    root = sys_with(files)
    both = sensor(root, a=SysfsChannel(path=f"{IIO}/a"), b=SysfsChannel(path=f"{IIO}/b"))
    (root / f"{IIO}/b".lstrip("/")).unlink()
    with capture_logs() as logs:
        for _ in range(3):
            assert math.isnan(both.measure()[1])
        sys_with(files)
        for _ in range(3):
            assert both.measure() == [1.0, 2.0]
    assert [(entry["event"], entry["channel"]) for entry in logs] == [
        ("capture.channel_lost", "b"),
        ("capture.channel_recovered", "b"),
    ]


def test_a_device_that_comes_back_under_another_number_is_found(sys_with):
    root = sys_with({f"{IIO}/in_temp_input": "1"})
    one = sensor(root, t=SysfsChannel(path="/sys/bus/iio/devices/iio:device*/in_temp_input"))
    assert one.measure() == [1.0]
    (root / f"{IIO}/in_temp_input".lstrip("/")).unlink()
    with pytest.raises(SourceError, match="No such file"):
        one.measure()
    sys_with({"/sys/bus/iio/devices/iio:device1/in_temp_input": "2"})
    assert one.measure() == [2.0]


def test_two_files_that_fit_are_no_choice(sys_with):
    root = sys_with({f"/sys/class/hwmon/hwmon{turn}/temp1_input": "1" for turn in range(2)})
    with pytest.raises(SourceError, match="temp1_input: 2 files fit, expected one"):
        sensor(root, t=SysfsChannel(path="/sys/class/hwmon/hwmon*/temp1_input")).measure()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (W1_TEXT.replace("YES", "NO"), "checksum"),
        (W1_TEXT.partition("\n")[0], "no temperature"),
        (W1_TEXT.replace("t=20687", "t="), "no temperature"),
        ("", "checksum"),
    ],
)
def test_a_wire_that_is_disturbed_gives_no_temperature(text, fault):
    with pytest.raises(BadReading, match=fault):
        parse_w1(text)


@given(st.text())
def test_no_text_of_a_wire_does_harm(text):
    try:
        assert math.isfinite(parse_w1(text))
    except BadReading:
        pass
