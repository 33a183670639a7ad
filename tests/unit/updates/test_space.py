"""A disk that has just the room that a release needs."""

from pathlib import Path

import pytest

from agent.updates import updater
from agent.updates.pull import Pull
from tests.property.test_update_path import Device, simulated_workers

__all__ = ["simulated_workers"]


def test_what_an_earlier_try_received_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part file has room for the whole archive: the second try needs only what the bundle takes."""
    device = Device(tmp_path)
    pushed = device.sign("good", "2.0", large=True)
    assert device.offer(pushed) is None
    incoming = device.home / ".incoming"
    room = 2 * device.update.release().archive.size_bytes + updater._RESERVE_BYTES + 8192

    def free_bytes() -> int:
        return room - sum(path.stat().st_blocks * 512 for path in incoming.glob("*"))

    monkeypatch.setattr(device.update.store, "free_bytes", free_bytes)
    last = max(topic for topic in device._retained if pushed.sha256 in topic)
    missing = device._retained[last]
    device._retained[last] = b"others"  # the broker has lost a chunk
    while (incoming / f"{pushed.sha256}.part") not in incoming.glob("*"):
        device.update.step()
    pull = wait_for_pull(device)
    pull.waited_s = 1e9  # as after five minutes
    device.update.step()
    assert device.state() == "failed"

    device._retained[last] = missing
    device.work()
    candidate = device.update.store.record.candidate
    assert candidate
    assert (candidate.state, candidate.reason_code) == ("active", None)


def wait_for_pull(device: Device) -> Pull:
    transfer = device.update._transfer
    assert transfer
    while transfer._pull is None:
        device.update.step()
    return transfer._pull
