"""tools/simulate_fleet.py: a small fleet through a broker's restart and power cuts, and what it says of a bad one."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from agent.config import Mqtt
from agent.runtime.clock import Clock
from tests.sim import free_port, require_program, wait_until
from tests.sim.broker import MEND, Broker
from tests.sim.bundles import ROOT
from tools.fleet_device import Device, Fleet, Happened, What
from tools.fleet_report import Storm, ended_alone, make_storm
from tools.simulate_fleet import main

TOOL = ROOT / "tools" / "simulate_fleet.py"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as broker:
        yield broker


def simulate(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOL), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_fleet_comes_back_and_no_will_is_lost() -> None:
    require_program("mosquitto", MEND)
    done = simulate("--own-broker", "--devices", "30", "--rate", "5", "--seconds", "2", "--down", "2", "--json")
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)

    restart = outcome["restart"]
    assert (restart["back"], restart["lost_again"], restart["failed"]) == (30, 0, 0)
    assert restart["away_s"] >= 2
    assert sum(restart["tries_per_s"]) == restart["tries"] >= 30
    assert {who: (wills["killed"], wills["lie"]) for who, wills in outcome["wills"].items()} == {
        "a tenth": (3, 3),
        "all": (30, 30),
    }
    assert outcome["results_per_s"]["after"] > 0
    assert (outcome["ended_alone"], outcome["broken"]) == ({}, [])


def test_a_broker_of_somebody_is_left_as_it_was(broker: Broker) -> None:
    done = simulate("--broker", f"mqtt://127.0.0.1:{broker.port}", "--devices", "3", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "kill -9 of all: 3 wills: 3 were published" in done.stdout

    later = broker.listen("edge/devices/+/status")
    later.publish("edge/devices/end/status", b"end")
    later.wait_for(lambda messages: any(message.payload == b"end" for message in messages))
    assert [message.topic for message in later.messages] == ["edge/devices/end/status"]


def test_a_broker_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--broker", f"mqtt://127.0.0.1:{free_port()}", "--devices", "3"])

    assert (code, capsys.readouterr().err.count("\n")) == (1, 1)


@pytest.mark.parametrize("options", [["--devices", "0"], ["--rate", "-1"], ["--name", "a/b"]])
def test_wrong_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert "expected" in capsys.readouterr().err


def test_one_broker_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--own-broker", "--restart-command", "true"]) == 2
    assert "expected without" in capsys.readouterr().err


def test_a_client_id_that_is_in_use_twice_is_counted(broker: Broker) -> None:
    news: list[Happened] = []
    fleet = Fleet(Mqtt(host=broker.host, port=broker.port), ("sim-1",), rate_hz=1.0, epoch=0)
    device, stop = Device(fleet, "sim-1", Clock(), news.append), threading.Event()
    thread = threading.Thread(target=device.run, args=(stop,))
    thread.start()
    wait_until(lambda: any(item.what == "up" for item in news), 20)
    other = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="sim-1", protocol=paho.MQTTv5)
    other.connect(broker.host, broker.port)
    other.loop_start()
    wait_until(lambda: any(item.what == "down" for item in news), 20)
    other.disconnect()
    other.loop_stop()
    stop.set()
    device.wake()
    thread.join(20)

    assert sum(ended_alone(news, None).values()) >= 1


def happened(*items: tuple[float, str, What]) -> list[Happened]:
    return [Happened(at_s, device, what, "gone" if what in ("down", "failed") else "") for at_s, device, what in items]


class TestFigures:
    def test_times_count_from_when_the_broker_listens(self) -> None:
        storm = make_storm(
            happened(
                (9.0, "a", "up"),  # before
                (10.0, "a", "down"),
                (10.1, "a", "try"),
                (10.2, "a", "failed"),  # nobody listened
                (12.5, "a", "try"),
                (12.75, "a", "up"),
            ),
            1,
            10.0,
            12.0,
        )

        assert (storm.back, storm.back_s.max, storm.tries, storm.failed) == (1, 0.75, 2, 0)
        assert storm.tries_per_s == [1, 0, 1]
        assert not storm.is_second

    def test_devices_that_lose_the_broker_again_are_a_second_storm(self) -> None:
        storm = self.storm((12.1, "a", "try"), (12.2, "a", "up"), (12.3, "a", "down"))

        assert (storm.back, storm.lost_again, storm.why) == (0, 1, {"gone": 1})
        assert storm.is_second

    def test_nearly_all_at_the_same_time_are_a_second_storm(self) -> None:
        before = [(11.0, f"d{number}", "try") for number in range(10)]

        assert self.storm(*before, *((20.0 + number / 20, f"d{number}", "try") for number in range(10))).is_second
        assert not self.storm(*before, *((20.0 + number, f"d{number}", "try") for number in range(10))).is_second

    def test_the_first_try_of_all_is_the_first_storm(self) -> None:
        assert not self.storm(*((14.0, f"d{number}", "try") for number in range(10))).is_second

    def test_a_try_that_fails_although_the_broker_listens_counts(self) -> None:
        assert self.storm((12.1, "a", "try"), (17.1, "a", "failed")).failed == 1

    def test_one_connection_of_each_device_may_end_with_the_broker(self) -> None:
        before, of_it, again = (5.0, "a", "down"), (10.0, "a", "down"), (15.0, "a", "down")

        assert ended_alone(happened(of_it, (10.0, "b", "down")), 9.0) == {}
        assert ended_alone(happened(before, of_it, again), 9.0) == {"gone": 2}

    def storm(self, *items: tuple[float, str, What]) -> Storm:
        return make_storm(happened(*items), 10, 10.0, 12.0)
