"""An archive over a real broker: cuts, kills, restarts and wrong bytes cost time, and never more."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import UpdateFailed
from agent.mqtt.inbox import MAX_WAITING
from agent.wire.releases import CHUNK_BYTES
from tests.broker.puller import TOPICS, Device, PullerProcess, archive_of, cut_up, device, list_of, upload, work
from tests.broker.rig import BRANCH, numbered
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fakebroker import FakeBroker, Script
from tests.sim.proxy import FaultProxy

DATA = random.Random(1).randbytes(40 * CHUNK_BYTES + 17)
BIG = random.Random(2).randbytes(24 << 20)


@pytest.fixture
def one(broker: Broker) -> Iterator[Device]:
    """A device on the broker."""
    with device(broker.port) as running:
        yield running


def test_a_late_joiner_receives_what_an_operator_left(broker: Broker, one: Device, tmp_path: Path):
    archive = upload(broker, DATA)
    transfer = one.transfer(archive, tmp_path / "incoming")
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    assert transfer.received_bytes == len(DATA)
    assert transfer.bad_chunks == 0
    assert transfer.step(0.0, lambda: False), "it stays done"
    transfer.close()


def test_nothing_is_fetched_twice_and_nothing_is_left_subscribed(broker: Broker, one: Device, tmp_path: Path):
    archive = upload(broker, DATA)
    transfer = one.transfer(archive, tmp_path)
    assert work(transfer)
    transfer.close()
    again = one.transfer(archive, tmp_path)
    assert work(again)
    again.close()
    one.publisher.put(numbered(1, 1))
    one.publisher.wait_acked(1)  # the subscriptions were ended before it
    came = one.box.dropped
    sender = broker.listen()
    for index in range(41):
        sender.publish(TOPICS.chunk(archive.sha256, index), b"news")
    sender.publish(f"{BRANCH}/commands/ping", b"{}")  # comes after them
    assert one.inbox.take(10.0) is not None
    assert one.box.dropped == came


def test_chunks_that_are_published_later_are_awaited(broker: Broker, one: Device, tmp_path: Path):
    transfer = one.transfer(archive_of(DATA), tmp_path, retry_s=0.3)
    wait_until(lambda: one.link.connected)
    assert not transfer.step(0.2, lambda: False)
    upload(broker, DATA)
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    transfer.close()


def test_24_cuts_cost_less_than_a_tenth_more(broker: Broker, proxy: FaultProxy, tmp_path: Path):
    archive = upload(broker, BIG)
    with device(proxy.port) as far:
        transfer = far.transfer(archive, tmp_path)
        for cut in range(1, 25):
            mark = cut * len(BIG) // 25
            assert not work(transfer, lambda mark=mark: transfer.received_bytes >= mark)
            proxy.cut()
        assert work(transfer)
        transfer.close()
        assert far.link.connects == 25
    assert transfer.part_path.read_bytes() == BIG
    assert len(BIG) < proxy.bytes["down"] <= 1.1 * len(BIG)


def test_kill_9_four_times_costs_less_than_a_tenth_more(broker: Broker, proxy: FaultProxy, tmp_path: Path):
    archive = upload(broker, BIG)
    had = 0
    for kill in range(1, 5):
        had = PullerProcess(proxy.port, tmp_path, archive).kill_at(max(had + 1, kill * len(BIG) // 6))
    PullerProcess(proxy.port, tmp_path, archive).finish()
    assert (tmp_path / f"{archive.sha256}.part").read_bytes() == BIG
    assert len(BIG) < proxy.bytes["down"] <= 1.1 * len(BIG)


def test_a_restart_of_the_broker_in_between(broker: Broker, one: Device, tmp_path: Path):
    transfer = one.transfer(upload(broker, DATA), tmp_path)
    assert not work(transfer, lambda: transfer.received_bytes > len(DATA) // 2)
    broker.restart()
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    transfer.close()


def test_results_and_commands_go_on_and_a_flood_of_commands_does_no_harm(broker: Broker, one: Device, tmp_path: Path):
    archive = upload(broker, BIG[: 8 << 20])
    transfer = one.transfer(archive, tmp_path)
    one.publisher.put(numbered(1, 2000))
    sender = broker.listen()
    assert not work(transfer, lambda: transfer.received_bytes > 1 << 20)
    for number in range(3000):
        sender.client.publish(f"{BRANCH}/commands/ping", b"%d" % number, qos=0)
    assert work(transfer)
    transfer.close()
    sender.publish(f"{BRANCH}/commands/ping", b"last")
    one.publisher.wait_acked(2000)
    wait_until(lambda: one.inbox.dropped == 3001 - MAX_WAITING, 20.0)
    assert one.publisher.losses == []


# --- what is wrong on the broker --------------------------------------------------------------------------------------


def test_wrong_chunks_cost_time_and_no_more(broker: Broker, one: Device, tmp_path: Path):
    archive, chunks, sender = upload(broker, DATA), cut_up(DATA), broker.listen()
    wrong = {3: bytes(CHUNK_BYTES), 5: chunks[6], 7: chunks[7][:-1], 9: chunks[9] + b"x", 40: b""}
    for index, payload in wrong.items():
        sender.publish(TOPICS.chunk(archive.sha256, index), payload, retain=True)
    transfer = one.transfer(archive, tmp_path, retry_s=0.2)
    assert not work(transfer, lambda: transfer.bad_chunks >= 6)
    assert transfer.received_bytes == len(DATA) - 4 * CHUNK_BYTES - 17
    for index in wrong:
        sender.publish(TOPICS.chunk(archive.sha256, index), chunks[index], retain=True)
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    transfer.close()


def test_a_wrong_chunk_list_costs_time_and_no_more(broker: Broker, one: Device, tmp_path: Path):
    archive, sender = upload(broker, DATA), broker.listen()
    topic = TOPICS.chunk(archive.chunk_list_sha256, 0)
    transfer = one.transfer(archive, tmp_path, retry_s=0.1)
    for number, payload in enumerate([bytes(len(list_of(DATA))), b"short"], start=1):
        sender.publish(topic, payload, retain=True)
        assert not work(transfer, lambda number=number: transfer.bad_chunks >= number)
    sender.publish(topic, list_of(DATA), retain=True)
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    transfer.close()


def test_a_chunk_that_is_not_there_fails_the_try_and_the_next_goes_on(broker: Broker, one: Device, tmp_path: Path):
    archive, sender = upload(broker, DATA), broker.listen()
    topic = TOPICS.chunk(archive.sha256, 11)
    sender.publish(topic, b"", retain=True)
    transfer = one.transfer(archive, tmp_path, retry_s=0.1, stall_s=0.5)
    with pytest.raises(UpdateFailed, match=rf"chunk 11 does not come.* is {topic} on the broker") as caught:
        work(transfer)
    assert caught.value.reason_code == "missing_chunks"
    sender.publish(topic, cut_up(DATA)[11], retain=True)
    assert work(transfer)
    assert transfer.part_path.read_bytes() == DATA
    transfer.close()


def test_an_access_list_that_hides_blobs_is_named(tmp_path: Path):
    """mosquitto's own lists grant the subscription and deliver nothing."""
    with Broker(tmp_path / "broker", acl="topic write #\ntopic read edge/devices/#\n") as broker:
        archive = upload(broker, DATA)
        with device(broker.port) as one:
            transfer = one.transfer(archive, tmp_path, retry_s=0.1, stall_s=0.3)
            with pytest.raises(UpdateFailed, match=r"part of the chunk list 0 does not come.* may the device read it"):
                work(transfer)


def test_a_refused_subscription_fails_the_try_at_once(tmp_path: Path):
    with FakeBroker(Script(suback=0x87)) as fake, device(fake.port) as one:
        transfer = one.transfer(archive_of(DATA), tmp_path)
        with pytest.raises(UpdateFailed, match=r"refuses the subscription to edge/blobs/.*not authorized; see the"):
            work(transfer)


def test_two_transfers_share_the_link(broker: Broker, one: Device, tmp_path: Path):
    other = DATA[::-1]
    transfers = [one.transfer(upload(broker, data), tmp_path) for data in (DATA, other)]
    done = [False, False]
    while not all(done):
        done = [transfer.step(0.02, lambda: False) for transfer in transfers]
    assert [transfer.part_path.read_bytes() for transfer in transfers] == [DATA, other]
    for transfer in transfers:
        transfer.close()
