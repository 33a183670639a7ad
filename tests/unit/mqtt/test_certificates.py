"""When certificates end, and what is said of files that the next connection could not use."""

import time
from pathlib import Path

import pytest

from agent.config import Mqtt, Tls
from agent.mqtt.certificates import LoginFiles
from agent.runtime.health import Health
from agent.runtime.units import Duration
from tests.sim.certificates import CertificateAuthority


class Watched:
    """A device's files, and what it says of them."""

    def __init__(self, folder: Path, *, days: float = 365, ca_days: float = 3650, warn_before_s: float = 30 * 86400.0):
        self.authority = CertificateAuthority(folder / "tls", days=ca_days)
        self.cert, self.key = map(Path, self.renew(days=days).values())
        self.ca, self.password = self.authority.ca_file, folder / "password"
        self.password.write_text("secret")
        warn_before = Duration(warn_before_s)
        tls = Tls(True, str(self.ca), str(self.cert), str(self.key), warn_before)
        self.health = Health()
        self.files = LoginFiles(Mqtt(password_file=str(self.password), tls=tls), self.health)

    def renew(self, *, days: float = 365) -> dict[str, str]:
        return self.authority.client("cam-1", days=days)

    def reasons(self, *, connected: bool = True) -> list[str]:
        self.files.look(connected=connected)
        return self.health.reasons()

    @property
    def days(self) -> list[int]:
        """Until certificate and authority end."""
        self.files.look(connected=True)
        return [round(one.days_left(time.time_ns())) for one in self.files.certificates]


def test_good_files_are_no_news_and_telemetry_has_their_ends(tmp_path: Path):
    device = Watched(tmp_path)
    assert device.reasons() == []
    assert device.days == [365, 3650]
    assert set(device.files.telemetry()) == {"certificate_expires_at", "ca_expires_at"}


def test_without_tls_there_is_nothing_to_tell():
    files = LoginFiles(Mqtt(), health := Health())
    files.look(connected=True)
    assert (files.telemetry(), health.reasons()) == ({}, [])


@pytest.mark.parametrize(("days", "said"), [(31, False), (29, True), (1, True), (-0.5, True)])
def test_a_certificate_is_complained_about_thirty_days_before_it_ends(tmp_path: Path, days: float, said: bool):
    device = Watched(tmp_path, days=days)
    reasons = device.reasons()
    assert bool(reasons) == said
    if said:
        ends = "ends" if days > 0 else "has ended"
        at = device.files.telemetry()["certificate_expires_at"]
        mend = "put a new one there, no restart is needed"
        assert reasons == [f"login: mqtt.tls.cert_file: {device.cert} {ends} at {at}; {mend}"]
        assert device.reasons() == reasons, "the same text, or each would be a new status"
        device.renew()
        assert device.reasons() == []


def test_an_authority_that_ends_is_complained_about_too(tmp_path: Path):
    (reason,) = Watched(tmp_path, ca_days=7).reasons()
    assert f"mqtt.tls.ca_file: {tmp_path}/tls/ca.crt ends at " in reason


def test_certificates_that_live_for_days_have_their_own_measure(tmp_path: Path):
    assert Watched(tmp_path / "a", days=7, warn_before_s=86400.0).reasons() == []
    assert Watched(tmp_path / "b", days=0.5, warn_before_s=86400.0).reasons() != []


def test_a_chain_ends_with_its_first_link_and_authorities_with_their_last(tmp_path: Path):
    device = Watched(tmp_path, days=100, ca_days=50)
    older = CertificateAuthority(tmp_path / "older", "older", days=40)
    for path in (device.cert, device.ca):
        path.write_bytes(path.read_bytes() + older.ca_file.read_bytes())
    assert device.days == [40, 50]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("key", "junk", "mqtt.tls.cert_file, key_file: "),
        ("cert", "junk", "mqtt.tls.cert_file, key_file: "),
        ("ca", "junk", "mqtt.tls.ca_file: "),
        ("password", "", "mqtt.password_file: "),
        ("password", None, "mqtt.password_file: "),
        ("key", None, "mqtt.tls.key_file: "),
    ],
)
def test_a_bad_new_file_is_one_reason_until_it_is_mended(tmp_path: Path, file: str, content: str | None, said: str):
    device = Watched(tmp_path)
    assert device.reasons() == []
    path: Path = getattr(device, file)
    good = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    (reason,) = device.reasons()
    assert reason.startswith(f"login: {said}")
    assert str(path) in reason
    assert reason.endswith("; the connection that is there stays, the next one would fail")
    assert device.reasons(connected=False) == [], "then the attempts to connect tell it"
    path.write_bytes(good)
    assert device.reasons() == []


def test_a_key_of_another_certificate_is_seen_although_both_files_are_good(tmp_path: Path):
    device = Watched(tmp_path)
    key = device.key.read_bytes()
    device.renew()
    device.key.write_bytes(key)
    (reason,) = device.reasons()
    assert "KEY_VALUES_MISMATCH" in reason
