"""A model is pushed over a real broker to the real daemon, which shows it on real pixels."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.runtime.clock import Clock
from agent.updates.trust import CHAIN_NAME
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import ROOT, make_bundle
from tests.sim.keys import keys
from tests.sim.operators import Operator

HASTE = {"acceptance": {"shadow_frames": 3}, "activation": {"health_window_s": 1, "min_frames": 3}}
"""What a release asks of a device whose test should be over soon."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def operator(broker: Broker) -> Operator:
    return Operator(broker)


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, operator: Operator) -> Iterator[Agent]:
    (tmp_path / "trust.json").write_bytes(operator.authority.trust_file)
    config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
    config["models"] |= {"trust": str(tmp_path / "trust.json"), "healthy_after_s": 2}
    with Agent(tmp_path, config) as agent:
        yield agent


def make_version(tmp_path: Path, version: str, name: str = "face") -> Path:
    """Another version of the bundle that the agent has."""
    old = tmp_path / "models" / name / "2026.11.1"
    new = tmp_path / "operator" / version
    shutil.copytree(old, new)
    manifest = new / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace(f"version: {old.name}", f"version: {version}"))
    return new


def test_a_pushed_model_answers_frames_and_is_confirmed(tmp_path: Path, agent: Agent, operator: Operator) -> None:
    number = operator.push(make_version(tmp_path, "2026.12.1"), **HASTE)
    state = operator.wait_until_ended(number)
    assert state["candidate"]["state"] == "active", state
    assert (state["active"]["version"], state["previous"]["version"]) == ("2026.12.1", "2026.11.1")
    agent.wait_for_status(lambda status: status["models"]["door"]["version"] == "2026.12.1")
    assert (tmp_path / "models" / "face" / "current").read_text().strip() == "2026.12.1"
    assert json.loads(json.dumps(agent.status()["model_states"]["face"]))["floor"] == 1


def refused(code: str) -> Callable[[dict[str, Any]], bool]:
    """A state that says so."""
    return lambda state: bool(state["refused"] == code)


