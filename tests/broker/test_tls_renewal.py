"""The daemon and its certificate: what it tells, and how it takes a new one while it runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.wire.schemas import message_schema
from tests.broker.site import Site
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config
from tests.sim.bundles import ROOT, make_bundle
from tests.sim.certificates import CertificateAuthority

TELEMETRY = "edge/devices/cam-1/telemetry"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    with site.broker:
        yield site
        site.leave()


def logs_in(mqtt: Any) -> dict[str, Any]:
    """The section of a configuration file."""
    files = {key: getattr(mqtt.tls, key) for key in ("ca_file", "cert_file", "key_file")}
    return {"host": mqtt.host, "port": mqtt.port, "keepalive_s": 5, "tls": {"enabled": True, **files}}


def test_a_certificate_ends_and_is_replaced_while_the_daemon_runs(site: Site, tmp_path: Path):
    """Over one connection as long as it lasts, and over the next with what lies there then."""
    mqtt = site.with_certificate("cam-1", days=20)
    config = make_config(tmp_path, 0, make_bundle("face", tmp_path), mqtt=logs_in(mqtt))
    ear = site.certified("operator")
    ear.subscribe(TELEMETRY)
    with Agent(tmp_path, config) as agent:
        state = agent.wait_for_status(lambda s: s["mqtt"]["connected"] and s["reasons"])
        (reason,) = state["reasons"]
        ends_at = state["mqtt"]["certificate_expires_at"]
        assert state["state"] == "degraded"
        assert reason.startswith(f"login: mqtt.tls.cert_file: {mqtt.tls.cert_file} ends at {ends_at}; put a new one")
        wait_until(lambda: agent.events("login.lost"), 20.0, "the warning in the log")
        (warning,) = agent.events("login.lost")
        assert (warning["level"], f"login: {warning['reason']}") == ("warning", reason)
        telemetry = json.loads(ear.hear_until(TELEMETRY, ends_at.encode())[-1].payload)
        jsonschema.validate(telemetry, message_schema("telemetry"))
        assert telemetry["mqtt"]["certificate_expires_at"] == ends_at

        done = subprocess.run(
            [sys.executable, "-m", "agent", "check", "--config", str(agent.config_file)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert f"certificates: mqtt.tls.cert_file: {mqtt.tls.cert_file} ends at {ends_at}" in done.stdout
        assert "broker: in use by the running daemon, which is connected" in done.stdout
        assert done.returncode == 0, done.stdout

        key = Path(str(mqtt.tls.key_file))
        key.write_text("junk")
        state = agent.wait_for_status(lambda s: "key_file" in str(s["reasons"]))
        assert "expected a certificate and its key in PEM" in state["reasons"][0]
        assert (state["mqtt"]["connected"], state["mqtt"]["connects"]) == (True, 1), "the check did not take its place"

        site.broker.clients = CertificateAuthority(key.parent, "another authority")
        site.broker.clients.client("cam-1", days=200)
        agent.wait_for_status(lambda s: s["state"] == "online")
        site.broker.restart()
        state = agent.wait_for_status(lambda s: s["mqtt"]["connects"] > 1 and s["state"] == "online")
        assert state["mqtt"]["certificate_expires_at"] > ends_at
        assert agent.end() == 0


def test_check_says_that_a_certificate_has_ended(site: Site, tmp_path: Path):
    mqtt = site.with_certificate("cam-1", first_day=-9, days=-1)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(make_config(tmp_path, 0, make_bundle("face", tmp_path), mqtt=logs_in(mqtt))))
    command = [sys.executable, "-m", "agent", "check", "--config", str(config), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    failed = {check["name"]: check["detail"] for check in json.loads(done.stdout)["checks"] if not check["ok"]}
    assert failed.keys() == {"certificates", "broker"}
    assert f"mqtt.tls.cert_file: {mqtt.tls.cert_file} has ended at " in failed["certificates"]
    assert failed["broker"].endswith("; see mqtt.tls.cert_file")
    assert done.returncode == 1
