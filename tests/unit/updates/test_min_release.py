"""A trust document that refuses older numbers, while such a release waits on the device."""

from pathlib import Path

import pytest

from agent.updates.verify import open_trust
from tests.power.store_writer import MODEL
from tests.property.test_update_path import Device, simulated_workers

__all__ = ["simulated_workers"]


@pytest.mark.parametrize(("number", "ends"), [(3, "rejected"), (2, "active")])
def test_what_waits_is_refused_as_what_comes_would_be(tmp_path: Path, number: int, ends: str) -> None:
    device = Device(tmp_path)
    device.offer(device.sign("good", "1.0"))
    device.work()
    device.update.pin(pinned=True)
    assert device.offer(device.sign("good", "2.0")) is None
    device.work(3)
    assert device.state() == "offered"

    trust = device.update._around.trusted()
    trust.accept(*open_trust(device.authority.advance(min_release={MODEL: number}), trust.current()))
    device.update.obey(trust.current())
    device.update.pin(pinned=False)
    device.work()
    assert device.state() == ends
    running = device.update.at.running
    assert running
    assert running.version == ("2.0" if ends == "active" else "1.0")


def test_what_answers_already_is_judged_by_how_it_answers(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.offer(device.sign("good", "1.0"))
    while device.state() != "active":
        device.update.step()
    trust = device.update._around.trusted()
    trust.accept(*open_trust(device.authority.advance(min_release={MODEL: 2}), trust.current()))
    device.update.obey(trust.current())
    assert (device.state(), device.update.at.confirmed) == ("active", False)
