"""The service as an operator meets it, under a systemd of its own: `make test-systemd`."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.sim import wait_until
from tests.systemd.service import (
    CHECKOUT,
    CONFIG,
    DEADLINE_S,
    SQUARES,
    STATE,
    UNIT,
    clean_up,
    configure,
    drop_in,
    heard,
    hold_all_threads_but_the_first,
    in_the_sandbox,
    log,
    make,
    processes,
    restarted,
    run,
    show,
    systemctl,
)

PROGRAM = "/opt/edge-agent/venv/bin/edge-agent"
AS_USER = ("setpriv", "--reuid=edge-agent", "--regid=edge-agent", "--init-groups")
MAX_EXPOSURE = 1.6
CREDENTIAL = "/run/credentials/edge-agent.service/mqtt.password"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """From nothing, also where `test_machine.py` has left the program in the guest's files."""
    run(CHECKOUT / "systemd/uninstall.sh", "--purge")
    make("install")


@pytest.fixture(autouse=True)
def stopped() -> None:
    clean_up()


# --- installing --------------------------------------------------------------------------------------------------


def test_what_was_just_installed_starts_though_its_camera_and_broker_are_away():
    systemctl("stop", "mosquitto")
    systemctl("start", UNIT)
    status = show("StatusText")
    systemctl("start", "mosquitto")
    assert show("UnitFileState") == "enabled"
    assert "capture.front-door: camera /dev/video0: no such device" in status
    assert "mqtt: localhost:1883" in status


def test_systemd_finds_nothing_wrong_with_the_installed_unit_and_its_exposure_is_low():
    assert UNIT not in run("systemd-analyze", "verify", UNIT).stderr
    said = run("systemd-analyze", "security", "--no-pager", UNIT).stdout
    exposure = re.search(r"exposure level for edge-agent\.service: ([\d.]+)", said)
    assert exposure
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_installing_again_keeps_the_configuration_and_brings_a_running_service_back():
    configure()
    edited = CONFIG.read_text()
    systemctl("start", UNIT)
    before = show("MainPID")
    make("install")
    assert show("ActiveState") == "active"
    assert show("MainPID") != before
    assert CONFIG.read_text() == edited
    assert heard("results/squares")["model"]["name"] == "digits"


# --- running -----------------------------------------------------------------------------------------------------


def test_the_service_is_active_when_its_models_answer():
    configure()
    systemctl("start", UNIT)
    assert (show("Type"), show("ActiveState"), show("SubState")) == ("notify", "active", "running")
    wait_until(lambda: show("StatusText") == "all pipelines run", DEADLINE_S, "a status line without complaints")
    status = Path(f"/proc/{show('MainPID')}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapEff"], 16)) == ("1", "2", 0)
    assert fields["Uid"].split()[0] == run("id", "-u", "edge-agent").stdout.strip()
    assert heard("results/squares")["model"]["name"] == "digits"


def test_a_stuck_daemon_is_killed_by_the_watchdog_with_its_workers_and_starts_anew():
    configure()
    systemctl("start", UNIT)
    before = processes()
    stuck = show("MainPID")
    assert len(before) > 1
    os.kill(int(stuck), signal.SIGSTOP)
    restarted(stuck)
    assert "Watchdog timeout" in log()
    assert show("NRestarts") == "1"
    assert not processes() & before
    assert heard("results/squares")["model"]["name"] == "digits"


def test_the_watchdog_is_not_fed_while_loops_are_stuck():
    """The main thread, which feeds it, lives and sees that the others do nothing: after 90 s.

    Threads that work seldom, lest one is held while it holds what the main thread waits for.
    """
    configure(SQUARES.replace("fps: 5", "fps: 1"))
    systemctl("start", UNIT)
    heard("results/squares")
    stuck = show("MainPID")
    hold_all_threads_but_the_first(stuck)
    restarted(stuck)
    assert "no sign of life from" in log()
    assert "Watchdog timeout" in log()
    assert heard("results/squares")["model"]["name"] == "digits"


def test_it_stops_in_order_within_ten_seconds():
    drop_in("[Service]\nTimeoutStopSec=10\n")
    configure("{name: clip, source: {type: file, path: /checkout/agent/demo/face.mp4, loop: true}, model: digits}")
    systemctl("start", UNIT)
    heard("results/clip")
    systemctl("stop", UNIT)
    assert (show("ActiveState"), show("Result"), show("ExecMainStatus")) == ("inactive", "success", "0")
    assert not processes()


