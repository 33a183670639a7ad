"""Which results are published, and what counts as seen."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Events, Results
from agent.events.debounce import Sighting
from agent.events.rules import RateLimit, Rules, sightings
from agent.values import Classification, Detection, Found, Segment

FRAME_NS = 100_000_000
BOX = (1.0, 2.0, 3.0, 4.0)
OTHER_BOX = (5.0, 6.0, 7.0, 8.0)


def detections(*labels: str) -> Found:
    return Found(detections=[Detection(label, 0, 0.5, BOX) for label in labels])


def published(found: list[Found], **options: Any) -> list[bool]:
    """Which of these frames, at ten a second, are published."""
    rules = Rules(Events(), Results(**options))
    return [rules.decide(one, index * FRAME_NS, index * FRAME_NS).publish_result for index, one in enumerate(found)]


def test_a_label_counts_once_with_its_best_detection():
    found = Found(
        detections=[Detection("cat", 1, 0.9, BOX), Detection("dog", 2, 0.8, BOX), Detection("cat", 1, 0.95, OTHER_BOX)]
    )
    assert sightings(found) == [Sighting("cat", 0.95, OTHER_BOX), Sighting("dog", 0.8, BOX)]


def test_of_classes_only_the_first_counts():
    found = Found(classes=[Classification("cat", 1, 0.6), Classification("dog", 2, 0.3)])
    assert sightings(found) == [Sighting("cat", 0.6, None)]


def test_a_segments_confidence_is_its_share():
    found = Found(segments=[Segment("road", 1, 0.4, BOX), Segment("sky", 2, 0.2, OTHER_BOX)])
    assert sightings(found) == [Sighting("road", 0.4, BOX), Sighting("sky", 0.2, OTHER_BOX)]


@pytest.mark.parametrize("found", [Found(values=[1.0]), Found(detections=[]), Found(classes=[]), Found(segments=[])])
def test_where_nothing_has_a_label_nothing_is_seen(found: Found):
    assert sightings(found) == []


def test_events_come_out_of_decide():
    rules = Rules(Events(min_frames=2, cooldown_s=0), Results(), lambda: "e1")
    changes = [
        change.type
        for index, found in enumerate([detections("cat"), detections("cat", "cat"), detections()])
        for change in rules.decide(found, index * FRAME_NS, index * FRAME_NS).events
    ]
    assert changes == ["started", "ended"]


def test_tick_and_end_all_end_events():
    rules = Rules(Events(min_frames=1), Results())
    rules.decide(detections("cat"), 0, 0)
    rules.decide(detections("cat"), FRAME_NS, FRAME_NS)
    assert [change.type for change in rules.tick(10_000_000_000)] == ["ended"]
    rules.decide(detections("cat"), 100 * FRAME_NS, 0)
    assert [change.type for change in rules.end_all()] == ["ended"]


def test_event_ids_are_random():
    def first_id() -> str:
        rules = Rules(Events(min_frames=1), Results())
        return rules.decide(detections("cat"), 0, 0).events[0].event_id

    assert first_id() != first_id()
    assert len(first_id()) == 16


def test_none_publishes_no_result():
    assert published([detections("cat")] * 3, publish="none") == [False] * 3


def test_all_publishes_every_result_without_a_limit():
    assert published([detections()] * 5, max_per_s=None) == [True] * 5


def test_all_thins_out_to_the_limit():
    assert sum(published([detections()] * 101, max_per_s=2)) == 21


def test_changes_publishes_the_first_and_every_other_set_or_number_of_labels():
    found = [("cat",), ("cat",), ("cat", "cat"), ("cat", "cat"), ("dog", "cat"), ("cat", "dog"), (), (), ("cat",)]
    expected = [True, False, True, False, True, False, True, False, True]
    assert expected == published([detections(*labels) for labels in found], publish="changes", max_per_s=None)


def test_changes_of_classes_look_at_all_of_them():
    found = [Found(classes=[Classification(label, 0, 0.5) for label in labels]) for labels in ("a", "ab", "ba", "b")]
    assert published(found, publish="changes") == [True, True, False, True]


def test_changes_of_values_are_other_values():
    found = [Found(values=[1.0]), Found(values=[1.0]), Found(values=[1.5])]
    assert published(found, publish="changes") == [True, False, True]


def test_changes_of_segments_do_not_look_at_shares():
    found = [Found(segments=[Segment("sky", 0, share, BOX)]) for share in (0.1, 0.2)]
    assert published(found, publish="changes") == [True, False]


def test_a_change_that_the_limit_holds_back_is_published_by_a_later_frame():
    frames = [detections("cat")] + [detections("dog")] * 12
    expected = [index in (0, 5) for index in range(13)]
    assert expected == published(frames, publish="changes", max_per_s=1)


def test_a_change_that_is_undone_before_the_limit_lets_it_through_is_not_published():
    frames = [detections("cat"), detections("dog"), *[detections("cat")] * 12]
    assert sum(published(frames, publish="changes", max_per_s=1)) == 1


def test_frames_that_do_not_change_do_not_use_up_the_limit():
    frames = [detections("cat")] * 30 + [detections("dog")]
    assert published(frames, publish="changes", max_per_s=0.5)[-1]


@pytest.mark.parametrize("fps", [1, 7, 10, 15, 29.97, 30])
def test_a_source_at_just_the_limit_passes_whole(fps: float):
    limit = RateLimit(fps)
    assert all(limit.take(round(index * 1e9 / fps)) for index in range(3000))


@given(st.lists(st.floats(-0.24, 0.24), min_size=1, max_size=300))
def test_jitter_of_a_quarter_of_a_period_is_borne(jitter: list[float]):
    limit = RateLimit(10.0)
    assert all(limit.take(round((index + shift) * FRAME_NS)) for index, shift in enumerate(jitter, start=1))


@given(
    rate=st.floats(0.1, 100),
    pauses_s=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_the_limit_over_any_span(rate: float, pauses_s: list[float]):
    limit = RateLimit(rate)
    times_ns = [round(total * 1e9) for total in itertools.accumulate(pauses_s)]
    passed = [now_ns for now_ns in times_ns if limit.take(now_ns)]
    for first, start_ns in enumerate(passed):
        for count, end_ns in enumerate(passed[first:], start=1):
            assert count <= (end_ns - start_ns) / 1e9 * rate + 1.5 + 1e-3


def test_a_faster_source_is_thinned_out_to_just_the_limit_in_the_long_run():
    limit = RateLimit(10.0)
    passed = sum(limit.take(round(index * 1e9 / 29.97)) for index in range(29_970))
    assert 9_999 <= passed <= 10_001


def test_a_pause_does_not_save_up_for_a_burst():
    limit = RateLimit(1.0)
    limit.take(0)
    assert [limit.take(3600_000_000_000 + index) for index in range(3)] == [True, False, False]


@pytest.mark.parametrize("rate", [1e-300, 1e300, float("inf")])
def test_extreme_limits_are_no_error(rate: float):
    limit = RateLimit(rate)
    assert limit.take(0)
    assert limit.take(1) == (rate > 1)
