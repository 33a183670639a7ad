"""The daemon as a user meets it: real clip, real model, real broker."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
import yaml
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.config import load_config
from agent.daemon import Daemon
from agent.wire.schemas import message_schema
from tests.sim import wait_until
from tests.sim.agent import Agent, ChainReader, make_config, make_pipeline
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import make_bundle
from tests.sim.proxy import FaultProxy

BRANCH = "edge/devices/cam-1"
DURABLE = ("results", "events", "gap", "models")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_bundle("face", tmp_path)


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, models: Path) -> Iterator[Agent]:
    with Agent(tmp_path, make_config(tmp_path, broker.port, models)) as agent:
        yield agent


def kind_of(topic: str) -> str:
    return topic.removeprefix(f"{BRANCH}/").split("/")[0]


def kinds(messages: list[Any]) -> set[str]:
    return {kind_of(message.topic) for message in messages}


def states(listener: Listener) -> list[str]:
    return [json.loads(payload)["state"] for payload in listener.payloads(f"{BRANCH}/status")]


def ask(listener: Listener, command: str, payload: dict[str, Any] | None = None, to: str = BRANCH) -> dict[str, Any]:
    """Send a command and wait for its answer."""
    before = len(listener.payloads("answers/test"))
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "answers/test"
    properties.CorrelationData = b"c-1"
    body = b"" if payload is None else json.dumps(payload).encode()
    listener.publish(f"{to}/commands/{command}", body, properties=properties)
    messages = listener.wait_for(lambda m: sum(x.topic == "answers/test" for x in m) > before, what="an answer")
    answer = [message for message in messages if message.topic == "answers/test"][-1]
    assert answer.properties.CorrelationData == b"c-1"
    reply: dict[str, Any] = json.loads(answer.payload)
    jsonschema.validate(reply, message_schema("reply"))
    return reply


class TestMessages:
    def test_every_topic_carries_what_its_schema_says(self, broker: Broker, agent: Agent) -> None:
        """Status, results, events of all types, snapshots and telemetry, within two rounds of the clip."""
        listener = broker.listen("edge/#")

        def complete(messages: list[Any]) -> bool:
            types = {json.loads(m.payload)["type"] for m in messages if kind_of(m.topic) == "events"}
            return kinds(messages) >= {"status", "results", "events", "snapshots", "telemetry"} and len(types) == 3

        messages = listener.wait_for(complete, 60)
        chain = ChainReader()
        for message in messages:
            kind = kind_of(message.topic)
            if kind == "snapshots":
                continue
            name = {"results": "result", "events": "event", "models": "model-state"}.get(kind, kind)
            jsonschema.validate(json.loads(message.payload), message_schema(name))
            if kind in DURABLE:
                chain.read(message.payload)
        assert [] == chain.problems
        assert {m.qos for m in messages if kind_of(m.topic) in DURABLE} == {1}

    def test_faces_are_where_they_are(self, broker: Broker, agent: Agent) -> None:
        listener = broker.listen(f"{BRANCH}/results/door")
        messages = listener.wait_for(lambda m: any(json.loads(x.payload)["detections"] for x in m), 30)
        found = [json.loads(m.payload) for m in messages if json.loads(m.payload)["detections"]]
        (detection,) = found[-1]["detections"]
        left, top, right, bottom = detection["xyxy"]
        assert ("face", {"index", "width_px", "height_px"}) == (detection["label"], set(found[-1]["frame"]))
        assert detection["confidence"] >= 0.6
        assert 0 <= left < right <= 640
        assert 0 <= top < bottom <= 480
        assert len(found[-1]["model"]["sha256"]) == 64

    def test_a_snapshot_is_a_picture_with_its_event(self, broker: Broker, agent: Agent) -> None:
        listener = broker.listen(f"{BRANCH}/snapshots/+", f"{BRANCH}/events/+")
        messages = listener.wait_for(lambda m: kinds(m) == {"events", "snapshots"}, 30)
        snapshot = next(m for m in messages if kind_of(m.topic) == "snapshots")
        image = cv2.imdecode(np.frombuffer(snapshot.payload, np.uint8), cv2.IMREAD_COLOR)
        properties = dict(snapshot.properties.UserProperty)
        assert (480, 640, 3) == image.shape
        assert ("640", "480") == (properties["width_px"], properties["height_px"])
        assert properties["event_id"] in {
            json.loads(m.payload)["event_id"] for m in messages if kind_of(m.topic) == "events"
        }

    def test_the_clips_rate_is_kept(self, broker: Broker, agent: Agent) -> None:
        """Ten frames a second, each looked at."""
        listener = broker.listen(f"{BRANCH}/results/door")
        messages = listener.wait_for(lambda m: len(m) > 40, 30)
        indexes = [json.loads(m.payload)["frame"]["index"] for m in messages]
        assert len(indexes) >= 0.8 * (indexes[-1] - indexes[0])


class TestStatus:
    def test_is_online_then_offline_when_it_stops(self, broker: Broker, agent: Agent) -> None:
        listener = broker.listen(f"{BRANCH}/status")
        listener.wait_for(lambda _: "online" in states(listener), 30)
        assert agent.end(signal.SIGTERM, timeout_s=10) == 0
        listener.wait_for(lambda _: states(listener)[-1] == "offline")
        assert not [entry for entry in agent.log() if entry["level"] in ("error", "critical")]

    def test_is_offline_by_the_will_after_kill_9(self, broker: Broker, agent: Agent) -> None:
        listener = broker.listen(f"{BRANCH}/status")
        listener.wait_for(lambda _: "online" in states(listener), 30)
        agent.kill()
        listener.wait_for(lambda _: states(listener)[-1] == "offline")

    def test_kill_9_leaves_no_folders_behind_for_ever(self, agent: Agent) -> None:
        """The next start takes away what the last one could not."""
        left = []
        for _ in range(3):
            agent.wait_for_status(lambda s: s["pipelines"]["door"]["frames_inferred"])
            left.append(Path((agent.outbox / "workers-tmp").read_text()))
            agent.kill()
            agent.start()
        agent.wait_for_status(lambda s: s["state"] == "online")
        assert [False] * 3 == [folder.exists() for folder in left]

    def test_the_local_one_shows_pipelines_and_models(self, agent: Agent) -> None:
        status = agent.wait_for_status(lambda s: s["pipelines"]["door"]["frames_inferred"] > 5)
        assert status["models"]["door"]["name"] == "face"
        assert status["mqtt"]["connected"]
        assert status["process"]["rss_bytes"] > 1 << 20

    def test_a_second_daemon_on_the_same_outbox_is_refused(self, agent: Agent, broker: Broker, models: Path) -> None:
        agent.wait_for_status(lambda s: s["state"] == "online")
        (agent.folder / "second").mkdir()
        second = Agent(agent.folder / "second", make_config(agent.folder, broker.port, models))
        second.start()
        assert second.wait() == 1
        assert "outbox.dir" in second.log_file.read_text()
        assert agent.running


class TestCommands:
    @pytest.fixture
    def listener(self, broker: Broker, agent: Agent) -> Listener:
        listener = broker.listen("answers/#", f"{BRANCH}/#")
        listener.wait_for(lambda m: "results" in kinds(m), 30)
        return listener

    def test_ping_and_status_are_answered(self, listener: Listener) -> None:
        assert ask(listener, "ping")["ok"]
        assert "pipelines" in ask(listener, "status", {})["data"]
        assert ask(listener, "ping", to="edge/groups/yard")["ok"]

    def test_a_group_that_the_device_has_left_commands_it_no_more(
        self, listener: Listener, agent: Agent, broker: Broker, models: Path
    ) -> None:
        """The broker keeps the subscription: the session outlives the configuration."""
        agent.end()
        config = make_config(agent.folder, broker.port, models, device={"id": "cam-1", "groups": ["hall"]})
        agent.config_file.write_text(json.dumps(config))
        agent.start()
        agent.wait_for_status(lambda s: s["mqtt"]["connected"])
        listener.publish("edge/groups/yard/commands/set", b'{"min_confidence": 1.0}')
        answer = ask(listener, "set", {"enabled": True}, to="edge/groups/hall")
        assert answer["data"]["min_confidence"] == 0.6

    def test_set_changes_what_it_names(self, listener: Listener, agent: Agent) -> None:
        assert ask(listener, "set", {"min_confidence": 1.0})["data"]["min_confidence"] == 1.0
        count = len(listener.payloads())
        after = listener.wait_for(lambda m: sum(kind_of(x.topic) == "results" for x in m[count:]) > 15)
        late = [m for m in after[count:] if kind_of(m.topic) == "results"][-5:]
        assert all(json.loads(m.payload)["detections"] == [] for m in late)
        assert ask(listener, "set", {"enabled": False})["ok"]
        agent.wait_for_status(lambda s: s["pipelines"]["door"]["source_state"] == "off")
        assert ask(listener, "set", {"enabled": True})["ok"]
        agent.wait_for_status(lambda s: s["pipelines"]["door"]["source_state"] == "running")

    def test_snapshot_comes_on_its_topic(self, listener: Listener) -> None:
        event_id = ask(listener, "snapshot", {"pipeline": "door"})["data"]["event_id"]
        listener.wait_for(
            lambda m: any(
                kind_of(x.topic) == "snapshots" and dict(x.properties.UserProperty)["event_id"] == event_id for x in m
            )
        )

    def test_restart_starts_the_same_program_anew(self, listener: Listener, agent: Agent) -> None:
        before = agent.status()
        assert ask(listener, "restart")["ok"]
        after = agent.wait_for_status(lambda s: s["boot"] != before["boot"] and s["mqtt"]["connected"])
        assert before["pid"] == after["pid"]

    def test_restarts_leave_no_dead_processes(self, listener: Listener, agent: Agent) -> None:
        """Each takes one of the few that systemd allows the service (TasksMax), until it ends."""
        for _ in range(3):
            before = agent.status()["boot"]
            assert ask(listener, "restart")["ok"]
            agent.wait_for_status(lambda s, before=before: s["boot"] != before and s["mqtt"]["connected"])
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        dead = [pid for pid in children if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]
        assert len(dead) <= 2  # those of the last restart may have been about to end

    @pytest.mark.parametrize(
        ("command", "payload", "said"),
        [
            ("selfdestruct", {}, "unknown command"),
            ("set", {}, "nothing to set"),
            ("set", {"min_confidence": 3}, "min_confidence"),
            ("set", {"pipeline": "dor", "enabled": True}, "expected one of door"),
        ],
    )
    def test_nonsense_is_refused_with_a_reason(
        self, listener: Listener, command: str, payload: dict[str, Any], said: str
    ) -> None:
        reply = ask(listener, command, payload)
        assert not reply["ok"]
        assert said in reply["error"]

    def test_garbage_does_not_hurt(self, listener: Listener) -> None:
        for payload in (b"\xff\x00", b"[" * 10_000, b"{" * 10_000, b'{"pipeline": 1}', b"x" * 200_000):
            listener.publish(f"{BRANCH}/commands/set", payload)
        assert ask(listener, "ping")["ok"]


def test_the_end_of_safe_mode_does_not_undo_what_set_changed(tmp_path: Path, models: Path) -> None:
    """It holds until the next start, says docs/topics.md."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(make_config(tmp_path, 1, models)))
    daemon = Daemon(load_config(tmp_path / "config.yaml"))
    daemon._allow_inference(False)
    daemon._pipelines["door"].enabled = False  # an operator, by the command `set`
    daemon._allow_inference(True)
    assert not daemon._pipelines["door"].enabled
    daemon._outbox.close()