class TestWhatIsNotTaken:
    """Each ends with its reason code, and the device runs what it ran."""

    def test_what_nobody_trusted_has_signed(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        operator.push(make_version(tmp_path, "2026.12.1"), signers=keys("somebody"))
        assert operator.wait_for(refused("signature"))["active"]["version"] == "2026.11.1"

    def test_a_root_key_signs_no_release(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        operator.push(make_version(tmp_path, "2026.12.1"), signers=operator.authority.root)
        operator.wait_for(refused("signature"))

    def test_an_old_number_and_the_same_number_with_other_bytes(
        self, tmp_path: Path, agent: Agent, operator: Operator
    ) -> None:
        first = operator.push(make_version(tmp_path, "2026.12.1"), release=5, **HASTE)
        operator.wait_until_ended(first)
        second = make_version(tmp_path, "2026.12.2")
        operator.push(second, release=4, **HASTE)
        operator.wait_for(refused("rollback"))
        operator.push(second, release=5, **HASTE)
        state = operator.wait_for(refused("conflict"))
        assert (state["active"]["version"], state["floor"]) == ("2026.12.1", 5)

    @pytest.mark.parametrize(
        ("code", "fields"),
        [
            ("fleet", {"fleet": "others"}),
            ("target", {"targets": {"devices": ["cam-2"]}}),
            ("expired", {"expires": "2020-01-01T00:00:00Z", "created": "2019-01-01T00:00:00Z"}),
            ("requires", {"requires": {"agent_min": "99.0"}}),
            ("schema", {"critical": ["time-travel"]}),
        ],
    )
    def test_what_is_not_for_this_device(
        self, tmp_path: Path, agent: Agent, operator: Operator, code: str, fields: dict[str, object]
    ) -> None:
        if code == "expired" and Clock().state() == "unsynced":
            fields = fields | {"expires": "2019-06-01T00:00:00Z"}
            operator.wait_until_ended(
                operator.push(make_version(tmp_path, "2026.12.1"), **HASTE)
            )  # its date counts now
        operator.push(make_version(tmp_path, "2026.12.2"), **fields)
        operator.wait_for(refused(code))

    def test_a_flood_of_messages_costs_no_frames(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        agent.wait_for_status(lambda status: status["pipelines"]["door"]["frames_inferred"] > 0)
        for size in range(200):
            operator.offer(b"[" * (300 * size))
        operator.wait_for(refused("rate"))
        seen = agent.status()["pipelines"]["door"]["frames_inferred"]
        agent.wait_for_status(lambda status: status["pipelines"]["door"]["frames_inferred"] > seen + 10)


class TestTrust:
    def test_a_stolen_release_key_is_undone(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        """Root keys replace it and revoke what it signed: the device goes back, and does not take it again."""
        first = operator.wait_until_ended(operator.push(make_version(tmp_path, "2026.12.1"), **HASTE))
        operator.authority.advance(release=keys("new"), revoked=[first["active"]["sha256"]])
        operator.publish_trust()
        state = operator.wait_for(lambda state: state["trust_version"] == 2 and state["active"] != first["active"])
        assert state["active"]["version"] == "2026.11.1"
        operator.push(make_version(tmp_path, "2026.12.2"), signers=keys("release"), **HASTE)
        operator.wait_for(refused("signature"))
        state = operator.wait_until_ended(operator.push(tmp_path / "operator" / "2026.12.2", **HASTE))
        assert state["active"]["version"] == "2026.12.2"

    def test_three_missed_rotations_come_with_the_release(
        self, tmp_path: Path, agent: Agent, operator: Operator
    ) -> None:
        for name in ("two", "three", "four"):
            operator.authority.advance(root=keys(f"root-{name}"), release=keys(name))
        state = operator.wait_until_ended(operator.push(make_version(tmp_path, "2026.12.1"), **HASTE))
        assert (state["candidate"]["state"], state["trust_version"]) == ("active", 4)
        agent.end()
        agent.start()
        assert operator.wait_for(lambda new: new["boot"] != state["boot"])["trust_version"] == 4


class TestOperators:
    def test_roll_back_and_pin(self, tmp_path: Path, broker: Broker, agent: Agent, operator: Operator) -> None:
        listener = broker.listen("answers")
        operator.wait_until_ended(operator.push(make_version(tmp_path, "2026.12.1"), **HASTE))
        assert ask(listener, "model-rollback", model="face")["data"]["version"] == "2026.11.1"
        state = operator.wait_for(lambda state: state["candidate"] and state["candidate"]["state"] == "rolled_back")
        assert state["candidate"]["reason_code"] == "operator"
        assert ask(listener, "model-pin", model="face", pinned=True)["ok"]
        number = operator.push(make_version(tmp_path, "2026.12.2"), **HASTE)
        state = operator.wait_for(lambda state: (state["candidate"] or {}).get("reason_code") == "pinned")
        assert state["candidate"]["release"] == number
        assert ask(listener, "model-pin", model="face", pinned=False)["ok"]
        assert operator.wait_until_ended(number)["active"]["version"] == "2026.12.2"
        assert not ask(listener, "model-rollback", model="other")["ok"]
        assert not ask(listener, "model-activate", model="face", version="2026.11.1")["ok"], "only on the device"

    def test_the_command_on_the_device(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        operator.wait_until_ended(operator.push(make_version(tmp_path, "2026.12.1"), **HASTE))
        for version in ("2026.11.1", "2026.12.1"):
            models(agent, "activate", "face", version)
            agent.wait_for_status(lambda status, v=version: status["models"]["door"]["version"] == v)
        models(agent, "rollback", "face")
        models(agent, "verify")
        listed = json.loads(models(agent, "list", "--json"))
        assert "2026.12.1" in json.dumps(listed)


class TestRestarts:
    def test_it_goes_on_where_it_stopped(self, tmp_path: Path, agent: Agent, operator: Operator) -> None:
        """Also in its health window, which begins anew."""
        slow = {"acceptance": {"shadow_frames": 0}, "activation": {"health_window_s": 4, "min_frames": 1}}
        number = operator.push(make_version(tmp_path, "2026.12.1"), **slow)
        operator.wait_for(lambda state: (state["candidate"] or {}).get("state") == "active")
        agent.kill()
        agent.start()
        assert operator.wait_until_ended(number)["active"]["version"] == "2026.12.1"

    def test_a_damaged_bundle_is_not_run_and_comes_again(
        self, tmp_path: Path, agent: Agent, operator: Operator
    ) -> None:
        first = operator.wait_until_ended(operator.push(make_version(tmp_path, "2026.12.1"), **HASTE))
        agent.end()
        model = tmp_path / "models" / "face" / "2026.12.1" / "model.tflite"
        model.write_bytes(bytes(len(model.read_bytes())))
        agent.start()
        back = operator.wait_for(lambda state: state["boot"] != first["boot"])
        assert back["active"]["version"] == "2026.11.1"
        again = operator.wait_for(
            lambda state: state["boot"] == back["boot"] and state["active"]["version"] == "2026.12.1"
        )
        assert again["candidate"]["release"] == 1

    def test_a_device_without_a_model_waits_for_one(
        self, tmp_path: Path, broker: Broker, operator: Operator, agent: Agent
    ) -> None:
        bundle = make_version(tmp_path, "2026.12.1")
        agent.end()
        shutil.rmtree(tmp_path / "models")
        agent.start()
        agent.wait_for_status(lambda status: any("waiting for a release" in reason for reason in status["reasons"]))
        operator.wait_until_ended(operator.push(bundle, **HASTE))
        agent.wait_for_status(lambda status: status["state"] == "online")


def ask(listener: Listener, command: str, **payload: object) -> dict[str, Any]:
    """The answer to a command."""
    before = len(listener.payloads("answers"))
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "answers"
    listener.publish(f"edge/devices/cam-1/commands/{command}", json.dumps(payload).encode(), properties=properties)
    listener.wait_for(lambda _: len([m for m in listener.messages if m.topic == "answers"]) > before)
    answer: dict[str, Any] = json.loads(listener.payloads("answers")[before])
    return answer


def models(agent: Agent, *args: str) -> str:
    """`edge-agent models` on the device."""
    command = [sys.executable, "-m", "agent", "models", *args, "--config", str(agent.config_file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trust_chain_that_can_not_be_read_at_the_start_is_waited_for(
    tmp_path: Path, broker: Broker, operator: Operator
) -> None:
    """A failing disk: frames go on, and what comes is believed once the chain can be read."""
    (tmp_path / "trust.json").write_bytes(operator.authority.trust_file)
    config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
    config["models"] |= {"trust": str(tmp_path / "trust.json"), "healthy_after_s": 2}
    in_the_way = tmp_path / "models" / CHAIN_NAME
    in_the_way.mkdir()
    with Agent(tmp_path, config) as agent:
        agent.wait_for_status(lambda status: status["pipelines"]["door"]["frames_inferred"] > 5)
        number = operator.push(make_version(tmp_path, "2026.12.1"), **HASTE)
        wait_until(lambda: agent.events("update.failed"), 20, "the release was looked at")
        in_the_way.rmdir()
        assert operator.wait_until_ended(number)["candidate"]["state"] == "active"
