"""A wall clock that starts wrong and jumps by years: order, age and health windows go by the other one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.agent import Agent, ChainReader, make_config
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.operators import Operator
from tests.sim.surroundings import YEAR_S, Surroundings

BRANCH = "edge/devices/cam-1"
STREAMS = tuple(f"{BRANCH}/{part}" for part in ("results/#", "events/#", "models/#", "gap"))


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Surroundings]:
    with Surroundings(tmp_path / "around", tmp_path) as around:
        yield around


def test_a_jumping_clock_drops_nothing_and_says_whether_it_is_set(
    tmp_path: Path, broker: Broker, around: Surroundings
) -> None:
    """Off by ten years at boot, ten years ahead when it is set, and back again with messages waiting meanwhile."""
    reader = broker.listen(*STREAMS)
    around.set_clock(-10 * YEAR_S, synced=False)
    with Agent(tmp_path, make_config(tmp_path, broker.port, make_bundle("face", tmp_path)), around.environ) as agent:
        reader.wait_for(lambda m: len(m) > 5, 60)
        around.set_clock(10 * YEAR_S, synced=True)
        agent.wait_for_status(lambda s: s["clock"] == "synced", what="the kernel is asked again")
        broker.stop()
        for years in (-10, 10, 0):
            before = agent.wait_for_status(lambda s: s["outbox"]["pending"])["outbox"]["pending"]
            around.set_clock(years * YEAR_S, synced=True)
            agent.wait_for_status(lambda s, before=before: s["outbox"]["pending"] > before + 10)
        broker.start()
        status = agent.wait_for_status(lambda s: s["outbox"]["pending"] < 5 and s["state"] == "online", 60)
        assert status["outbox"]["dropped"] == 0
        assert status["uptime_s"] < 300
        assert agent.end() == 0
    messages = [json.loads(payload) for payload in reader.payloads()]
    assert {(message["time"][:3], message["clock"]) for message in messages} >= {("201", "unsynced"), ("203", "synced")}
    assert {message["schema"] for message in messages}.isdisjoint({"edge.gap/1"})
    chain = ChainReader()
    for payload in reader.payloads():
        chain.read(payload)
    assert chain.problems == []


def test_years_do_not_end_a_health_window(tmp_path: Path, broker: Broker, around: Surroundings) -> None:
    operator = Operator(broker)
    (tmp_path / "trust.json").write_bytes(operator.authority.trust_file)
    config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
    config["models"]["trust"] = str(tmp_path / "trust.json")
    new = tmp_path / "operator" / "2027.1.1"
    shutil.copytree(next(path for path in (tmp_path / "models" / "face").iterdir() if path.is_dir()), new)
    manifest = new / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("version: 2026.11.1", "version: 2027.1.1"))
    with Agent(tmp_path, config, around.environ) as agent:
        window = {"health_window_s": 3600, "min_frames": 3}
        operator.push(new, acceptance={"shadow_frames": 3}, activation=window)
        operator.wait_for(lambda state: state["candidate"] and state["candidate"]["state"] == "active")
        for years in (10, -10):
            around.set_clock(years * YEAR_S, synced=True)
            seen = agent.wait_for_status(bool)["pipelines"]["door"]["frames_inferred"]
            status = agent.wait_for_status(
                lambda s, seen=seen: s["pipelines"]["door"]["frames_inferred"] > seen + 30, what="frames go on"
            )
            state = status["model_states"]["face"]
            assert (state["candidate"]["state"], state["active"]["confirmed"]) == ("active", False)
