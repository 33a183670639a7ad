"""The workers follow the record, also where a disk or a busy device came between."""

import errno
import time
from pathlib import Path

import pytest

from agent.errors import UpdateFailed
from agent.updates import standing
from agent.updates.store import Slot
from tests.property.test_update_path import Device, simulated_activate, simulated_workers
from tests.sim.disk import trouble

__all__ = ["simulated_workers"]


class Workers:
    """Whose workers answer frames; some starts fail, as on a device that is short of memory."""

    def __init__(self) -> None:
        self.answers = ""
        self.failing: list[str] = []
        """Folders whose next start fails."""

    def activate(self, lives: object, folder: Path, *more: object) -> None:
        if folder.name in self.failing:
            self.failing.remove(folder.name)
            raise UpdateFailed("memory", "the device is out of memory")
        simulated_activate(lives, folder, *more)
        self.answers = folder.name


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    workers = Workers()
    monkeypatch.setattr(standing, "activate", workers.activate)
    monkeypatch.setattr(standing, "MEND_AGAIN_S", 0.0, raising=False)
    return workers


@pytest.fixture
def device(tmp_path: Path, workers: Workers) -> Device:
    """It runs 1.0."""
    device = Device(tmp_path)
    assert device.offer(device.sign("good", "1.0")) is None
    device.work()
    assert workers.answers == "1.0"
    return device


def test_a_bad_model_does_not_stay_because_the_next_release_has_to_wait(device: Device, workers: Workers) -> None:
    assert device.offer(device.sign("bad when live", "2.0")) is None
    workers.failing = ["1.0"]  # the way back does not succeed at once
    device.work()
    assert (device.state(), workers.answers) == ("rolled_back", "2.0")
    device.update.pin(pinned=True)
    assert device.offer(device.sign("good", "3.0")) is None
    device.work(3)
    assert device.state() == "offered"
    assert workers.answers == "1.0"


def test_what_could_not_be_written_down_does_not_answer_on(device: Device, workers: Workers) -> None:
    with trouble(1, OSError(errno.ENOSPC, "no space"), lasting=True), pytest.raises(UpdateFailed, match="no_space"):
        device.update.roll_back()
    device.update.step()
    running = device.update.at.running
    assert running
    assert workers.answers == running.folder == "1.0"


def test_what_could_not_be_named_is_named_later(
    device: Device, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full as a bad model is taken back: commands that believe `current` must not go on with that one."""
    mirror, refusals = device.update.store.mirror, [UpdateFailed("no_space", "current and previous: no space")]

    def refuse_once(running: Slot, before: Slot | None) -> None:
        if running.folder == "1.0" and refusals:
            raise refusals.pop()
        mirror(running, before)

    monkeypatch.setattr(device.update.store, "mirror", refuse_once)
    assert device.offer(device.sign("bad when live", "2.0")) is None
    device.work()
    assert (device.state(), workers.answers, refusals) == ("rolled_back", "1.0", [])
    device.update.step()
    assert (device.home / "current").read_text() == "1.0\n"


def test_a_way_back_that_fails_is_tried_now_and_then(
    device: Device, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop comes by each second, and each try costs a start of a worker."""
    monkeypatch.setattr(standing, "MEND_AGAIN_S", 30.0)
    assert device.offer(device.sign("bad when live", "2.0")) is None
    workers.failing = ["1.0", "1.0"]
    device.work()
    for _ in range(5):
        device.update.step()
    assert (workers.failing, workers.answers) == (["1.0"], "2.0")
    later_s = time.monotonic() + 30.0
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    device.update.step()
    assert workers.failing == []
