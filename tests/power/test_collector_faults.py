"""The promise of delivery to a collector, with brokers that are killed and forget what they had acknowledged.

Random faults, one after the other, on a device with `outbox.trim: collector`. What the collector has stored proves
it: no accepted message is missing, no gap unannounced, none came out of order. EDGE_AGENT_FAULTS sets how many.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.outbox.sent import read_folder
from tests.sim import wait_until
from tests.sim.agent import CLIP, Agent, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.collectors import Collector
from tests.sim.proxy import FaultProxy

FAST = {"type": "file", "path": str(CLIP), "loop": True, "realtime": False}


@pytest.mark.timeout(120)
def test_eight_faults_lose_nothing(tmp_path: Path) -> None:
    run_faults(tmp_path, count=8, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_collector_that_is_away_too_long_gets_a_gap(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
        config["outbox"] |= {"trim": "collector", "resend_after": "1s", "max_bytes": "1MiB"}
        config["pipelines"] = [make_pipeline("door", source=FAST, results={"max_per_s": None})]
        collector = Collector(tmp_path / "collector", broker.port)
        with Agent(tmp_path, config) as agent:
            status = agent.wait_for_status(lambda s: s["outbox"]["dropped"], 60, "the bound is reached")
            assert "collector: no collector acknowledges" in str(status["reasons"])
            with collector:
                agent.wait_for_status(
                    lambda s: s["outbox"]["pending"] < 100 and s["state"] == "online", 40, "it is well"
                )
                report = collector.report()["cam-1"]
    assert report["complete"]
    assert report["gaps"] > 0
    assert report["evicted"].keys() == {"max_bytes"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_faults_lose_nothing(tmp_path: Path) -> None:
    run_faults(tmp_path, count=int(os.environ.get("EDGE_AGENT_FAULTS", "60")), seed=None)


def run_faults(tmp_path: Path, count: int, seed: int | None) -> None:
    seed = seed if seed is not None else random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    with Broker(tmp_path / "broker", conf="autosave_interval 1") as broker, FaultProxy(broker.port) as proxy:
        config = make_config(tmp_path, proxy.port, make_bundle("face", tmp_path))
        config["outbox"] |= {"trim": "collector", "resend_after": "2s", "keep_sent": "64MiB"}
        config["pipelines"] = [make_pipeline("door", source=FAST, results={"max_per_s": 80})]
        with Collector(tmp_path / "collector", broker.port) as collector, Agent(tmp_path, config) as agent:
            agent.wait_for_status(lambda s: s["outbox"]["pending"] < 50 and s["mqtt"]["connected"], what="it is well")
            faults = make_faults(agent, broker, proxy, collector)
            done = dict.fromkeys(faults, 0)
            for turn in range(count):
                if turn % len(faults) == 0:
                    order = rng.sample(sorted(faults), len(faults))
                name = order[turn % len(faults)]
                faults[name]()
                done[name] += 1
                pause(rng.uniform(0.2, 1.5))
            agent.wait_for_status(lambda s: s["mqtt"]["connected"] and not s["outbox"]["dropped"], 60)
            agent.end()
            check_all_arrived(agent, collector)
        report = collector.report()["cam-1"]
    print(f"faults {done}; {report}; {collector.output}")
    assert report["complete"]
    assert report["gaps"] == report["late"] == 0


def make_faults(agent: Agent, broker: Broker, proxy: FaultProxy, collector: Collector) -> dict[str, Callable[[], None]]:
    def kill_agent() -> None:
        agent.kill()
        agent.start()

    def kill_broker() -> None:
        broker.kill()
        broker.start()

    def kill_collector() -> None:
        collector.kill()
        pause(0.5)
        collector.start()

    return {
        "kill -9 of the agent": kill_agent,
        "kill -9 of the broker": kill_broker,
        "kill -9 of the collector": kill_collector,
        "cut connection": proxy.cut,
    }


def pause(seconds: float) -> None:
    """Let a fault last: here time itself is what is tested."""
    deadline_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= deadline_s, seconds + 5)


def check_all_arrived(agent: Agent, collector: Collector) -> None:
    """Everything that the device had accepted is stored: its folder still has it all, sent or not."""
    accepted = {record.id for record in read_folder(agent.outbox) if record.after != record.before}
    assert len(accepted) > 100
    agent.start()
    wait_until(lambda: accepted <= collector.stored("cam-1"), 40, "all accepted messages are stored")
