"""tools/collect.py against a real broker: what it stores, what it acknowledges, and how several share the load."""

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from tests.sim import wait_until
from tests.sim.broker import Broker, Listener
from tests.sim.collectors import TOOL, Collector
from tools import collect_link
from tools.collect_link import CollectorLink
from tools.collect_parquet import ParquetStore
from tools.collect_store import open_store
from tools.operator_login import Login

ACK = "edge/devices/cam-1/ack"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as broker:
        yield broker


def send(device: Listener, first: int, last: int, *, topic: str = "results/door", name: str = "cam-1") -> None:
    """Messages of the chain, as a device makes them."""
    for seq in range(first, last + 1):
        message = {"schema": "edge.result/1", "device": name, "time": "", "seq": seq, "prev": seq - 1}
        device.client.publish(f"edge/devices/{name}/{topic}", json.dumps(message), 1)


def acks(device: Listener) -> list[int]:
    return [json.loads(payload)["seq"] for payload in device.payloads(ACK)]


def wait_for_ack(device: Listener, seq: int) -> None:
    device.wait_for(lambda _: seq in acks(device), what=f"acknowledgement of {seq}")


def test_it_acknowledges_what_it_has_stored_and_what_comes_again(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port) as collector:
        send(device, 1, 100)
        wait_for_ack(device, 100)
        assert collector.stored("cam-1") == set(range(1, 101))
        count = len(acks(device))
        send(device, 50, 60)
        device.wait_for(lambda _: len(acks(device)) > count, what="another acknowledgement")

        assert acks(device) == sorted(acks(device))
        assert collector.end() == 0
        assert "100 messages stored, 11 came twice, 0 were none" in collector.output


def test_a_pipeline_may_be_called_ack(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port) as collector:
        send(device, 1, 3, topic="results/ack")
        wait_for_ack(device, 3)
        assert collector.stored("cam-1") == {1, 2, 3}


