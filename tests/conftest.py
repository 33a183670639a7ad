"""Fixtures that several folders of tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.sim import require_program
from tests.sim.broker import Broker
from tests.sim.proxy import FaultProxy

__all__ = ["broker", "proxy", "require_program"]

# How long an example takes says more of the machine than of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A running mosquitto that lets everybody in and keeps sessions over a restart."""
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def proxy(broker: Broker) -> Iterator[FaultProxy]:
    """A way to the broker that can be disturbed."""
    with FaultProxy(broker.port) as running:
        yield running
