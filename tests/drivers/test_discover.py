"""Devices are found on real drivers, and what is printed for them gives frames and readings."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.capture import make_source
from agent.capture.discover import Found, discover
from agent.cli.discover import snippet
from agent.config import CameraSource, Config, SourceSpec
from agent.runtime.yamlfile import parse_document
from tests.drivers.conftest import load
from tests.drivers.test_sensors import BMP280, LM75
from tests.drivers.vivid import Vivid
from tests.sim import wait_until

LINK = Path("/dev/v4l/by-id/usb-vivid-video-index0")


@pytest.fixture
def by_id(vivid: Vivid) -> Iterator[Path]:
    """The link that udev would make."""
    device = vivid.device()
    assert device is not None
    LINK.parent.mkdir(parents=True, exist_ok=True)
    LINK.symlink_to(device)
    yield LINK
    LINK.unlink()


@pytest.fixture
def thermometer() -> Iterator[None]:
    load("i2c-stub", chip_addr=f"{LM75:#x},{BMP280:#x}")
    load("lm75")
    adapters = Path("/sys/class/i2c-adapter")
    bus = next(entry for entry in adapters.iterdir() if "stub" in (entry / "name").read_text().lower())
    (bus / "new_device").write_text(f"lm75 {LM75:#x}")
    wait_until(lambda: list(bus.glob("*/hwmon/hwmon*/temp1_input")), what="the driver has taken the chip")
    yield
    (bus / "delete_device").write_text(f"{LM75:#x}")


def of_kind(kind: str) -> tuple[Found, ...]:
    return next(search.found for search in discover() if search.kind == kind)


def pasted(found: Found) -> SourceSpec:
    text = f"pipelines:\n  - name: hall\n    model: face\n{snippet(found)}\n"
    return parse_document(text.encode(), Config, "config.yaml").pipelines[0].source


def test_a_camera_tells_its_sizes_and_its_lasting_name_also_while_it_is_in_use(by_id: Path) -> None:
    (camera,) = of_kind("camera")
    print(snippet(camera), *camera.details, sep="\n")
    assert camera.name.startswith("vivid-000-vid-cap at /dev/video")
    assert camera.problem is None
    spec = pasted(camera)
    assert isinstance(spec, CameraSource)
    assert spec.device == str(by_id)
    with closing(make_source(spec)) as source:
        source.open()
        frame = source.read()
        assert frame is not None
        assert frame.data.shape[:2] == (spec.height, spec.width)
        assert of_kind("camera") == (camera,)
        assert source.read() is not None


def test_a_thermometer_is_found_by_its_place(thermometer: None) -> None:
    sensor = next(sensor for sensor in of_kind("sensor") if sensor.name == "lm75 on hwmon")
    print(snippet(sensor))
    with closing(make_source(pasted(sensor))) as source:
        source.open()
        frame = source.read()
        assert frame is not None
        assert frame.channels == ("temperature_c",)
