"""What only a kernel of its own enforces for a service, limits of memory and of devices: `make test-systemd`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sim import wait_until
from tests.sim.mutants import MUTANTS, mutate
from tests.systemd.service import (
    CHECKOUT,
    DEADLINE_S,
    STATE,
    UNIT,
    clean_up,
    configure,
    drop_in,
    heard,
    in_the_sandbox,
    show,
    systemctl,
)

CAMERA = "{name: front, source: {type: camera, width: 320, height: 180, fps: 5, read_timeout_s: 20}, model: digits}"
HUNGRY = "{name: greedy, source: {type: synthetic, width: 64, height: 64, fps: 1}, model: hungry, infer_timeout_s: 60}"


@pytest.fixture(scope="module", autouse=True)
def camera() -> None:
    """A camera of the driver `vivid`, with the group that udev would give it."""
    subprocess.run(["modprobe", "-d", "/drivers", "vivid", "n_devs=1", "node_types=0x1"], check=True)
    shutil.chown("/dev/video0", "root", "video")
    Path("/dev/video0").chmod(0o660)


@pytest.fixture(autouse=True)
def stopped() -> None:
    clean_up()


def hungry() -> None:
    """A model that takes 2 GB when it is loaded, as one that nobody has limited."""
    source = CHECKOUT / "models/face/2026.11.1"
    bundle = STATE / "models/hungry/1"
    bundle.mkdir(parents=True)
    (bundle / "model.tflite").write_bytes(mutate((source / "model.tflite").read_bytes(), MUTANTS["hungry"]))
    shutil.copy(source / "labels.txt", bundle)
    kept = [
        line
        for line in (source / "manifest.yaml").read_text().splitlines()
        if not line.startswith(("golden:", "limits:"))
    ]
    text = "\n".join(kept).replace("name: face", "name: hungry").replace("version: 2026.11.1", 'version: "1"')
    (bundle / "manifest.yaml").write_text(text)
    (bundle.parent / "current").write_text("1\n")
    for path in [bundle.parent, bundle, *bundle.iterdir(), bundle.parent / "current"]:
        shutil.chown(path, "edge-agent", "edge-agent")


def promise_more_than_there_is() -> None:
    """Of memory; by default the kernel refuses what is more than the whole machine has, and the model fails to load."""
    Path("/proc/sys/vm/overcommit_memory").write_text("1")


def killed_for_memory() -> int:
    """How many processes of the service the kernel has killed because it took too much."""
    path = Path("/sys/fs/cgroup") / show("ControlGroup").lstrip("/") / "memory.events"
    return int(dict(line.split() for line in path.read_text().splitlines())["oom_kill"])


def test_cameras_are_reachable_and_other_devices_are_not():
    """As root, whom the modes of the files stop from nothing."""
    probe = "/usr/bin/python3 /checkout/tests/systemd/probe.py /dev/null /dev/video0 /dev/ttyS0 /dev/kmsg"
    with_sandbox = json.loads(in_the_sandbox(probe, user="root").stdout)
    assert (with_sandbox["/dev/null"], with_sandbox["/dev/video0"]) == ("works", "works")
    assert with_sandbox["/dev/ttyS0"] == "Operation not permitted"


def test_a_worker_out_of_memory_dies_alone_and_the_rest_goes_on():
    hungry()
    promise_more_than_there_is()
    configure(CAMERA, HUNGRY)
    drop_in("[Service]\nMemoryMax=700M\nTimeoutStartSec=600\nWatchdogSec=300\n")
    systemctl("start", UNIT)
    daemon = show("MainPID")
    wait_until(lambda: killed_for_memory() > 0, DEADLINE_S, "a worker that is killed")
    assert heard("results/front")["frame"]["width_px"] == 320
    assert (show("MainPID"), show("NRestarts"), show("ActiveState")) == (daemon, "0", "active")
    wait_until(lambda: "greedy" in show("StatusText"), DEADLINE_S, "a status line that names what is out of memory")
