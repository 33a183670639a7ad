"""The installed service and how tests get at it: systemd's own tools, a configuration, and what a broker hears.

Runs in the guest, on Debian's Python: only its standard library and pytest are there.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.sim import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
UNIT = "edge-agent.service"
PROBE = "probe.service"
CONFIG = Path("/etc/edge-agent/config.yaml")
STATE = Path("/var/lib/edge-agent")
SYSTEM = Path("/run/systemd/system")
"""Units and drop-ins that are gone after the next boot."""
PROBE_OUTPUT = Path("/run/probe.json")
PTRACE_SEIZE, PTRACE_INTERRUPT, WAIT_ALL = 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h
DEADLINE_S = 300.0
"""For what takes seconds on a machine of our own, and minutes in an emulated one."""

SQUARES = "{name: squares, source: {type: synthetic, width: 64, height: 64, fps: 5}, model: digits}"


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with its output kept; `check` fails the test with it when it is unsuccessful."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
    return done


def systemctl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Ask systemd for something. `start` and `restart` come back when the service has told that it is ready."""
    done = run("systemctl", "--no-pager", *arguments, check=False)
    assert done.returncode == 0 or not check, f"systemctl {arguments}: {done.stderr}{log()}"
    return done


def make(target: str) -> str:
    """What a user types; the standard output."""
    return run("make", "--no-print-directory", "-C", CHECKOUT, target).stdout


def show(name: str, unit: str = UNIT) -> str:
    """A property of a unit."""
    return systemctl("show", "--value", f"--property={name}", unit).stdout.strip()


def log() -> str:
    """What systemd and the daemon have said about the service."""
    return run("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}").stdout


def restarted(before: str) -> None:
    """Wait until the service is ready with another process than `before`."""

    def is_back() -> bool:
        reap_threads()
        return show("MainPID") not in ("0", before) and show("ActiveState") == "active"

    wait_until(is_back, DEADLINE_S, "a new process")


def hold_all_threads_but_the_first(pid: str) -> None:
    """As ptrace(2) can: the process goes on, and what its other threads did is no longer done."""
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = [ctypes.c_long] * 4
    for thread in {path.name for path in Path(f"/proc/{pid}/task").iterdir()} - {pid}:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            assert library.ptrace(request, int(thread), 0, 0) == 0, os.strerror(ctypes.get_errno())


def reap_threads() -> None:
    """Let go of held threads that have been killed; until then their process has not ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG | WAIT_ALL)[0]:
            pass


def processes() -> set[str]:
    """Ids of all processes of the service, as systemd counts them."""
    group = show("ControlGroup").lstrip("/")
    for above in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup"):
        path = Path(above) / group / "cgroup.procs"
        if group and path.exists():
            return set(path.read_text().split())
    return set()


def configure(*pipelines: str, mqtt: str = "host: localhost") -> None:
    """Write the configuration, as the installer leaves it: readable for the service's user, writable for root."""
    lines = [
        "device: {id: cam-1}",
        f"mqtt: {{{mqtt}}}",
        f"models: {{dir: {STATE}/models}}",
        f"outbox: {{dir: {STATE}/outbox}}",
        "telemetry: {interval_s: 1}",
        "pipelines:",
        *(f"  - {pipeline}" for pipeline in pipelines or (SQUARES,)),
    ]
    CONFIG.write_text("\n".join(lines) + "\n")


def drop_in(text: str, unit: str = UNIT) -> None:
    """Change a unit until `clean_up`."""
    folder = SYSTEM / f"{unit}.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text(text)
    systemctl("daemon-reload")


def clean_up() -> None:
    """Stop the service and the probe, and take what the tests changed in their units away."""
    systemctl("stop", UNIT, PROBE, check=False)
    for unit in (UNIT, PROBE):
        shutil.rmtree(SYSTEM / f"{unit}.d", ignore_errors=True)
    (SYSTEM / PROBE).unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("reset-failed", UNIT, PROBE, check=False)


def in_the_sandbox(*command: str, user: str = "edge-agent", **more: str) -> subprocess.CompletedProcess[str]:
    """Run another program in the place of the daemon: the same unit, and so the same user and sandbox."""
    shutil.copy("/etc/systemd/system/edge-agent.service", SYSTEM / PROBE)
    options = {"User": user, "StandardOutput": f"truncate:{PROBE_OUTPUT}", **more}
    lines = [f"{name}={value}" for name, value in options.items()]
    lines += ["Type=oneshot", "Restart=no", "WatchdogSec=0", "ExecStart=", f"ExecStart={' '.join(command)}"]
    drop_in("[Service]\n" + "\n".join(lines) + "\n", PROBE)
    done = systemctl("start", PROBE, check=False)
    said = run("journalctl", "--no-pager", "--output=cat", f"--unit={PROBE}").stdout
    return subprocess.CompletedProcess(command, done.returncode, PROBE_OUTPUT.read_text(), done.stderr + said)


def heard(topic: str, *options: str) -> dict[str, Any]:
    """The next message below the device's branch that is not a retained one."""
    subscribe = ("mosquitto_sub", "-R", "-C", "1", "-W", f"{DEADLINE_S:.0f}", "-t", f"edge/devices/cam-1/{topic}")
    message: dict[str, Any] = json.loads(run(*subscribe, *options).stdout)
    return message
