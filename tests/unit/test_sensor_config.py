"""Sensors in the configuration: the guide's examples are right ones, and what is wrong is said."""

import re
from pathlib import Path

import pytest
import yaml

from agent.capture import SOURCES, make_source, stall_timeout_s
from agent.config import (
    Config,
    CsvSource,
    ExecSource,
    MqttSource,
    SerialSource,
    SysfsSource,
    load_config,
)
from agent.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```yaml\n(source:.*?)```", (ROOT / "docs" / "sensors.md").read_text(), re.DOTALL)
SENSORS = ["csv", "exec", "modbus", "mqtt", "serial", "sysfs"]


def load(tmp_path: Path, source: object) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"pipelines": [{"name": "a", "model": "m", "source": source}]}))
    return load_config(path)


def test_the_guide_has_an_example_of_each(tmp_path: Path) -> None:
    sources = [load(tmp_path, yaml.safe_load(example)["source"]).pipelines[0].source for example in EXAMPLES]
    assert sorted({source.__struct_config__.tag for source in sources}) == SENSORS
    for source in sources:
        assert type(source) in SOURCES
        assert make_source(source).name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"type": "sysfs", "channels": {}}, "source.channels: expected object of length >= 1"),
        ({"type": "sysfs", "channels": {"t": {"path": "in_temp_input"}}}, "expected str matching regex '^/.+'"),
        ({"type": "serial", "device": "/dev/ttyUSB0", "channels": ["a", "a"]}, "channels: the name a is there twice"),
        ({"type": "serial", "device": "/dev/ttyUSB0", "channels": ["a"], "baud": 9601}, "baud"),
        ({"type": "serial", "device": "/dev/ttyUSB0", "channels": ["a"], "delimiter": '"'}, "delimiter"),
        ({"type": "serial", "device": "/dev/ttyUSB0"}, "channels: this key is missing"),
        ({"type": "mqtt", "topic": "zigbee2mqtt/+", "channels": {"t": "t"}}, "source.topic: expected str matching"),
        ({"type": "mqtt", "topic": "a", "channels": {"t": {"topic": "b/#"}}}, "expected str matching"),
        ({"type": "exec", "command": ["a"], "output": "json"}, "channels: expected some with output json"),
        ({"type": "exec", "command": ["a"], "channels": ["t"]}, "channels: expected none with output mjpeg"),
        ({"type": "csv", "path": "a.csv", "channels": ["a", "a"]}, "the name a is there twice"),
        (
            {"type": "modbus", "host": "a", "registers": {"e": {"address": 65535, "type": "float32"}}},
            "address: float32 takes two registers, and 65535 is the last",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, source: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_silence_is_judged_by_what_a_source_promises() -> None:
    """An interval is no silence; a recording keeps its own pace."""
    channels = {"t": "t"}
    assert stall_timeout_s(SysfsSource(channels={}, interval_s=60.0, read_timeout_s=5.0)) == 65.0
    assert stall_timeout_s(SerialSource(device="/dev/ttyUSB0", channels=channels)) == 10.0
    assert stall_timeout_s(ExecSource(command=("a",), output="json", channels=channels)) == 5.0
    assert stall_timeout_s(MqttSource(topic="a", channels=channels, read_timeout_s=None)) is None
    assert stall_timeout_s(CsvSource(path="a.csv")) is None
