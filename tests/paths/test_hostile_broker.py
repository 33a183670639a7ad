"""The daemon beside somebody who may publish anything: it goes on, as the same process, and still answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.paths.test_daemon import BRANCH, ask
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.keys import Authority

TOPICS = [
    f"{BRANCH}/commands/set",
    f"{BRANCH}/commands/\u00e9" + "x" * 300,
    "edge/groups/yard/commands/status",
    f"{BRANCH}/ack",
    "edge/releases/face",
    "edge/releases/_trust",
]
PAYLOADS = [
    b"",
    b"\0",
    b'{"pipeline": "\xff", "schema": "\xff", "payload": "\xff"}',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"seq": 9' + b"9" * 60_000 + b"}",
    b'{"schema": "edge.ack/1", "seq": 9007199254740991}',
    b'{"enabled": false, "enabled": true}',
    b"\xff" * 66_000,
    b"x" * 200_000,
]


@pytest.fixture
def config(tmp_path: Path, broker: Broker) -> dict[str, Any]:
    (tmp_path / "trust.json").write_bytes(Authority().trust_file)
    config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
    config["models"] |= {"trust": str(tmp_path / "trust.json")}
    config["outbox"] |= {"trim": "collector"}
    return config


def test_anything_on_every_topic(tmp_path: Path, broker: Broker, config: dict[str, Any]) -> None:
    with Agent(tmp_path, config) as agent:
        before = agent.wait_for_status(lambda status: status["pipelines"]["door"]["frames_inferred"])
        listener = broker.listen("answers/#")
        for topic in TOPICS:
            for payload in PAYLOADS:
                listener.publish(topic, payload, retain=not topic.startswith(f"{BRANCH}/commands"))
        assert ask(listener, "ping")["ok"]
        after = agent.wait_for_status(
            lambda status: (
                status["pipelines"]["door"]["frames_inferred"] > before["pipelines"]["door"]["frames_inferred"] + 5
            )
        )
        assert (before["pid"], before["boot"]) == (after["pid"], after["boot"])
        assert after["pipelines"]["door"]["source_state"] == "running"
        assert after["outbox"]["pending"] > 0, "an acknowledgement of what was never sent counts for nothing"
        assert after["model_states"]["face"]["active"]["version"] == "2026.11.1"
        longest = max(map(len, agent.log_file.read_text(errors="replace").splitlines()))
        assert longest < 4_000, "what strangers send does not fill the log"
        assert not [entry for entry in agent.log() if "Traceback" in json.dumps(entry)]


def test_acknowledgements_are_heard_after_a_packet_that_can_not_be_read(
    tmp_path: Path, broker: Broker, config: dict[str, Any]
) -> None:
    """Nothing retained is asked for during ten minutes then; results must not wait for that."""
    poison = Properties(PacketTypes.PUBLISH)
    poison.UserProperty = ("note", "\ufeffhello")
    with Agent(tmp_path, config) as agent:
        listener = broker.listen("answers/#", f"{BRANCH}/results/#", f"{BRANCH}/events/#", f"{BRANCH}/models/#")
        agent.wait_for_status(lambda status: status["mqtt"]["connected"] and status["outbox"]["pending"])
        broker.listen().publish(f"{BRANCH}/commands/ping", b"poison", properties=poison)
        agent.wait_for_status(lambda status: status["mqtt"]["connected"] and status["mqtt"]["connects"] == 2)
        assert ask(listener, "set", {"enabled": False})["ok"]

        def acknowledged(status: dict[str, Any]) -> bool:
            seqs = [json.loads(m.payload).get("seq", 0) for m in listener.messages if m.payload[:1] == b"{"]
            listener.publish(f"{BRANCH}/ack", json.dumps({"schema": "edge.ack/1", "seq": max(seqs)}).encode())
            return bool(status["outbox"]["pending"] == 0)

        agent.wait_for_status(acknowledged)
