"""Sensors behind the kernel's own drivers: an I2C bus with memory instead of chips, and files below /sys."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.capture import FrameSource
from agent.capture.sysfs import make_sysfs
from agent.config import SysfsChannel, SysfsSource
from agent.errors import SourceError
from tests.drivers.conftest import load

LM75, BMP280 = 0x48, 0x76
# The example of the BMP280's data sheet, section 3.12: from these come 25.08 C and 100.653 kPa.
CALIBRATION = [27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000]
RAW_PRESSURE, RAW_TEMPERATURE = 415148, 519888
CHANNELS = {
    "room_c": SysfsChannel("/sys/bus/i2c/devices/*-0048/hwmon/hwmon*/temp1_input", scale=0.001),
    "outside_c": SysfsChannel("/sys/bus/iio/devices/*/in_temp_input", scale=0.001),
    "pressure_kpa": SysfsChannel("/sys/bus/iio/devices/*/in_pressure_input"),
}


class Bus:
    """An I2C bus of the driver `i2c-stub`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = folder.name.removeprefix("i2c-")

    def write_bytes(self, chip: int, register: int, data: bytes) -> None:
        """At most 32, into as many registers."""
        self._set(chip, register, *map(str, data), "i")

    def write_word(self, chip: int, register: int, word: int) -> None:
        self._set(chip, register, str(word), "w")

    def plug(self, driver: str, chip: int) -> None:
        (self._folder / "new_device").write_text(f"{driver} {chip:#x}")

    def unplug(self, chip: int) -> None:
        (self._folder / "delete_device").write_text(f"{chip:#x}")

    def _set(self, chip: int, register: int, *rest: str) -> None:
        subprocess.run(["i2cset", "-y", self._number, str(chip), str(register), *rest], check=True)


@pytest.fixture(scope="module")
def bus() -> Bus:
    """With both chips on it."""
    load("i2c-stub", chip_addr=f"{LM75},{BMP280}")
    for driver in ("i2c-dev", "lm75", "bmp280-i2c"):
        load(driver)
    adapters = Path("/sys/class/i2c-adapter")
    bus = Bus(next(entry for entry in adapters.iterdir() if "stub" in (entry / "name").read_text().lower()))
    bus.write_word(LM75, 0x00, 0x0019)  # 25 C, high byte first
    bus.write_bytes(BMP280, 0xD0, b"\x58")
    for at in range(0, len(CALIBRATION), 6):
        part = CALIBRATION[at : at + 6]
        bus.write_bytes(BMP280, 0x88 + 2 * at, b"".join((value & 0xFFFF).to_bytes(2, "little") for value in part))
    bus.write_bytes(BMP280, 0xF7, (RAW_PRESSURE << 4).to_bytes(3, "big") + (RAW_TEMPERATURE << 4).to_bytes(3, "big"))
    bus.plug("lm75", LM75)
    bus.plug("bmp280", BMP280)
    return bus


@pytest.fixture
def sensors(bus: Bus) -> Iterator[FrameSource]:
    source = make_sysfs(SysfsSource(channels=CHANNELS, interval_s=0.05))
    source.open()
    yield source
    source.close()


def reading(source: FrameSource) -> list[float]:
    frame = source.read()
    assert frame is not None
    return [round(float(value), 3) for value in frame.data[0]]


def test_thermometer_and_barometer_say_what_their_data_sheets_say(sensors: FrameSource) -> None:
    assert reading(sensors) == [25.0, 25.08, 100.653]


def test_a_chip_that_goes_is_a_missing_value_and_comes_back(sensors: FrameSource, bus: Bus) -> None:
    reading(sensors)
    bus.unplug(BMP280)
    assert np.isnan(reading(sensors)).tolist() == [False, True, True]
    bus.plug("bmp280", BMP280)
    assert reading(sensors) == [25.0, 25.08, 100.653]


def test_without_any_chip_the_source_is_lost(sensors: FrameSource, bus: Bus) -> None:
    for chip in (LM75, BMP280):
        bus.unplug(chip)
    with pytest.raises(SourceError, match=r"temp1_input: no such file|No such device"):
        reading(sensors)
    bus.plug("lm75", LM75)
    bus.plug("bmp280", BMP280)
    assert reading(sensors) == [25.0, 25.08, 100.653]
