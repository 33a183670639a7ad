"""Registers: what their bits mean, what a device refuses, and what happens without pymodbus."""

import math
import sys
import time

import numpy as np
import pytest

from agent.capture import make_source
from agent.capture.modbus import decode
from agent.capture.readings import BadReading
from agent.config import ModbusRegister, ModbusSource
from agent.errors import SourceError, SourceUnusable
from tests.sim.sensors import ModbusDevice


@pytest.mark.parametrize(
    ("words", "kind", "expected"),
    [
        ([0xFFFE], "int16", -2.0),
        ([0xFFFE], "uint16", 65534.0),
        ([0xFFFF, 0xFFFE], "int32", -2.0),
        ([0x0001, 0x0000], "uint32", 65536.0),
        ([0x41B4, 0x0000], "float32", 22.5),
    ],
)
def test_words_become_numbers_the_high_half_first(words, kind, expected):
    assert decode(words, ModbusRegister(address=0, type=kind)) == expected
    assert decode(words, ModbusRegister(address=0, type=kind, scale=0.5, offset=1.0)) == expected * 0.5 + 1.0


@pytest.mark.parametrize("words", [[], [1], [1, 2, 3], [0x7FC0, 0], [0x7F80, 0]])
def test_too_few_words_and_what_is_no_number_are_broken(words):
    with pytest.raises(BadReading):
        decode(words, ModbusRegister(address=0, type="float32"))


def source_of(port, **registers):
    return make_source(
        ModbusSource(host="127.0.0.1", port=port, registers=registers, interval_s=0.01, read_timeout_s=0.3)
    )


def test_a_device_that_answers_refuses_freezes_and_goes():
    with ModbusDevice([10, 0xFFFF, 0x41B4, 0], [7, 8]) as device:
        here, refused = ModbusRegister(address=1), ModbusRegister(address=99)
        source = source_of(
            device.port,
            signed=here,
            real=ModbusRegister(address=2, type="float32"),
            input=ModbusRegister(address=1, kind="input", scale=0.5),
            refused=refused,
        )
        source.open()
        assert np.array_equal(source.read().data, [[-1.0, 22.5, 4.0, math.nan]], equal_nan=True)
        device.freeze()
        started_s = time.monotonic()
        with pytest.raises(SourceError, match=r"modbus 127\.0\.0\.1:\d+ unit 1: no answer"):
            source.read()
        assert time.monotonic() - started_s < 3.0
        device.thaw()
        source.close()
        source = source_of(device.port, refused=refused)
        source.open()
        with pytest.raises(SourceError, match="register 99: refused with exception code 2"):
            source.read()
        source.close()


def test_what_can_not_be_a_host_name_is_said():
    source = make_source(ModbusSource(host="plc..local", registers={"a": ModbusRegister(address=0)}))
    with pytest.raises(SourceUnusable, match=r"modbus plc\.\.local:502 unit 1: not a host name: .*source\.host"):
        source.open()


def test_without_pymodbus_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymodbus.client", None)
    with pytest.raises(SourceUnusable, match=r"pip install 'edge-agent\[modbus\]'"):
        source_of(502, a=ModbusRegister(address=0))
