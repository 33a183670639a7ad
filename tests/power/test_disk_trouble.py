"""A disk that refuses everything for a while: inference goes on, what is not stored is told, and it mends by itself."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.agent import Agent, ChainReader, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.surroundings import Surroundings

BRANCH = "edge/devices/cam-1"


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Surroundings]:
    """The outbox and the models lie on a disk that can refuse."""
    (tmp_path / "disk").mkdir()
    with Surroundings(tmp_path / "around", tmp_path / "disk") as around:
        yield around


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, around: Surroundings) -> Agent:
    disk = tmp_path / "disk"
    config = make_config(tmp_path, broker.port, make_bundle("face", disk))
    config["outbox"] = {"dir": str(disk / "outbox")}
    config["pipelines"] = [make_pipeline("door", results={"max_per_s": 5})]
    return Agent(tmp_path, config, around.environ)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=["full", "read-only", "failing"])
def test_inference_goes_on(broker: Broker, agent: Agent, around: Surroundings, number: int) -> None:
    chained = broker.listen(*(f"{BRANCH}/{part}" for part in ("results/#", "events/#", "models/#", "gap")))
    told = broker.listen(f"{BRANCH}/telemetry", f"{BRANCH}/status")
    with agent:
        chained.wait_for(lambda m: len(m) > 3)
        around.fail_disk(number, reads_too=number == errno.EIO)
        first = agent.wait_for_status(lambda s: s["outbox"]["dropped"] > 0, what="something could not be stored")
        seen = first["pipelines"]["door"]["frames_inferred"]
        agent.wait_for_status(lambda s: s["pipelines"]["door"]["frames_inferred"] > seen + 10, what="frames go on")
        told.wait_for(lambda _: any(json.loads(p)["outbox"]["dropped"] for p in told.payloads(f"{BRANCH}/telemetry")))
        about = [json.loads(payload)["reasons"] for payload in told.payloads(f"{BRANCH}/status")]
        assert any("outbox.dir: " in line for line in about[-1])
        assert len(about) < 5, "it is told once"

        around.mend_disk()
        before = len(chained.payloads())
        chained.wait_for(lambda m: len(m) > before + 4, what="messages come again")
        status = agent.wait_for_status(lambda s: s["state"] == "online", what="it is well again")
        assert status["pid"] == first["pid"]
        assert agent.end() == 0
    chain = ChainReader()
    for payload in chained.payloads():
        chain.read(payload)
    assert chain.problems == []
    assert not [entry for entry in agent.log() if "Traceback" in str(entry)]


def test_what_can_not_be_read_for_a_while_is_sent_later(broker: Broker, agent: Agent, around: Surroundings) -> None:
    reader = broker.listen(f"{BRANCH}/results/#", f"{BRANCH}/events/#", f"{BRANCH}/models/#", f"{BRANCH}/gap")
    with agent:
        reader.wait_for(lambda m: len(m) > 3)
        broker.stop()
        agent.wait_for_status(lambda s: s["outbox"]["pending"] > 20)
        around.fail_disk(errno.EIO, reads_too=True)
        broker.start()
        agent.wait_for_status(lambda s: any("outbox.reading: " in reason for reason in s["reasons"]))
        around.mend_disk()
        agent.wait_for_status(lambda s: s["outbox"]["pending"] < 5 and s["state"] == "online", what="it is well again")
    chain = ChainReader()
    for payload in reader.payloads():
        chain.read(payload)
        assert json.loads(payload)["schema"] != "edge.gap/1"
    assert chain.problems == []


def test_a_start_on_a_read_only_disk_says_so_and_can_be_tried_again(agent: Agent, around: Surroundings) -> None:
    """Nothing may be sent before a number is safe that no message had before; the service manager starts it again."""
    around.fail_disk(errno.EROFS)
    agent.start()
    assert agent.wait() == 1
    last = agent.log_file.read_text().splitlines()[-1]
    assert "outbox.dir: " in last
    assert "read-only file system; " in last

    around.mend_disk()
    agent.start()
    agent.wait_for_status(lambda s: s["mqtt"]["connected"])
    agent.kill()
