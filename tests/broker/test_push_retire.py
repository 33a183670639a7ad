"""tools/retire.py with a real broker: what goes, and what stays."""

from pathlib import Path

import pytest

from tests.broker.desk import Desk, lying_on, make_desk, make_model
from tests.sim import wait_until
from tests.sim.broker import Broker
from tools import retire


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, capsys, monkeypatch)


def test_what_no_release_needs_is_cleared_when_asked_to(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port) == 0
    old = lying_on(broker)
    assert desk.push(broker.port, bundle=make_model(desk.folder, "2.0", 1_000_000)) == 0
    both = lying_on(broker)
    assert desk.retire(broker.port) == 0
    assert "--yes does it" in desk.out
    assert desk.out.count("digits 2") == desk.out.count("not needed") == 2
    assert lying_on(broker) == both
    assert desk.retire(broker.port, "--yes") == 0
    assert "cleared 2 blobs, 20" in desk.out
    assert lying_on(broker) == both - old | {"edge/releases/digits"}
    with desk.device(broker, "cam-1") as device:
        wait_until(lambda: len(device.archive) > 1_000_000, what="it has the archive")
    assert desk.retire(broker.port, "--yes") == 0
    assert "nothing to clear" in desk.out


def test_a_release_goes_with_its_chunks(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port, bundle=make_model(desk.folder, "2.0", 1_500_000)) == 0
    assert desk.retire(broker.port, "--release", "digits", "--yes") == 0
    assert lying_on(broker) == set()


def test_a_release_without_its_chunks_is_told(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port) == 0
    for topic in lying_on(broker) - {"edge/releases/digits"}:
        broker.listen().publish(topic, retain=True)
    assert desk.retire(broker.port) == 0
    assert "release 1 of digits lies there without its chunks: push it again" in desk.out


def test_nothing_is_cleared_while_a_release_cannot_be_read(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port) == 0
    before = lying_on(broker)
    broker.listen().publish("edge/releases/other", b"from a newer tool", retain=True)
    assert desk.retire(broker.port, "--yes") == 1
    assert "can't tell what it needs: bad_json" in desk.err
    assert lying_on(broker) == before | {"edge/releases/other"}


def test_a_release_that_is_not_there_is_not_retired(broker: Broker, desk: Desk) -> None:
    assert desk.retire(broker.port, "--release", "typo", "--yes") == 1
    assert "no release of typo lies on the broker; see --prefix" in desk.err


def test_what_a_release_needs_that_came_before_the_answer_stays(
    broker: Broker, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.push(broker.port) == 0
    old = lying_on(broker)
    assert desk.push(broker.port, bundle=make_model(desk.folder, "2.0", 1_000_000)) == 0

    def after_a_coffee(_question: str) -> bool:
        assert desk.push(broker.port) == 0  # somebody went back to the first version
        return True

    monkeypatch.setattr(retire, "is_agreed", after_a_coffee)
    assert desk.retire(broker.port) == 0
    assert "needed now" in desk.out
    assert old <= lying_on(broker)
