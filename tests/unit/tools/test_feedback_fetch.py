"""`tools/feedback.py collect` against a real broker, and a device that follows a script."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.wire.samples import PROPERTY
from tests.sim.broker import Broker
from tests.unit.tools.kept import png, told
from tools import feedback, feedback_fetch
from tools.feedback_fetch import Fetch
from tools.feedback_inbox import Inbox
from tools.operator_link import OperatorError, OperatorLink, connect

Answer = dict[str, Any]


class Device:
    """Answers `samples` by a script; what it sends comes before its answer."""

    def __init__(self, broker: Broker, name: str = "cam-1") -> None:
        self.branch = f"edge/devices/{name}"
        self.script: Callable[[Answer], Answer | None] = lambda _: {"ok": True, "data": {"sent": 0, "waiting": 0}}
        """From the command's body to the answer; None: it says nothing."""
        self.asked: list[Answer] = []
        self._ready = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        client.on_connect = lambda c, *_: c.subscribe(f"{self.branch}/commands/+", 1)
        client.on_subscribe = lambda *_: self._ready.set()
        client.on_message = self._answer
        client.connect(broker.host, broker.port)
        client.loop_start()
        self.client = client
        assert self._ready.wait(20)

    def send(self, number: int, data: bytes | None = None, topic: str | None = None, **fields: Any) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [(PROPERTY, told(number, **fields))]
        payload = png(number) if data is None else data
        self.client.publish(topic or f"{self.branch}/samples/door", payload, 1, properties=properties)

    def reply(self, to: str, answer: Answer) -> None:
        self.client.publish(to, json.dumps(answer), 1)

    def _answer(self, _client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        body = json.loads(message.payload)
        self.asked.append(body)
        self.to = message.properties.ResponseTopic
        answer = self.script(body)
        if answer is not None:
            self.reply(self.to, answer)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def device(broker: Broker) -> Iterator[Device]:
    device = Device(broker)
    yield device
    device.close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def fetch(broker: Broker, tmp_path: Path, said: list[str]) -> Iterator[Fetch]:
    options = feedback.make_parser().parse_args(["collect", "x", "--broker", f"mqtt://127.0.0.1:{broker.port}"])
    with connect(options, said.append) as link:
        fetch = Fetch(link, "edge", Inbox(tmp_path / "door"), said.append, quiet_s=0.5)
        fetch.listen()
        yield fetch


def done(sent: int, waiting: int = 0) -> Answer:
    return {"ok": True, "data": {"sent": sent, "waiting": waiting}}


def names(folder: Path) -> list[str]:
    return [sample.name for sample in Inbox(folder / "door").all()]


def test_it_asks_until_the_device_has_no_more(
    broker: Broker, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [3, 2, 1]

    def script(_: Answer) -> Answer:
        device.send(left.pop())
        return done(1, len(left))

    device.script = script
    command = ["collect", str(tmp_path / "door"), "--device", "cam-1", "--pipeline", "door"]
    assert feedback.main([*command, "--broker", f"mqtt://127.0.0.1:{broker.port}"]) == 0
    assert device.asked == [{"pipeline": "door"}] * 3
    assert "3 new, 0 known, 0 refused; 3 without a label" in capsys.readouterr().out
    assert len(names(tmp_path)) == 3


def test_hostile_samples_are_left_out_and_told(fetch: Fetch, device: Device, tmp_path: Path, said: list[str]) -> None:
    def script(_: Answer) -> Answer:
        device.send(1)
        device.send(1)
        device.send(2, b"no picture")
        device.send(3, device="cam-2")
        device.send(4)
        device.client.publish(f"{device.branch}/samples/door", png(), 1)
        return done(6)

    device.script = script
    fetch.ask("cam-1", None)
    assert fetch.counts == {"new": 2, "known": 1, "refused": 3}
    assert names(tmp_path) == ["cam-1-0000000000000001", "cam-1-0000000000000004"]
    assert len(said) == 3
    assert all(line.isprintable() and ": not taken: " in line for line in said)


def test_a_device_that_promises_and_sends_nothing_is_not_asked_for_ever(fetch: Fetch, device: Device) -> None:
    device.script = lambda _: done(5, 5)
    fetch.ask("cam-1", None)
    assert len(device.asked) == 1


def test_a_device_that_needs_longer_is_asked_again(fetch: Fetch, device: Device) -> None:
    def script(_: Answer) -> Answer:
        if len(device.asked) > 1:
            return done(0)
        device.send(1)
        return {"ok": True, "data": {"started": True}}

    device.script = script
    fetch.ask("cam-1", None)
    assert len(device.asked) == 2


def test_a_refusal_is_one_line(fetch: Fetch, device: Device) -> None:
    device.script = lambda _: {"ok": False, "error": "pipeline door keeps no samples\n\x1b[2J"}
    with pytest.raises(OperatorError, match=r"^cam-1: pipeline door keeps no samples\\n\\x1b\[2J$"):
        fetch.ask("cam-1", None)


def test_nobody_answers(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_fetch, "ANSWER_S", 0.5)
    with pytest.raises(
        OperatorError, match=r"cam-9: no answer within 0.5 s; is it there\? see edge/devices/cam-9/status"
    ):
        fetch.ask("cam-9", None)


def test_another_device_can_not_answer_in_its_place(fetch: Fetch, device: Device) -> None:
    def script(_: Answer) -> Answer:
        device.reply(device.to.replace("cam-1", "cam-2"), {"ok": False, "error": "it is me"})
        device.reply(device.to, [1])
        return done(0)

    device.script = script
    fetch.ask("cam-1", None)


def test_without_a_device_it_hears_what_comes_by_itself(
    broker: Broker, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with `upload_every`. The first wait ends with Ctrl-C, as an operator would."""
    wait = OperatorLink.wait

    def heard(link: OperatorLink, timeout_s: float) -> None:
        wait(link, timeout_s)
        if names(tmp_path):
            raise KeyboardInterrupt

    monkeypatch.setattr(OperatorLink, "wait", heard)
    listen = Fetch.listen

    def listening(fetch: Fetch) -> None:
        listen(fetch)
        device.send(1)

    monkeypatch.setattr(Fetch, "listen", listening)
    command = ["collect", str(tmp_path / "door"), "--broker", f"mqtt://127.0.0.1:{broker.port}"]
    assert feedback.main(command) == 0
    assert "interrupted" in capsys.readouterr().out
    assert names(tmp_path) == ["cam-1-0000000000000001"]