def test_the_acknowledgement_lies_there_for_a_device_that_comes_later(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen()
    with Collector(tmp_path / "c", broker.port):
        send(device, 1, 3)
        later = broker.listen(ACK)
        wait_for_ack(later, 3)


def test_a_hole_is_not_acknowledged(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port) as collector:
        send(device, 1, 2)
        send(device, 4, 5)
        wait_until(lambda: 5 in collector.stored("cam-1"))
        assert max(acks(device), default=0) <= 2
        report = collector.report()["cam-1"]
        assert (report["missing"], report["complete"]) == ([[2, 3]], False)
        send(device, 3, 3)
        wait_for_ack(device, 5)
        assert collector.report()["cam-1"]["complete"]


def test_the_broker_keeps_what_comes_while_it_is_away(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port) as collector:
        send(device, 1, 2)
        wait_for_ack(device, 2)
        collector.kill()
        send(device, 3, 40)
        collector.start()
        wait_for_ack(device, 40)


def test_each_message_is_once_in_parquet_files_also_after_kill_9(broker: Broker, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.dataset")
    device, folder = broker.listen(ACK), tmp_path / "collected"
    with Collector(tmp_path / "c", broker.port, store=f"parquet:{folder}") as collector:
        send(device, 1, 100)
        wait_for_ack(device, 100)
        collector.kill()
        send(device, 50, 200)
        collector.start()
        wait_for_ack(device, 200)
        assert collector.end() == 0
        assert collector.report()["cam-1"]["messages"] == 200
    with contextlib.closing(ParquetStore(folder, roll_bytes=-1)) as store:
        store.tend()

    files = parquet.dataset(folder / "messages", partitioning="hive")
    assert sorted(files.to_table().column("seq").to_pylist()) == list(range(1, 201))


def test_a_new_store_goes_on_behind_what_was_acknowledged(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    device.client.publish(ACK, '{"schema":"edge.ack/1","seq":70}', 1, retain=True)
    with Collector(tmp_path / "c", broker.port):
        send(device, 71, 75)
        wait_for_ack(device, 75)


def collect_by_two(broker: Broker, device: Listener, folder: Path) -> tuple[Collector, Collector]:
    """Two of a group, which have ended and stored all 200 messages of the device."""
    one = Collector(folder / "c", broker.port, "--group", "hall", "--client-id", "one")
    two = Collector(folder / "d", broker.port, "--group", "hall", "--client-id", "two", store=one.store)
    with one, two:
        send(device, 1, 200)
        wait_for_ack(device, 200)
        assert (one.end(), two.end()) == (0, 0)
    return one, two


def test_several_share_the_load_and_one_store(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    one, two = collect_by_two(broker, device, tmp_path)
    assert one.report()["cam-1"]["complete"]
    assert "collect: 0 messages" not in one.output + two.output


def test_the_others_take_over_what_one_had_that_does_not_come_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_link, "SHARED_SESSION_S", 1, raising=False)
    device, login = broker.listen(), Login("127.0.0.1", broker.port, None, None, None)
    gone, left = (CollectorLink(login, "edge", print, name, ["$share/hall/edge/devices/+/results/+"]) for name in "ab")
    gone._client.socket().close()

    def takes_all() -> bool:
        left.done(left.arrived)
        left.arrived.clear()
        send(device, 1, 10)
        until_s = time.monotonic() + 0.5
        while len(left.arrived) < 10 and time.monotonic() < until_s:
            left.wait(0.05)
        return len(left.arrived) == 10

    wait_until(takes_all, 10, "all ten come to the one that is left")
    left.close()


def test_one_that_begins_to_share_does_not_get_all_any_more(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port, "--client-id", "one") as one:
        assert one.end() == 0
    one, two = collect_by_two(broker, device, tmp_path)

    assert "0 came twice" in one.output.splitlines()[-1]
    assert "0 came twice" in two.output.splitlines()[-1]


def test_two_with_one_client_id_say_so_and_do_not_race(broker: Broker, tmp_path: Path) -> None:
    with Collector(tmp_path / "c", broker.port, "--client-id", "one") as first:
        second = Collector(tmp_path / "d", broker.port, "--client-id", "one")
        with contextlib.suppress(AssertionError):  # it may not come to collect
            second.start()
        wait_until(lambda: first.output.count("connection lost") >= 3, 20, "both want the session")
        second.kill()
        lost = first.output.count("connection lost")

    assert "connection lost, trying again; has another client the id one? see --client-id" in first.output
    assert lost < 40


NOT_OF_A_DEVICE = [
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"schema":"edge.result/1","device":"cam-2","time":"","seq":1,"prev":0}',
    b'{"schema":"edge.result/1","device":"cam-1","time":"","seq":1,"prev":1}',
    b'{"schema":"edge.result/1","device":"cam-1","time":"","seq":9007199254740992,"prev":0}',
    b'{"schema":"edge.result/1","device":"cam-1","time":"\\u0000","seq":1,"prev":0}',
    b'{"schema":"edge.gap/1","device":"cam-1","time":"","seq":1,"prev":0,"count":-5,"reason":"x"}',
]


def test_one_that_comes_later_begins_while_others_acknowledge_all_the_time(broker: Broker, tmp_path: Path) -> None:
    """It looks first at what others have acknowledged, and may not wait for an end of that."""
    other, stop = broker.listen(), threading.Event()

    def acknowledge() -> None:
        for seq in itertools.count(1):
            other.client.publish(ACK, json.dumps({"schema": "edge.ack/1", "seq": seq}), 1, retain=True)
            if stop.wait(0.1):
                return

    busy = threading.Thread(target=acknowledge)
    busy.start()
    try:
        with Collector(tmp_path / "c", broker.port) as collector:
            assert "collecting" in collector.output
    finally:
        stop.set()
        busy.join(5)


def test_what_no_device_sends_is_not_stored(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    with Collector(tmp_path / "c", broker.port) as collector:
        for payload in NOT_OF_A_DEVICE:
            device.client.publish("edge/devices/cam-1/gap", payload, 1)
        send(device, 1, 2)
        wait_for_ack(device, 2)
        assert collector.end() == 0

        assert f"2 messages stored, 0 came twice, {len(NOT_OF_A_DEVICE)} were none" in collector.output


def test_a_picture_is_stored_with_what_its_properties_tell(broker: Broker, tmp_path: Path) -> None:
    device = broker.listen(ACK)
    properties = paho.Properties(paho.PacketTypes.PUBLISH)
    properties.UserProperty = [("event_id", "e1"), ("captured_at", "2026-11-27T00:00:00.000Z")]
    with Collector(tmp_path / "c", broker.port) as collector:
        device.client.publish("edge/devices/cam-1/snapshots/door", b"\xff\xd8", 1, properties=properties)
        send(device, 2, 2)
        wait_until(lambda: collector.stored("cam-1"))

        assert collector.read("SELECT event_id, jpeg FROM pictures") == [("e1", b"\xff\xd8")]


def test_a_broker_that_forbids_acknowledgements_is_said_in_one_line(tmp_path: Path) -> None:
    with Broker(
        tmp_path / "broker", acl=f"topic read edge/#\ntopic deny {ACK}\ntopic write edge/devices/+/results/#\n"
    ) as broker:
        device = broker.listen()
        with Collector(tmp_path / "c", broker.port) as collector:
            send(device, 1, 1)
            wait_until(lambda: not collector.running, 10, "it ends")

            assert collector.end() == 1
            assert "needs, for anonymous users: topic readwrite edge/devices/+/ack" in collector.output


def test_a_report_needs_no_broker(tmp_path: Path) -> None:
    with contextlib.closing(open_store(f"sqlite:{tmp_path / 'a.db'}")):
        pass
    command = [sys.executable, str(TOOL), "--store", f"sqlite:{tmp_path / 'a.db'}", "--report"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["sqlite", "parquet"])
def test_a_report_of_a_store_that_is_not_there_is_not_all_well(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, str(TOOL), "--store", f"{kind}:{tmp_path / 'typo'}", "--report"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"collect: --store {kind}:{tmp_path / 'typo'}: no such store; a collector makes it\n"
    assert list(tmp_path.iterdir()) == []
