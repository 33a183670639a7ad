"""Models that take turns: ratios that a busy machine does not spoil, and how many threads are recommended."""

import numpy as np
import pytest

from agent.values import Image
from tests.sim.bundles import FOR_TESTS
from tools.timing import Parallel, Turns, measure_parallel, take_turns

FRAMES: list[Image] = [np.full((28, 28, 3), value, np.uint8) for value in range(5)]


def test_ratios_are_of_the_same_round() -> None:
    """The machine becomes ten times slower, then quick again; the first round does not count."""
    slow = [100.0, 1.0, 1.0, 10.0, 10.0, 1.0]
    first, second = iter(slow), (0.5 * ms for ms in slow)
    found = take_turns([lambda: next(first), lambda: next(second)], rounds=5)
    assert found == [Turns(1.0, 1.0), Turns(0.5, 0.5)]


@pytest.mark.parametrize(("two", "four", "wanted"), [(0.95, 1.2, 1), (0.6, 0.7, 2), (0.6, 0.4, 4), (1.5, 3.0, 1)])
def test_threads_are_recommended_only_where_they_pay(two: float, four: float, wanted: int) -> None:
    found = Parallel({1: Turns(2.0, 1.0), 2: Turns(2.0 * two, two), 4: Turns(2.0 * four, four)}, None, 0.1)
    assert found.threads == wanted
    assert found.repeats == pytest.approx(0.05)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_model_is_tried_with_as_many_threads_as_there_are_cores(cores: int) -> None:
    found = measure_parallel(FOR_TESTS / "digits_float" / "1", FRAMES, cores)
    assert list(found.by_threads) == [1, 2][:cores]
    assert found.by_threads[1].ratio == 1.0
    assert found.hash_ms > 0
    assert (found.two_pipelines is None) is (cores == 1)
