"""Delays between tries."""

import random

from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.backoff import Backoff


class HighRandom(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_bound_doubles_up_to_the_cap():
    backoff = Backoff(base_s=0.5, cap_s=3.0, rng=HighRandom())
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_reset_starts_again():
    backoff = Backoff(base_s=0.5, cap_s=3.0, rng=HighRandom())
    first = backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert first == backoff.next_s()


@given(st.integers(), st.integers(1, 2000))
def test_delays_stay_between_a_twentieth_of_the_base_and_the_cap(seed: int, tries: int):
    backoff = Backoff(base_s=0.5, cap_s=30.0, rng=random.Random(seed))
    assert all(0.5 / 20 <= backoff.next_s() <= 30.0 for _ in range(tries))


def test_devices_do_not_come_back_together():
    delays = {Backoff().next_s() for _ in range(20)}
    assert len(delays) > 15
