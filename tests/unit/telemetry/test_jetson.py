"""A Jetson's GPU, zones and rails, from trees as JetPack's kernels make them."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from agent.telemetry.device import DeviceReader
from agent.wire.host import HostTelemetry
from tests.sim.trees import Tree

ORIN = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"


@pytest.fixture
def jetson(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


def gpu(jetson: Tree, load: str, node: str = "gpu", place: str = "17000000.gpu") -> None:
    """As nvgpu makes it: a frequency that is governed, and the load beside it."""
    jetson.write(f"sys/devices/platform/{place}/of_node/name", f"{node}\0")
    jetson.write(f"sys/devices/platform/{place}/load", f"{load}\n")
    jetson.link(f"sys/devices/platform/{place}/devfreq/{place}/device", f"sys/devices/platform/{place}")
    jetson.link(f"sys/class/devfreq/{place}", f"sys/devices/platform/{place}/devfreq/{place}")


def zones(jetson: Tree, **degrees: str) -> None:
    for number, (name, value) in enumerate(degrees.items()):
        jetson.write(f"sys/class/thermal/thermal_zone{number}/type", f"{name.replace('_', '-')}\n")
        jetson.write(f"sys/class/thermal/thermal_zone{number}/temp", f"{value}\n")


def monitor(jetson: Tree, number: int, **files: Any) -> None:
    jetson.write(f"sys/class/hwmon/hwmon{number}/name", "ina3221\n")
    for name, value in files.items():
        jetson.write(f"sys/class/hwmon/hwmon{number}/{name}", f"{value}\n")


def host(jetson: Tree) -> HostTelemetry:
    return DeviceReader(disk_of=jetson.root, root=jetson.root).host()


def test_an_orin(jetson: Tree):
    jetson.write("proc/device-tree/model", f"{ORIN}\0")
    gpu(jetson, "437")
    zones(jetson, cpu_thermal="51500", gpu_thermal="52125", soc0_thermal="53000", tj_thermal="53000")
    monitor(jetson, 0, in1_label="VDD_IN", in1_input=5064, curr1_input=920)
    monitor(jetson, 1, in1_label="VDD_CPU_GPU_CV", in1_input=5056, curr1_input=152, in2_label="VDD_SOC")
    told = host(jetson)
    assert (told.board, told.gpu_percent, told.gpu_temperature_c) == (ORIN, 43.7, 52.125)
    assert told.temperature_c == 53.0
    assert told.power_w == {"VDD_IN": 4.659, "VDD_CPU_GPU_CV": 0.769}
    assert (told.throttled, told.under_voltage) == (UNSET, UNSET)


def test_a_xavier_whose_gpu_sleeps(jetson: Tree):
    """Zones of what sleeps read -256 degrees; the PMIC's reads 100 always; a channel NC leads nowhere."""
    gpu(jetson, "0", node="gv11b", place="17000000.gv11b")
    zones(jetson, CPU_therm="46500", GPU_therm="-256000", AUX_therm="45000", PMIC_Die="100000")
    rail = {"in1_label": "VDD_IN", "in1_input": 19_064, "curr1_input": 400}
    monitor(jetson, 3, **rail, in2_label="NC", in2_input=10, curr2_input=10, in7_label="sum of shunt voltages")
    told = host(jetson)
    assert (told.gpu_percent, told.gpu_temperature_c, told.temperature_c) == (0.0, UNSET, 46.5)
    assert told.temperatures_c == {"CPU-therm": 46.5, "AUX-therm": 45.0}
    assert told.power_w == {"VDD_IN": 7.626}


@pytest.mark.parametrize(("load", "expected"), [("1000", 100.0), ("1001", UNSET), ("-1", UNSET), ("busy", UNSET)])
def test_the_load_is_per_mille(jetson: Tree, load: str, expected: object):
    gpu(jetson, load)
    assert host(jetson).gpu_percent == expected


def test_other_parts_with_a_governed_frequency_are_not_the_gpu(jetson: Tree):
    gpu(jetson, "900", node="vic", place="15340000.vic")
    gpu(jetson, "300", node="ga10b", place="17000000.ga10b")
    assert host(jetson).gpu_percent == 30.0


def test_a_rail_that_feeds_back_takes_less_than_nothing(jetson: Tree):
    monitor(jetson, 0, in1_label="VDD_IN", in1_input=5000, curr1_input=-8)
    assert host(jetson).power_w == {"VDD_IN": -0.04}


def test_rails_are_bounded(jetson: Tree):
    for number in range(10):
        for channel in (1, 2, 3):
            files = {
                f"in{channel}_label": f"RAIL_{number}_{channel}",
                f"in{channel}_input": 1,
                f"curr{channel}_input": 1,
            }
            monitor(jetson, number, **files)
    rails = host(jetson).power_w
    assert isinstance(rails, dict)
    assert len(rails) == 16
