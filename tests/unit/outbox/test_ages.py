"""Clocks that start at 1970, jump and come back drop nothing; ages that can be believed are kept to."""

from pathlib import Path

import pytest

from agent.outbox.ages import Ages, Instant, read_clocks
from tests.unit.outbox.support import DAY_S, Clocks, message, open_box, read_all, texts

YEAR_S = 365 * DAY_S


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def run(ages: Ages, clocks: Clocks, seconds: float, step_s: float = 10.0) -> None:
    """Time goes by while the clocks are looked at."""
    for _ in range(round(seconds / step_s)):
        clocks.run(step_s)
        ages.look(clocks())


def earlier(clocks: Clocks, age_s: float, *, synced: bool = True) -> Instant:
    """A message of an earlier process."""
    return Instant(clocks.mono_s, clocks.unix_s - age_s, synced, own=False)


class TestAges:
    def test_own_messages_follow_the_monotonic_clock(self) -> None:
        clocks = Clocks(unix_s=0.0)
        ages, then = Ages(clocks()), clocks()
        clocks.run(100)
        clocks.unix_s = 2e9
        run(ages, clocks, 2000)

        assert 2100.0 == ages.age_s(then, clocks())

    def test_earlier_ones_are_believed_after_ten_steady_synced_minutes(self) -> None:
        clocks = Clocks()
        ages, then = Ages(clocks()), earlier(clocks, DAY_S)
        run(ages, clocks, 590)
        assert 590.0 == ages.age_s(then, clocks())
        run(ages, clocks, 10)
        assert DAY_S + 600 == ages.age_s(then, clocks())

    def test_a_message_accepted_with_an_unsynced_clock_is_as_old_as_this_process(self) -> None:
        clocks = Clocks()
        ages, then = Ages(clocks()), earlier(clocks, 50 * YEAR_S, synced=False)
        run(ages, clocks, 3600)

        assert 3600.0 == ages.age_s(then, clocks())

    def test_an_unsynced_clock_is_not_believed(self) -> None:
        clocks = Clocks(synced=False)
        ages, then = Ages(clocks()), earlier(clocks, YEAR_S)
        run(ages, clocks, 3600)

        assert 3600.0 == ages.age_s(then, clocks())

    def test_a_jump_is_not_believed_and_neither_is_the_jump_back(self) -> None:
        clocks = Clocks()
        ages, then = Ages(clocks()), earlier(clocks, DAY_S)
        run(ages, clocks, 1200)
        clocks.unix_s += 10 * YEAR_S
        run(ages, clocks, 300)
        assert 1500.0 == ages.age_s(then, clocks())
        clocks.unix_s -= 10 * YEAR_S
        run(ages, clocks, 300)
        assert 1800.0 == ages.age_s(then, clocks())
        run(ages, clocks, 600)
        assert DAY_S + 2400 == ages.age_s(then, clocks())

    def test_slewing_is_no_jump(self) -> None:
        clocks = Clocks()
        ages, then = Ages(clocks()), earlier(clocks, DAY_S)
        for _ in range(120):
            clocks.unix_s += 0.005
            run(ages, clocks, 10)

        assert DAY_S + 1200 == pytest.approx(ages.age_s(then, clocks()), abs=1)

    def test_a_message_from_the_future_is_as_old_as_this_process(self) -> None:
        clocks = Clocks()
        ages, then = Ages(clocks()), earlier(clocks, -YEAR_S)
        run(ages, clocks, 1200)

        assert 1200.0 == ages.age_s(then, clocks())

    def test_the_real_clocks_run_forward(self) -> None:
        first, second = read_clocks(), read_clocks()

        assert first.mono_s <= second.mono_s
        assert first.own


class TestOutbox:
    def test_a_week_that_passed_between_two_starts_counts_once_the_clock_is_steady(self, folder: Path) -> None:
        clocks = Clocks()
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("old"))
        box.close()
        clocks.run(7 * DAY_S)
        clocks.restart()
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("new"))
        for _ in range(60):
            assert ["old", "new"] == texts(read_all(box))
            clocks.run(10)
            box._drop_aged()

        assert ["gap 1 max_age", "new"] == texts(read_all(box))
        box.close()

    def test_a_start_at_1970_drops_nothing(self, folder: Path) -> None:
        clocks = Clocks()
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("before"))
        box.close()
        clocks.restart()
        real_s, clocks.unix_s, clocks.synced = clocks.unix_s, 5.0, False
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("in 1970"))
        box.close()
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        clocks.unix_s, clocks.synced = real_s + 60, True
        for _ in range(360):
            clocks.run(10)
            box._drop_aged()

        assert ["before", "in 1970"] == texts(read_all(box))
        assert 0 == box.stats().dropped
        box.close()

    def test_what_lies_before_an_old_message_is_old_too(self, folder: Path) -> None:
        clocks = Clocks(synced=False, unix_s=5.0)
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("in 1970"))
        box.close()
        clocks.unix_s, clocks.synced = 1.8e9, True
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        box.put(message("at a known time"))
        box.close()
        clocks.run(2 * DAY_S)
        box = open_box(folder, max_age_s=DAY_S, now=clocks)
        for _ in range(61):
            clocks.run(10)
            box._drop_aged()

        assert ["gap 2 max_age"] == texts(read_all(box))
        box.close()
