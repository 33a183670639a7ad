"""Records and ack slots in any condition: what is whole is found, and nothing else is made up."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox.ackfile import MAX_HOLES, AckFile, AckState
from agent.outbox.ages import Instant
from agent.outbox.chain import Hole, Point
from agent.outbox.record import encode_record, find_record
from agent.values import OutboundMessage

numbers = st.integers(0, 2**53)
points = st.builds(Point, numbers, numbers)
holes = st.builds(Hole, points, points, st.sampled_from(["max_bytes", "max_age", "disk_full", "damaged"]))
states = st.builds(AckState, numbers, numbers, points, st.lists(holes, max_size=MAX_HOLES).map(tuple))
messages = st.builds(
    OutboundMessage,
    topic=st.text(max_size=30),
    payload=st.binary(max_size=60) | st.just(b"\xf5EO1" * 20),
    in_chain=st.booleans(),
    retain=st.booleans(),
    content_type=st.text(max_size=10),
    user_properties=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3).map(tuple),
)


def records(data: bytes) -> list[tuple[int, OutboundMessage]]:
    found, at = [], 0
    while one := find_record(data, at):
        record, begin, end = one
        assert at <= begin < end
        at = end
        _, topic, payload, retain, content_type, properties, chained = record.message()
        assert chained == (record.after != record.before)
        found.append((record.id, OutboundMessage(topic, payload, chained, retain, content_type, properties)))
    return found


def written(sent: list[OutboundMessage]) -> list[bytes]:
    at = Instant(1.0, 1.8e9, synced=True)
    return [encode_record(id_, Point(5, 5), at, one, one.payload) for id_, one in enumerate(sent, start=10)]


@given(st.lists(messages, max_size=5))
def test_what_is_written_is_found(sent: list[OutboundMessage]) -> None:
    assert list(enumerate(sent, start=10)) == records(b"".join(written(sent)))


@given(st.lists(messages, min_size=1, max_size=5), st.data())
def test_any_one_bit_costs_one_record(sent: list[OutboundMessage], data: st.DataObject) -> None:
    parts = written(sent)
    hit = data.draw(st.integers(0, len(parts) - 1))
    spoilt = bytearray(parts[hit])
    bit = data.draw(st.integers(0, len(spoilt) * 8 - 1))
    spoilt[bit // 8] ^= 1 << bit % 8
    whole = b"".join([*parts[:hit], spoilt, *parts[hit + 1 :]])

    assert [pair for pair in enumerate(sent, start=10) if pair[0] != hit + 10] == records(whole)


@given(st.lists(messages, max_size=4), st.binary(max_size=50), st.integers(0, 300))
def test_a_cut_and_rubbish_cost_what_they_touch(sent: list[OutboundMessage], rubbish: bytes, cut: int) -> None:
    parts = written(sent)
    whole = b"".join(parts)
    kept, size = 0, 0
    while kept < len(parts) and size + len(parts[kept]) <= len(whole) - cut:
        size += len(parts[kept])
        kept += 1
    cut_off = whole[: max(0, len(whole) - cut)]

    assert list(enumerate(sent[:kept], start=10)) == records(cut_off)
    assert list(enumerate(sent, start=10)) == records(rubbish + whole)


@given(st.binary(max_size=400) | st.binary(max_size=100).map(lambda rest: b"\xf5EO1" + rest))
def test_rubbish_holds_nothing(data: bytes) -> None:
    assert find_record(data, 0) is None


@settings(deadline=None)
@given(st.lists(states, min_size=1, max_size=4), st.integers(0, 511), st.booleans())
def test_a_torn_ack_slot_leaves_the_one_before(saved: list[AckState], torn_at: int, torn: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ack"
        file = AckFile(path)
        for state in saved:
            before = path.read_bytes()
            assert file.save(state)
        file.close()
        now = path.read_bytes()
        newer = 512 * (len(saved) % 2)
        if torn:
            path.write_bytes(now[: newer + torn_at] + before[newer + torn_at : newer + 512] + now[newer + 512 :])
        file = AckFile(path)
        assert file.state in ((saved[-1], saved[-2] if len(saved) > 1 else None) if torn else (saved[-1],))
        file.close()
