"""What a bound evicts is counted and announced in its place, so that the chain stays whole."""

from pathlib import Path
from typing import Any

import pytest

from agent.outbox import ackfile, segment
from agent.outbox.record import StoredMessage
from agent.outbox.store import Outbox
from tests.unit.outbox.support import (
    DAY_S,
    Clocks,
    assert_chain,
    fields,
    is_gap,
    message,
    open_box,
    read_all,
    snapshot,
    texts,
    told,
)

MAX_BYTES = 10_000


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 2000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def open_small(folder: Path, **options: Any) -> Outbox:
    return open_box(folder, max_bytes=MAX_BYTES, **options)


def fill(box: Outbox, count: int, start: int = 0) -> list[int]:
    return [box.put(message(str(number), size=100)) for number in range(start, start + count)]


def gaps(messages: list[StoredMessage]) -> list[tuple[int, int, int]]:
    """(from, to, count) of each."""
    found = [fields(m) for m in messages if is_gap(m)]
    return [(gap["from"], gap["to"], gap["count"]) for gap in found]


def test_the_oldest_go_and_a_gap_stands_in_their_place(folder: Path) -> None:
    box = open_small(folder)
    ids = fill(box, 200)
    found = read_all(box)

    kept = len(found) - 1
    assert [f"gap {200 - kept} max_bytes", *(str(n) for n in range(200 - kept, 200))] == texts(found)
    assert [(1, ids[200 - kept - 1], 200 - kept)] == gaps(found)
    assert_chain(found)
    assert (kept, 200 - kept) == (box.stats().pending, box.stats().dropped)
    assert MAX_BYTES - 2000 <= box.stats().bytes <= MAX_BYTES
    assert sum(path.stat().st_size for path in folder.glob("*.seg")) <= MAX_BYTES
    box.close()


def test_only_what_was_not_acknowledged_is_in_the_gap(folder: Path) -> None:
    box = open_small(folder)
    ids = fill(box, 10)
    box.ack(box.next(0, 3, 1 << 20)[-1].id)
    fill(box, 190, start=10)
    found = read_all(box)

    assert ids[2] + 1 == gaps(found)[0][0]
    assert 200 == 3 + gaps(found)[0][2] + len(found) - 1
    assert_chain(found, ids[2])
    box.close()


def test_a_gap_waits_through_restarts_and_grows_until_it_is_sent(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 100)
    box.close()
    box = open_small(folder)
    fill(box, 100, start=100)
    fill(box, 100, start=200)
    found = read_all(box)

    assert 2 == len(gaps(found)), "the one from before the restart may have been sent: it stays as it is"
    assert 300 == sum(count for *_, count in gaps(found)) + len(found) - 2
    assert_chain(found)
    box.ack(found[0].id)
    assert found[1:] == read_all(box)
    box.close()


def test_a_gap_that_was_handed_out_stays_as_it_is(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 100)
    first = box.next(0, 1, 1 << 20)
    fill(box, 100, start=100)
    fill(box, 100, start=200)
    found = read_all(box)

    assert first == found[:1]
    assert [True, True, False] == [is_gap(m) for m in found[:3]]
    assert_chain(found)
    box.close()


def test_an_announced_gap_does_not_come_again(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 100)
    found = read_all(box)
    box.ack(found[0].id)

    assert found[1:] == read_all(box)
    box.close()
    box = open_small(folder)
    assert found[1:] == read_all(box)
    box.close()


def test_more_gaps_than_are_kept_apart_still_tell_all(folder: Path) -> None:
    box = open_small(folder)
    total = ackfile.MAX_HOLES + 3
    for number in range(total):
        fill(box, 100, start=100 * number)
        box.next(box.acked, 100, 1 << 20)
    found = read_all(box)

    assert ackfile.MAX_HOLES == len(gaps(found))
    assert 100 * total == sum(count for *_, count in gaps(found)) + len(found) - ackfile.MAX_HOLES
    assert_chain(found)
    box.close()
    box = open_small(folder)
    assert [told(m) for m in found] == [told(m) for m in read_all(box)]
    box.close()


def test_a_reader_ahead_of_the_eviction_needs_no_gap_when_its_messages_are_acknowledged(folder: Path) -> None:
    box = open_small(folder)
    ids = fill(box, 40)
    assert 40 == len(read_all(box))
    fill(box, 20, start=40)
    assert box.stats().dropped > 0

    rest = read_all(box, ids[39])
    assert [str(number) for number in range(40, 60)] == texts(rest)
    box.ack(ids[39])
    assert rest == read_all(box)
    assert_chain(rest, ids[39])
    box.close()


def test_a_connection_lost_in_between_learns_of_the_gap(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 40)
    sent = box.next(0, 5, 1 << 20)
    fill(box, 60, start=40)
    box.ack(sent[1].id)
    found = read_all(box)

    assert is_gap(found[0])
    assert 1 == fields(found[0])["from"], "some of it was delivered: the gap says what is not on the device any more"
    assert_chain(found)
    box.close()


def test_a_later_eviction_begins_a_gap_of_its_own(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 100)
    ids = [m.id for m in read_all(box)]
    box.ack(ids[-1])
    fill(box, 100, start=100)
    found = read_all(box)

    assert [ids[-1] + 1] == [start for start, *_ in gaps(found)]
    assert 100 == gaps(found)[0][2] + len(found) - 1
    assert_chain(found, ids[-1])
    box.close()


def test_snapshots_go_without_a_gap_but_are_counted(folder: Path) -> None:
    box = open_small(folder)
    for _ in range(20):
        box.put(snapshot(b"x" * 1000))
    id_ = box.put(message("a"))

    assert 0 == len(gaps(read_all(box)))
    assert {"seq": id_, "prev": 0}.items() <= fields(read_all(box)[-1]).items()
    assert 21 == box.stats().dropped + box.stats().pending
    box.close()


def test_a_gap_that_can_not_be_saved_is_still_announced_as_damage(folder: Path) -> None:
    box = open_small(folder)
    fill(box, 100)
    box.close()
    (folder / "ack").write_bytes(bytes(1024))
    box = open_small(folder)
    fill(box, 1, start=100)
    found = read_all(box)

    first = fields(found[0])
    assert first["prev"] > 0, "the beginning of what is left is taken for the beginning"
    assert_chain(found, first["prev"])
    box.close()


def test_what_is_older_than_max_age_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when there is so little of it that it all fits in one file."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 256 * 1024)
    clocks = Clocks()
    box = open_small(folder, max_age_s=DAY_S, now=clocks)
    for number in range(48):
        fill(box, 1, start=number)
        clocks.run(3600)
        box._drop_aged()
    found = read_all(box)

    assert "max_age" == fields(found[0])["reason"]
    kept = len(found) - 1
    assert 24 <= kept <= 26, "a day, and at most a sixteenth more, and at most a segment is late"
    assert_chain(found)
    box.close()


def test_everything_can_be_too_old(folder: Path) -> None:
    clocks = Clocks()
    box = open_small(folder, max_age_s=DAY_S, now=clocks)
    ids = fill(box, 30)
    clocks.run(DAY_S + 1)
    box._drop_aged()

    assert ["gap 30 max_age"] == texts(read_all(box))
    assert (0, 0, 30) == box.stats()[:3]
    assert ids[-1] == fields(read_all(box)[0])["seq"]
    box.close()
    box = open_small(folder, max_age_s=DAY_S, now=clocks)
    box.put(message("a"))
    assert ["gap 30 max_age", "a"] == texts(read_all(box))
    assert_chain(read_all(box))
    box.close()
