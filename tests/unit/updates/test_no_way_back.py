"""A command over MQTT, which nobody signs, brings no revoked bytes back."""

from pathlib import Path

import pytest

from agent.errors import UpdateRefused
from agent.updates.verify import open_trust
from tests.power.store_writer import write_bundle
from tests.property.test_update_path import Device, simulated_workers

__all__ = ["simulated_workers"]


@pytest.mark.parametrize("newer", [False, True])
def test_a_rollback_does_not_lead_to_what_is_revoked(tmp_path: Path, *, newer: bool) -> None:
    device = Device(tmp_path)
    for version in ("1.0", "2.0"):
        device.offer(device.sign("good", version))
        device.work()
    revoked = device.pushed[-1].sha256
    if newer:
        device.offer(device.sign("good", "3.0"))
        device.work()
    trust = device.update._around.trusted()
    trust.accept(*open_trust(device.authority.advance(revoked=[revoked]), trust.current()))
    device.update.obey(trust.current())
    running = device.update.at.running
    assert running
    assert running.version == ("3.0" if newer else "1.0")

    with pytest.raises(UpdateRefused, match="no whole version to go back to"):
        device.update.roll_back()
    assert device.update.at.running == running
    assert not (device.home / "2.0").exists()
    assert not (device.home / "previous").exists()


def test_what_was_made_of_revoked_bytes_is_not_activated(tmp_path: Path) -> None:
    """A personal head stays on the device, whatever becomes of the release that it was made of."""
    device = Device(tmp_path)
    for version in ("1.0", "2.0"):
        device.offer(device.sign("good", version))
        device.work()
    write_bundle(device.home / "2.0+p1", "2.0+p1", b"good\nhead")
    (device.home / "2.0+p1" / ".made-of").write_text(device.pushed[-1].sha256)
    trust = device.update._around.trusted()
    trust.accept(*open_trust(device.authority.advance(revoked=[device.pushed[-1].sha256]), trust.current()))
    device.update.obey(trust.current())

    with pytest.raises(UpdateRefused, match="revoked"):
        device.update.activate_version("2.0+p1")
    assert device.update.activate_version("1.0").version == "1.0"