class TestTrouble:
    def test_a_stop_while_it_starts_is_a_stop_as_asked(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        """A small computer takes ten seconds to get that far."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with Agent(tmp_path, make_config(tmp_path, broker.port, models)) as agent:
                children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
                wait_until(children.read_text, 20, "the server of the workers")  # our own imports are still to come
                assert agent.end(number) == 0
            assert "Traceback" not in agent.log_file.read_text()

    def test_a_broker_that_is_away_is_waited_for(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        """Said once in the log and in the status; what was found meanwhile arrives, whole and in order."""
        broker.stop()
        with Agent(tmp_path, make_config(tmp_path, broker.port, models)) as agent:
            agent.wait_for_status(lambda s: s["outbox"]["pending"] > 5 and s["state"] == "degraded")
            broker.start()
            listener = broker.listen(f"{BRANCH}/results/#", f"{BRANCH}/events/#")
            agent.wait_for_status(lambda s: s["state"] == "online")
            assert len(agent.events("mqtt.lost")) == len(agent.events("mqtt.recovered")) == 1
            seq = int(agent.status()["outbox"]["pending"])
            assert seq >= 0
            messages = listener.wait_for(lambda m: len(m) > 20)
        chain = ChainReader()
        for message in messages:
            chain.read(message.payload)
        assert [] == chain.problems

    def test_what_a_bound_evicts_is_announced_in_its_place(self, tmp_path: Path, models: Path) -> None:
        """With the broker away for too long the oldest go; the reader learns which, and its chain stays whole."""
        fast = make_pipeline("door", results={"max_per_s": None}, snapshots={"on": "none"})
        fast["source"]["realtime"] = False
        with (
            # by default mosquitto drops, acknowledged, what is over 1,000 for a reader slower than the backlog
            Broker(tmp_path / "broker", conf="max_queued_messages 100000") as broker,
            FaultProxy(broker.port) as proxy,
        ):
            listener = broker.listen(f"{BRANCH}/results/#", f"{BRANCH}/events/#", f"{BRANCH}/gap")
            proxy.refuse()
            config = make_config(tmp_path, proxy.port, models, pipelines=[fast])
            config["outbox"]["max_bytes"] = "1MiB"
            with Agent(tmp_path, config) as agent:
                agent.wait_for_status(lambda s: s["outbox"]["dropped"] > 0, 60)
                proxy.pass_through()
                messages = listener.wait_for(lambda m: len(m) > 500, 60)
        gap = next(json.loads(m.payload) for m in messages if kind_of(m.topic) == "gap")
        jsonschema.validate(gap, message_schema("gap"))
        assert (gap["reason"], gap["seq"]) == ("max_bytes", gap["to"])
        assert gap["count"] > 0
        chain = ChainReader()
        for message in messages:
            chain.read(message.payload)
        assert [] == chain.problems

    def test_a_login_that_is_refused_names_the_keys(self, tmp_path: Path, models: Path) -> None:
        with (
            Broker(tmp_path / "broker", users={"cam-1": "right"}) as broker,
            Agent(tmp_path, make_config(tmp_path, broker.port, models)) as agent,
        ):
            status = agent.wait_for_status(lambda s: s["reasons"])
            assert "mqtt.username" in status["reasons"][0]

    def test_a_camera_that_is_away_leaves_other_pipelines_alone(
        self, tmp_path: Path, broker: Broker, models: Path
    ) -> None:
        config = make_config(tmp_path, broker.port, models)
        config["pipelines"].append(make_pipeline("yard", source={"type": "camera", "device": "/dev/video250"}))
        with Agent(tmp_path, config) as agent:
            status = agent.wait_for_status(
                lambda s: s["pipelines"]["yard"]["source_state"] == "lost" and s["pipelines"]["door"]["frames_inferred"]
            )
            assert "/dev/video250" in status["reasons"][0]
            agent.wait_for_status(lambda s: s["uptime_s"] > 3)
            assert len(agent.events("capture.lost")) == 1

    def test_a_worker_that_is_killed_costs_frames_only(self, broker: Broker, agent: Agent) -> None:
        listener = broker.listen(f"{BRANCH}/status", f"{BRANCH}/telemetry")
        agent.wait_for_status(lambda s: s["pipelines"]["door"]["frames_inferred"] > 3)
        kill_workers(agent.pid)
        listener.wait_for(lambda _: "degraded" in states(listener))
        listener.wait_for(lambda _: states(listener)[-1] == "online")
        status = agent.wait_for_status(lambda s: s["pipelines"]["door"]["worker_restarts"] == 1)
        assert status["pid"] == agent.pid
        (lost,) = agent.events("model.lost")
        assert "SIGKILL" in lost["reason"]


def kill_workers(daemon: int) -> None:
    """SIGKILL to the processes that hold a model: the grandchildren, behind the fork server."""
    for child in children(daemon):
        for grandchild in children(child):
            os.kill(grandchild, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
