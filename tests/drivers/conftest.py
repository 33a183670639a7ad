"""Tests with real drivers: `make test-drivers` runs them in a virtual machine, nothing else collects them."""

import os
import subprocess

import pytest

from tests.drivers.vivid import Vivid

FOLDER = os.environ.get("EDGE_AGENT_DRIVERS")
"""The drivers of the guest's kernel; set by `tests/drivers/vm.py`, in the guest alone."""

if FOLDER is None:
    collect_ignore_glob = ["test_*.py"]


def load(driver: str, **options: object) -> None:
    """Load a driver of the guest's kernel."""
    assert FOLDER is not None
    parameters = [f"{name}={value}" for name, value in options.items()]
    subprocess.run(["modprobe", "-d", FOLDER, driver, *parameters], check=True)


@pytest.fixture(scope="session")
def vivid() -> Vivid:
    """A camera, plugged in."""
    load("vivid", n_devs=1, node_types="0x1")
    camera = Vivid()
    camera.link()
    return camera
