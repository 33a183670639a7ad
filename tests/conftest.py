"""Fixtures that several folders of tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import require_program
from tests.sim.broker import Broker
from tests.sim.proxy import FaultProxy

__all__ = ["broker", "proxy", "require_program"]


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
