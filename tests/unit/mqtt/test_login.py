"""Passwords, certificates and names that a connection needs, and what is said when they can't be had."""

import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from agent.config import Tls
from agent.errors import LinkDown
from agent.mqtt import login
from agent.mqtt.login import look_up, make_tls_context, read_password
from tests.sim.broker import make_certificates


def error_of(action: object) -> str:
    with pytest.raises(LinkDown) as caught:
        action()  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"secret\r\n", b"secret\nmore\n"])
def test_the_password_is_the_first_line(tmp_path: Path, content: bytes):
    path = tmp_path / "password"
    path.write_bytes(content)
    assert read_password(str(path)) == "secret"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a password on the first line, got 0 bytes"),
        (b"\nsecret", "expected a password on the first line, got 0 bytes"),
        (b"x" * 70000, "expected a password on the first line, got 65537 bytes"),
        (b"\xff\xfe", "expected UTF-8 text"),
    ],
)
def test_a_bad_password_file_is_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "password"
    path.write_bytes(content)
    assert error_of(lambda: read_password(str(path))) == f"mqtt.password_file: {path}: {message}"


def test_a_missing_password_file_is_named(tmp_path: Path):
    path = tmp_path / "password"
    assert error_of(lambda: read_password(str(path))) == f"mqtt.password_file: {path}: No such file or directory"


def test_tls_checks_certificate_and_name_and_starts_at_1_2():
    context = make_tls_context(Tls(enabled=True))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_only_the_configured_authorities_are_trusted(tmp_path: Path):
    folder = make_certificates(tmp_path)
    context = make_tls_context(Tls(enabled=True, ca_file=str(folder / "ca.crt")))
    assert [dict(part[0] for part in ca["subject"]) for ca in context.get_ca_certs()] == [{"commonName": "test CA"}]


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_a_missing_tls_file_is_named(tmp_path: Path, key: str):
    folder = make_certificates(tmp_path)
    files = {"ca_file": "ca.crt", "cert_file": "client.crt", "key_file": "client.key"}
    (folder / files[key]).unlink()
    tls = Tls(enabled=True, **{name: str(folder / file) for name, file in files.items()})
    assert (
        error_of(lambda: make_tls_context(tls)) == f"mqtt.tls.{key}: {folder / files[key]}: No such file or directory"
    )


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path):
    path = tmp_path / "ca.crt"
    path.write_text("hello")
    message = error_of(lambda: make_tls_context(Tls(enabled=True, ca_file=str(path))))
    assert message.startswith(f"mqtt.tls.ca_file: {path}: expected certificates in PEM, got ")


def test_a_key_of_another_certificate_is_an_error(tmp_path: Path):
    folder = make_certificates(tmp_path)
    tls = Tls(enabled=True, cert_file=str(folder / "client.crt"), key_file=str(folder / "server.key"))
    assert "KEY_VALUES_MISMATCH" in error_of(lambda: make_tls_context(tls))


def test_an_encrypted_key_is_an_error_and_asks_nobody(tmp_path: Path):
    folder = make_certificates(tmp_path)
    subprocess.run(
        ["openssl", "ec", "-in", "client.key", "-aes128", "-passout", "pass:abcd", "-out", "locked.key"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    tls = Tls(enabled=True, cert_file=str(folder / "client.crt"), key_file=str(folder / "locked.key"))
    assert "without a password" in error_of(lambda: make_tls_context(tls))


def test_localhost_has_an_address():
    assert look_up("localhost", 1883, 10.0) >= 1


def test_an_unknown_name_is_named():
    message = error_of(lambda: look_up("no-such-host.invalid", 1883, 10.0))
    assert message.startswith("no-such-host.invalid:1883: host name not found: ")


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_what_can_not_be_a_name_is_named(host: str):
    assert error_of(lambda: look_up(host, 1883, 10.0)) == f"{host}:1883: that can't be a host name; see mqtt.host"


def test_a_name_server_that_does_not_answer_costs_no_more_than_the_time_allowed(monkeypatch: pytest.MonkeyPatch):
    """The one place where the library's call itself is replaced: nothing else can make it hang."""
    release = threading.Event()
    monkeypatch.setattr(login.socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    assert error_of(lambda: look_up("broker.example", 1883, 0.05)) == "broker.example: the name server does not answer"
    release.set()
