"""What the tests of operators' tools share: a desk with keys, a bundle and the tools, and a look at the broker."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sim.broker import Broker
from tests.sim.fleet import SimDevice
from tests.sim.keys import Authority, keys
from tools import operator_link, operator_login, push_model, retire, rollout

MANIFEST = """
name: digits
version: "{version}"
task: classify
input: {{width_px: 28, height_px: 28, color: gray}}
decoder: {{type: classify}}
"""


def make_model(folder: Path, version: str = "1.0", size_bytes: int = 200_000) -> Path:
    """A bundle as far as one can see without running it; other versions have other bytes."""
    home = folder / "digits" / version
    home.mkdir(parents=True)
    (home / "manifest.yaml").write_text(MANIFEST.format(version=version))
    (home / "labels.txt").write_text("0\n1\n")
    (home / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + random.Random(version).randbytes(size_bytes))
    return home


class Desk:
    """The operator's: keys, trust document, a bundle, and the tools."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.authority = folder, Authority(release=keys("release", "second"))
        self.key = self.write_key("release")
        self.write_trust()
        self.bundle = make_model(folder)
        self.out = self.err = ""
        self._capsys = capsys

    def write_key(self, name: str) -> Path:
        path = self.folder / f"{name}.pem"
        path.write_bytes(keys(name)[0].private_bytes)
        return path

    def write_trust(self) -> None:
        (self.folder / "trust.json").write_bytes(self.authority.trust_file)

    def push(self, port: int, *options: str, bundle: Path | None = None) -> int:
        place = ("--broker", f"mqtt://127.0.0.1:{port}")
        return self._run(push_model.main, [str(bundle or self.bundle), "--key", str(self.key), *place, *options])

    def retire(self, port: int, *options: str) -> int:
        return self._run(retire.main, ["--broker", f"mqtt://127.0.0.1:{port}", *options])

    def _run(self, main: Callable[[list[str]], int], arguments: list[str]) -> int:
        self._capsys.readouterr()
        code = main(arguments)
        self.out, self.err = self._capsys.readouterr()
        print(self.out, self.err)  # for whoever looks at a failed test
        return code

    def device(self, broker: Broker, name: str, **options: Any) -> SimDevice:
        return SimDevice(broker, name, self.authority.trust, **options)


def lying_on(broker: Broker) -> set[str]:
    """Topics below blobs and releases that hold something. The broker answers in order: the last was laid there now."""
    listener = broker.listen("edge/blobs/#", "edge/releases/#", "mark")
    listener.publish("mark")
    messages = listener.wait_for(lambda messages: any(message.topic == "mark" for message in messages))
    return {message.topic for message in messages if message.topic != "mark"}


def release_on(broker: Broker) -> dict[str, Any]:
    """What the retained release says."""
    (message,) = broker.listen("edge/releases/digits").wait_for(lambda messages: messages)
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(message.payload)["payload"]))
    return statement


def make_desk(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose tools are not as patient as they are."""
    monkeypatch.setattr(operator_link, "QUIET_S", 0.2)
    monkeypatch.setattr(operator_link, "RETRY_S", 0.1)
    monkeypatch.setattr(rollout, "SETTLE_S", 0.7)
    monkeypatch.delenv(operator_login.PASSWORD_VARIABLE, raising=False)
    return Desk(folder, capsys)
