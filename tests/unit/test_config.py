"""The configuration: complete in config.yaml, strict, and clear about what is wrong."""

import json
import socket
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
import yaml

from agent import config as config_module
from agent.cli.schema import config_schema, field_docs
from agent.config import CameraSource, Config, SourceSpec, device_id, load_config
from agent.config import sources as sources_module
from agent.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = "pipelines: [{name: door, source: {type: camera}, model: face}]\n"


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path)


def error_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


class TestConfigYaml:
    def test_holds_the_defaults_of_the_code(self) -> None:
        """What config.yaml shows is what happens when a key is left out."""
        shown = load_config(ROOT / "config.yaml")
        smallest = msgspec.convert(
            {"pipelines": [{"name": "front-door", "source": {"type": "camera"}, "model": "face"}]}, Config
        )
        assert smallest == shown

    def test_lists_every_option(self) -> None:
        """Every field of every section is in the file, the other sources' as comments."""
        text = (ROOT / "config.yaml").read_text()
        data = yaml.safe_load(text.replace(" on: ", ' "on": '))

        def missing(kind: type, values: Any, path: str) -> list[str]:
            found = []
            for field in msgspec.structs.fields(kind):
                if field.encode_name not in values:
                    found.append(f"{path}.{field.encode_name}")
                elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                    found += missing(field.type, values[field.encode_name], f"{path}.{field.encode_name}")
            return found

        assert [] == missing(Config, data, "")
        assert [] == missing(config_module.Pipeline, data["pipelines"][0], "pipelines[0]")
        for source in set(get_args(SourceSpec)) - {CameraSource}:
            assert f"# type: {source.__struct_config__.tag}" in text
            for field in msgspec.structs.fields(source):
                assert f"# {field.encode_name}:" in text

    def test_every_field_has_a_docstring(self) -> None:
        """The string under a field is what an editor shows."""
        docs = field_docs()
        modules = (config_module, sources_module)
        sections = [kind for module in modules for kind in vars(module).values() if is_section(kind, module)]
        fields = {(kind.__name__, field.name) for kind in sections for field in msgspec.structs.fields(kind)}
        assert fields == {(section, field) for section, texts in docs.items() for field in texts}


def is_section(kind: object, module: ModuleType) -> bool:
    """Defined in this module."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (SMALLEST.replace("camera", "camera, fps: -3"), "config.yaml:1: pipelines[0].source.fps: expected"),
            (SMALLEST.replace("camera", "camera, fps: -3"), "got -3"),
            (SMALLEST.replace("name: door", "nme: door"), "config.yaml:1: pipelines[0].nme: unknown key"),
            (SMALLEST.replace("camera", "camra"), "pipelines[0].source.type: "),
            (SMALLEST.replace("camera", "camra"), "'camra'"),
            (SMALLEST.replace("door", "Front Door"), "pipelines[0].name: "),
            (
                SMALLEST.replace("type: camera", "type: usb"),
                "config.yaml:1: pipelines[0].source.type: expected camera, stream, file, synthetic,",
            ),
            (
                SMALLEST.replace("type: camera", "type: serial, device: /dev/x, channels: [a], baud: 12345"),
                "pipelines[0].source.baud: expected 1200, 2400, 4800, 9600,",
            ),
            (SMALLEST + "log: {level: warn}\n", "log.level: expected debug, error, info or warning, got 'warn'"),
            (SMALLEST + "mqtt: {tls: {ca_file: ca.crt}}\n", "mqtt.tls: enabled: expected true, since ca_file or cert"),
            (SMALLEST + "mqtt: {port: http}\n", "config.yaml:2: mqtt.port: expected int, got 'http'"),
            (SMALLEST + "mqtt: {port: 1}\nmqtt: {port: 2}\n", "config.yaml:3: key 'mqtt' is there twice"),
            (SMALLEST + "outbox: {max_bytes: lots}\n", "outbox.max_bytes: expected a size such as 256MiB, got 'lots'"),
            (SMALLEST + "outbox: {max_age: 7 weeks}\n", "outbox.max_age: expected a duration such as"),
            (SMALLEST + "outbox: {resend_after: 0s}\n", "outbox: resend_after: expected at least 1s, got {"),
            (SMALLEST + "mqtt: {tls: {cert_file: a}}\n", "mqtt.tls: cert_file and key_file: expected both or neither"),
            (SMALLEST + "telemetry: [1]\n", "telemetry: expected object"),
            ("device: {id: a}\n", "pipelines: this key is missing"),
            ("pipelines: []\n", "pipelines: expected"),
            ("pipelines: [\n", "config.yaml:2: "),
            ("- a\n", "config.yaml: expected object"),
            (SMALLEST.replace("]\n", ", {name: door, source: {type: camera}, model: face}]\n"), "door is there twice"),
            ("a: &a [x]\npipelines: *a\n", "aliases are not allowed"),
            ("\x00", "config.yaml"),
        ],
    )
    def test_one_line_names_file_key_and_what_was_expected(self, tmp_path: Path, text: str, expected: str) -> None:
        assert expected in error_of(tmp_path, text)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
            load_config(tmp_path / "nowhere.yaml")

    def test_a_huge_file_is_refused(self, tmp_path: Path) -> None:
        assert "larger than" in error_of(tmp_path, "#" * (1 << 20) + "\n" + SMALLEST)

    def test_a_deep_file_is_refused(self, tmp_path: Path) -> None:
        assert error_of(tmp_path, "pipelines: " + "[" * 5000)


class TestValues:
    def test_sizes_and_durations_have_units(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, SMALLEST + "outbox: {max_bytes: 2 GiB, max_age: 12h}\n")
        assert (2 << 30, 43200.0) == (loaded.outbox.max_bytes, loaded.outbox.max_age)

    def test_on_is_a_key_and_not_a_boolean(self, tmp_path: Path) -> None:
        """YAML 1.1 reads `on` as true."""
        loaded = load(tmp_path, SMALLEST.replace("face}", "face, snapshots: {on: none}}"))
        assert "none" == loaded.pipelines[0].snapshots.on

    def test_the_host_name_is_the_default_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "Pi-4.local")
        assert "pi-4" == device_id(load(tmp_path, SMALLEST))

    def test_a_host_name_that_fits_no_topic_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "kamera+1")
        with pytest.raises(ConfigError, match=r"device\.id"):
            device_id(load(tmp_path, SMALLEST))


class TestSchema:
    def test_accepts_config_yaml_and_refuses_a_typo(self) -> None:
        schema = config_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        text = (ROOT / "config.yaml").read_text().replace(" on: ", ' "on": ')
        data = yaml.safe_load(text)
        jsonschema.validate(data, schema)
        data["mqtt"]["prot"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema)

    def test_is_json(self) -> None:
        assert json.loads(json.dumps(config_schema()))["title"] == "edge-agent configuration"
