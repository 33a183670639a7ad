"""The daemon with a camera on a real driver: unplugged, plugged in again, silent; over and over."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.drivers.vivid import Vivid
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config, make_pipeline
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import make_bundle

LOST_WITHIN_S = 2.0
BACK_WITHIN_S = 3.0
START_WITHIN_S = 240.0  # the emulated machine takes its time to import all
STATUS, RESULTS = "edge/devices/cam-1/status", "edge/devices/cam-1/results/door"


@pytest.fixture
def listener(broker: Broker) -> Listener:
    return broker.listen(STATUS, RESULTS)


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, listener: Listener, vivid: Vivid) -> Iterator[Agent]:
    source = {"type": "camera", "device": str(vivid.by_id), "format": "YUYV", "read_timeout_s": 1}
    source |= {"width": 320, "height": 180, "fps": 10}
    pipeline = make_pipeline("door", source=source, model="digits")
    with Agent(
        tmp_path, make_config(tmp_path, broker.port, make_bundle("digits", tmp_path), pipelines=[pipeline])
    ) as it:
        yield it
        print(it.log_file.read_text())


def state(listener: Listener) -> str:
    payloads = listener.payloads(STATUS)
    return json.loads(payloads[-1])["state"] if payloads else "unknown"


def last_captured_s(listener: Listener) -> float:
    """When the frame of the last result was captured, in Unix seconds."""
    payloads = listener.payloads(RESULTS)
    return datetime.fromisoformat(json.loads(payloads[-1])["captured_at"]).timestamp() if payloads else 0.0


def size_of(agent: Agent) -> tuple[int, int]:
    """Threads and open files of the daemon."""
    process = Path(f"/proc/{agent.pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def go_through(listener: Listener, harm: Callable[[], None], mend: Callable[[], None]) -> tuple[float, float]:
    """Do harm and mend it; gives the seconds until the loss was reported, and from mending to the first new frame."""
    began_s = time.monotonic()
    harm()
    listener.wait_for(lambda _: state(listener) == "degraded", 60.0, "the status is degraded")
    lost_s = time.monotonic() - began_s
    mended_at_s, mended_s = time.time(), time.monotonic()
    mend()
    listener.wait_for(lambda _: last_captured_s(listener) > mended_at_s, 60.0, "a result of a new frame")
    back_s = time.monotonic() - mended_s
    listener.wait_for(lambda _: state(listener) == "online", 10.0, "the status is online")
    return lost_s, back_s


@pytest.mark.timeout(600)
def test_a_camera_that_comes_and_goes_and_falls_silent_is_followed_and_nothing_piles_up(
    agent: Agent, listener: Listener, vivid: Vivid, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until(lambda: last_captured_s(listener) > 0.0 or not agent.running, START_WITHIN_S, "a first result")
    assert agent.running
    listener.wait_for(lambda _: state(listener) == "online", 30.0, "the status is online")
    go_through(listener, vivid.unplug, vivid.plug)  # what is made once is made now
    before = size_of(agent)
    took: dict[str, list[tuple[float, float]]] = {"unplugged": [], "moved": [], "silent": []}
    for _ in range(5):
        took["unplugged"].append(go_through(listener, vivid.unplug, vivid.plug))
        assert vivid.device() == Path("/dev/video0"), "the daemon kept the dead device open"
        with vivid.held_open():
            took["moved"].append(go_through(listener, vivid.unplug, vivid.plug))
            assert vivid.device() == Path("/dev/video1")
        go_through(listener, vivid.unplug, vivid.plug)  # back to where it was
        took["silent"] += [go_through(listener, vivid.stall, vivid.go_on) for _ in range(2)]
    for what, times in took.items():
        lost_s, back_s = (max(column) for column in zip(*times, strict=True))
        with capsys.disabled():
            print(f"\n{what}, {len(times)} times: lost within {lost_s:.2f} s, back within {back_s:.2f} s", end=" ")
    assert max(lost_s for times in took.values() for lost_s, _ in times) < LOST_WITHIN_S
    assert max(back_s for times in took.values() for _, back_s in times) < BACK_WITHIN_S
    wait_until(lambda: size_of(agent) == before, 10.0, f"threads and open files: {before} before, {size_of(agent)} now")
