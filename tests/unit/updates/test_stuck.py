"""A disk on which not even the record can be written."""

import errno
import time
from pathlib import Path

import pytest

from agent.updates import updater
from tests.property.test_update_path import Device, simulated_workers
from tests.sim.disk import trouble

__all__ = ["simulated_workers"]


def test_it_is_tried_again_when_that_is_due_and_not_in_each_round_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop asks each second: the log of a full disk would get a line each time, and a trial a start."""
    monkeypatch.setattr(updater, "_STUCK_S", 30.0)
    device = Device(tmp_path)
    assert device.offer(device.sign("good", "1.0")) is None
    with trouble(1, OSError(errno.ENOSPC, "no space"), lasting=True) as disk:
        assert device.update.step() == 30.0
        asked = disk.changes
        for _ in range(5):
            assert device.update.step() > 20.0
        assert disk.changes == asked > 0
    later_s = time.monotonic() + 30.0
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    device.work()
    assert device.state() == "active"
