"""The daemon beside somebody who may publish anything: it goes on, as the same process, and still answers."""

import json
from pathlib import Path
from typing import Any

import pytest

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
