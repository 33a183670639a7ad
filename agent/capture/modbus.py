"""Registers of an industrial device, over Modbus TCP."""

import logging
import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.capture.polled import Polled
from agent.capture.readings import BadReading, as_value
from agent.config import ModbusRegister, ModbusSource
from agent.errors import SourceError, SourceUnusable

if TYPE_CHECKING:
    from pymodbus.client import ModbusTcpClient

_FORMATS = {"int16": ">h", "uint16": ">H", "int32": ">i", "uint32": ">I", "float32": ">f"}


class ModbusSensor:
    """One connection to a device. A register that it refuses is a missing value; silence is a loss."""

    def __init__(self, spec: ModbusSource, client: "ModbusTcpClient") -> None:
        self.name = f"modbus {spec.host}:{spec.port} unit {spec.unit}"
        self.channels = tuple(spec.registers)
        self._spec, self._client = spec, client

    def open(self) -> None:
        try:
            connected = self._client.connect()  # type: ignore[no-untyped-call]
        except UnicodeError as exc:  # such as two dots in a row
            raise SourceUnusable(f"{self.name}: not a host name: {exc}; is source.host right?") from exc
        if not connected:
            raise SourceError(f"{self.name}: no connection; is it on, and does it speak Modbus TCP on that port?")

    def measure(self) -> list[float]:
        values, faults = [], []
        for register in self._spec.registers.values():
            try:
                values.append(self._read(register))
            except BadReading as exc:
                values.append(math.nan)
                faults.append(f"register {register.address}: {exc}")
        if len(faults) == len(values):
            raise SourceError(f"{self.name}: {faults[0]}")
        return values

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def _read(self, register: ModbusRegister) -> float:
        """Raises BadReading when the device refuses, SourceError when it does not answer."""
        from pymodbus.exceptions import ModbusException

        form = _FORMATS[register.type]
        read = self._client.read_input_registers if register.kind == "input" else self._client.read_holding_registers
        try:
            answer = read(register.address, count=struct.calcsize(form) // 2, device_id=self._spec.unit)
        except (ModbusException, OSError) as exc:
            raise SourceError(f"{self.name}: no answer: {exc}") from exc
        if answer.isError():
            raise BadReading(f"refused with exception code {answer.exception_code}")
        return decode(answer.registers, register)


def decode(words: Sequence[int], register: ModbusRegister) -> float:
    """The value of a register, scaled.

    Raises:
        BadReading: these are not as many words as it has, or the number is none.
    """
    try:
        (number,) = struct.unpack(_FORMATS[register.type], struct.pack(f">{len(words)}H", *words))
    except struct.error as exc:
        raise BadReading(f"{len(words)} words came") from exc
    return as_value(number * register.scale + register.offset)


def make_modbus(spec: ModbusSource) -> Polled:
    """The source that this part of the configuration describes; not open yet.

    Raises:
        SourceUnusable: pymodbus is not installed.
    """
    try:
        from pymodbus.client import ModbusTcpClient
    except ImportError as exc:
        raise SourceUnusable("source modbus: pymodbus is missing; pip install 'edge-agent[modbus]'") from exc
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # its errors are ours, once; its own come at each try
    client = ModbusTcpClient(spec.host, port=spec.port, timeout=spec.read_timeout_s, retries=0)
    return Polled(ModbusSensor(spec, client), spec.interval_s)
