"""The one-place slot: newest wins, drops are counted, nothing vanishes."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.latest import LatestSlot

WAIT_S = 10.0


def test_take_gives_what_was_put_once():
    slot: LatestSlot[str] = LatestSlot()
    slot.put("a")
    assert slot.take(0) == "a"
    assert slot.take(0) is None


def test_the_newest_wins_and_the_replaced_are_counted():
    slot: LatestSlot[int] = LatestSlot()
    for number in range(5):
        slot.put(number)
    assert slot.take(0) == 4
    assert slot.dropped == 4


def test_falsy_items_are_items():
    slot: LatestSlot[int] = LatestSlot()
    slot.put(0)
    slot.put(0)
    assert (slot.take(0), slot.dropped) == (0, 1)


def test_take_waits_for_an_item():
    slot: LatestSlot[str] = LatestSlot()
    taken: list[str | None] = []
    taker = threading.Thread(target=lambda: taken.append(slot.take(WAIT_S)))
    taker.start()
    slot.put("a")
    taker.join(WAIT_S)
    assert taken == ["a"]


def test_put_wait_keeps_what_is_there():
    slot: LatestSlot[str] = LatestSlot()
    assert slot.put_wait("a", 0)
    assert not slot.put_wait("b", 0.01)
    assert slot.take(0) == "a"
    assert slot.dropped == 0


def test_put_wait_goes_on_when_the_place_is_free():
    slot: LatestSlot[str] = LatestSlot()
    slot.put("a")
    done: list[bool] = []
    putter = threading.Thread(target=lambda: done.append(slot.put_wait("b", WAIT_S)))
    putter.start()
    assert slot.take(WAIT_S) == "a"
    assert slot.take(WAIT_S) == "b"
    putter.join(WAIT_S)
    assert done == [True]


@given(st.lists(st.booleans(), max_size=50))
def test_every_item_is_either_taken_or_counted_as_dropped(moves: list[bool]):
    slot: LatestSlot[int] = LatestSlot()
    taken: list[int] = []
    put = 0
    for is_put in moves:
        if is_put:
            slot.put(put)
            put += 1
        elif (item := slot.take(0)) is not None:
            taken.append(item)
    rest = slot.take(0)
    assert put == len(taken) + slot.dropped + (rest is not None)
    assert taken == sorted(taken)


def test_put_wait_loses_nothing_between_two_threads():
    slot: LatestSlot[int] = LatestSlot()

    def put_all() -> None:
        for number in range(500):
            assert slot.put_wait(number, WAIT_S)

    putter = threading.Thread(target=put_all)
    putter.start()
    assert [slot.take(WAIT_S) for _ in range(500)] == list(range(500))
    putter.join(WAIT_S)
    assert slot.dropped == 0
