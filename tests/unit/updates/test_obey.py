"""A trust document that revokes the version in use, while a newer one is in its health window."""

from pathlib import Path

import pytest

from agent.updates import standing
from agent.updates.verify import open_trust
from tests.property.test_update_path import ENDS, Device, simulated_activate, simulated_workers

__all__ = ["simulated_workers"]


@pytest.mark.parametrize("kind", ["good", "bad when live"])
def test_the_candidate_goes_on_and_what_is_behind_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    device = Device(tmp_path)
    for version in ("1.0", "2.0"):
        device.offer(device.sign("good", version))
        device.work()
    revoked = device.pushed[-1].sha256
    answered = record_what_answers(monkeypatch)
    device.offer(device.sign(kind, "3.0"))
    while answered != ["3.0"]:
        if device.state() == "active":
            device.update.at.switch_to(device.update.at.slot)  # it answers, and its window has just begun
        else:
            device.update.step()

    trust = device.update._around.trusted()
    trust.accept(*open_trust(device.authority.advance(revoked=[revoked]), trust.current()))
    device.update.obey(trust.current())
    assert (device.state(), answered) == ("active", ["3.0"])
    device.work()
    assert device.state() == ENDS[kind]
    assert answered == (["3.0"] if kind == "good" else ["3.0", "1.0"])
    running = device.update.at.running
    assert running
    assert running.version == answered[-1]


def record_what_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders whose workers were swapped in, newest last."""
    answered: list[str] = []

    def activate_and_tell(lives: object, folder: Path, *more: object) -> None:
        simulated_activate(lives, folder, *more)
        answered.append(folder.name)

    monkeypatch.setattr(standing, "activate", activate_and_tell)
    return answered
