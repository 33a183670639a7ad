"""The promise of delivery under faults: whatever dies, no accepted message is lost and none comes out of order.

Random faults, one after the other: kill -9 of the agent, restart of the broker, cut and silent connections, kill of the
RTSP server. A reader with a session of its own checks the chain of `seq` and `prev`. EDGE_AGENT_FAULTS sets how many.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim import wait_until
from tests.sim.agent import Agent, ChainReader, make_config, make_pipeline
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import make_bundle
from tests.sim.proxy import FaultProxy
from tests.sim.rtsp import RtspServer

BRANCH = "edge/devices/cam-1"


@pytest.mark.timeout(300)
def test_twelve_faults_lose_nothing(tmp_path: Path) -> None:
    run_faults(tmp_path, count=12, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_faults_lose_nothing(tmp_path: Path) -> None:
    run_faults(tmp_path, count=int(os.environ.get("EDGE_AGENT_FAULTS", "60")), seed=None)


def run_faults(tmp_path: Path, count: int, seed: int | None) -> None:
    seed = seed if seed is not None else random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    with (
        Broker(tmp_path / "broker", conf="max_queued_messages 100000\nmax_inflight_messages 100") as broker,
        FaultProxy(broker.port) as proxy,
        RtspServer() as rtsp,
    ):
        reader = broker.listen(*(f"{BRANCH}/{part}" for part in ("results/#", "events/#", "models/#", "gap")))
        config = make_config(tmp_path, proxy.port, make_bundle("face", tmp_path))
        config["pipelines"].append(
            make_pipeline("yard", source={"type": "stream", "url": rtsp.url, "read_timeout_s": 1.0})
        )
        with Agent(tmp_path, config) as agent:
            reader.wait_for(lambda m: len(m) > 10, 60)
            faults = make_faults(agent, broker, proxy, rtsp, rng)
            done = dict.fromkeys(faults, 0)
            for turn in range(count):
                if turn % len(faults) == 0:  # each kind as often as the others, in an order of its own each time
                    order = rng.sample(sorted(faults), len(faults))
                name = order[turn % len(faults)]
                faults[name]()
                done[name] += 1
                pause(rng.uniform(0.1, 1.5))
            proxy.pass_through()
            check_all_arrived(agent, reader)
        print(f"faults {done}; {report(reader)}")


def make_faults(
    agent: Agent, broker: Broker, proxy: FaultProxy, rtsp: RtspServer, rng: random.Random
) -> dict[str, Callable[[], None]]:
    def kill_agent() -> None:
        agent.kill()
        agent.start()

    def kill_rtsp() -> None:
        rtsp.kill()
        rtsp.start()

    def black_hole() -> None:
        proxy.blackhole(rng.choice([None, "up", "down"]))
        pause(rng.uniform(0.2, 3.0))
        proxy.pass_through()
        if rng.random() < 0.5:
            proxy.cut()

    return {
        "kill -9 of the agent": kill_agent,
        "restart of the broker": broker.restart,
        "cut connection": proxy.cut,
        "black hole": black_hole,
        "kill of the RTSP server": kill_rtsp,
    }


def pause(seconds: float) -> None:
    """Let a fault last: here time itself is what is tested."""
    deadline_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= deadline_s, seconds + 5)


def check_all_arrived(agent: Agent, reader: Listener) -> None:
    """Everything accepted has arrived, once the outbox is empty: in order, with nothing missing."""
    agent.wait_for_status(lambda s: s["mqtt"]["connected"] and s["state"] == "online", 120, "all is well again")
    agent.end()  # what it had accepted until now is on its disk, acknowledged or not
    agent.start()
    before = len(reader.payloads())
    reader.wait_for(lambda m: len(m) > before + 20, 60, "the next start sends what was left")
    chain = read_chain(reader)
    assert [] == chain.problems
    assert len(chain.seen) > 20


def read_chain(reader: Listener) -> ChainReader:
    chain = ChainReader()
    for payload in reader.payloads():
        chain.read(payload)
    return chain


def report(reader: Listener) -> str:
    chain = read_chain(reader)
    return f"{len(chain.seen)} messages, {chain.duplicates} duplicates, {len(chain.problems)} problems"