def test_a_daemon_that_was_killed_comes_back():
    configure()
    systemctl("start", UNIT)
    killed = show("MainPID")
    os.kill(int(killed), signal.SIGKILL)
    restarted(killed)
    assert heard("results/squares")["seq"] > 0


def test_systemd_never_gives_it_up():
    """By default it would after five starts in ten seconds."""
    drop_in("[Service]\nRestartSec=50ms\nType=exec\nExecStart=\nExecStart=/bin/false\n")
    systemctl("start", UNIT, check=False)
    wait_until(lambda: int(show("NRestarts")) > 10, DEADLINE_S, "restarts")
    assert show("ActiveState") in ("activating", "active")


def test_a_wrong_configuration_fails_once_and_is_mended_by_a_start():
    configure(mqtt="host: localhost, prot: 1883")
    assert systemctl("start", UNIT, check=False).returncode != 0
    state = (show("ActiveState"), show("Result"), show("ExecMainStatus"), show("NRestarts"))
    assert state == ("failed", "exit-code", "2", "0")
    assert "prot" in log()
    configure()
    systemctl("start", UNIT)
    assert show("ActiveState") == "active"


# --- the sandbox -------------------------------------------------------------------------------------------------


def test_the_check_passes_as_the_services_user_without_and_within_the_services_sandbox():
    configure()
    run(*AS_USER, PROGRAM, "check", "--config", CONFIG)
    done = in_the_sandbox(f"{PROGRAM} check --json --config {CONFIG}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line["name"]: line["detail"] for line in json.loads(done.stdout)["checks"]}
    assert {"model digits", "source squares", "broker", "outbox", "disk"} <= set(lines)


def test_the_sandbox_lets_it_do_its_work_and_nothing_else():
    done = in_the_sandbox("/usr/bin/python3 /checkout/tests/systemd/probe.py")
    outcomes = json.loads(done.stdout)
    works = {name for name, outcome in outcomes.items() if outcome == "works"}
    assert works == {
        "write below its own folder",
        "write below /tmp",
        "open a network socket",
        "read the device's memory use",
        "give way",
    }
    assert len(outcomes) > len(works)


def test_messages_say_whether_systemd_timesyncd_has_set_the_clock():
    """The sandbox forbids asking the kernel."""
    told = Path("/run/systemd/timesync/synchronized")
    told.parent.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    configure()
    systemctl("start", UNIT)
    assert heard("telemetry")["clock"] == "unsynced"
    told.touch()
    wait_until(lambda: heard("telemetry")["clock"] == "synced", DEADLINE_S, "a synchronised clock")


def test_a_password_comes_as_a_credential(tmp_path: Path):
    secret = Path("/etc/edge-agent/mqtt.password")
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    run("mosquitto_passwd", "-b", "-c", tmp_path / "users", "cam-1", "correct horse")
    (tmp_path / "users").chmod(0o644)
    tmp_path.chmod(0o755)
    (tmp_path / "broker.conf").write_text(
        f"user root\nlistener 1884 127.0.0.1\nallow_anonymous false\npassword_file {tmp_path}/users\n"
    )
    configure(mqtt=f"host: localhost, port: 1884, username: cam-1, password_file: {CREDENTIAL}")
    drop_in(f"[Service]\nLoadCredential=mqtt.password:{secret}\n")
    with subprocess.Popen(["mosquitto", "-c", tmp_path / "broker.conf"]) as broker:
        try:
            systemctl("start", UNIT)
            message = heard("results/squares", "-p", "1884", "-u", "cam-1", "-P", "correct horse")
        finally:
            broker.terminate()
    assert message["model"]["name"] == "digits"
    assert "correct horse" not in log()
    assert "Permission denied" in run(*AS_USER, "cat", secret, check=False).stderr


# --- uninstalling ------------------------------------------------------------------------------------------------


def test_uninstalling_stops_it_and_leaves_configuration_and_data():
    configure()
    systemctl("start", UNIT)
    heard("results/squares")
    models = set(STATE.glob("models/**/*"))
    make("uninstall")
    assert (show("LoadState"), show("ActiveState")) == ("not-found", "inactive")
    assert not Path("/opt/edge-agent").exists()
    assert CONFIG.exists()
    assert models == set(STATE.glob("models/**/*"))
    assert list(STATE.glob("outbox/*"))
    make("uninstall")
    run(CHECKOUT / "systemd/uninstall.sh", "--purge")
    assert not CONFIG.parent.exists()
    assert not STATE.exists()
    assert run("id", "edge-agent", check=False).returncode != 0
