"""When an event starts, goes on and ends."""

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.config import Events
from agent.events.debounce import Debounce, EventChange, Sighting

FRAME_NS = 100_000_000
WALL_NS = 1_800_000_000_000_000_000
BOX = (1.0, 2.0, 3.0, 4.0)


class Camera:
    """Ten frames a second through a debouncer; ids are e1, e2, ..."""

    def __init__(self, **options: Any) -> None:
        numbers = itertools.count(1)
        self.debounce = Debounce(Events(**options), lambda: f"e{next(numbers)}")
        self.now_ns = 5 * FRAME_NS

    def sees(self, *found: str | Sighting, times: int = 1) -> list[EventChange]:
        changes = []
        for _ in range(times):
            sightings = [one if isinstance(one, Sighting) else Sighting(one, 0.5, BOX) for one in found]
            changes += self.debounce.frame(sightings, self.now_ns, WALL_NS + self.now_ns)
            self.now_ns += FRAME_NS
        return changes

    def is_silent(self, seconds: float) -> list[EventChange]:
        """No frames; ticks every quarter of a second."""
        changes = []
        for _ in range(round(seconds * 4)):
            self.now_ns += 250_000_000
            changes += self.debounce.tick(self.now_ns)
        return changes


def told(changes: list[EventChange]) -> list[tuple[str, str, str]]:
    return [(change.type, change.label, change.event_id) for change in changes]


def test_an_event_starts_with_the_nth_frame_in_a_row():
    camera = Camera(min_frames=3)
    assert camera.sees("cat", times=2) == []
    assert told(camera.sees("cat")) == [("started", "cat", "e1")]


def test_with_one_frame_enough_it_starts_at_once():
    assert told(Camera(min_frames=1).sees("cat")) == [("started", "cat", "e1")]


def test_a_gap_of_one_frame_starts_the_count_again():
    camera = Camera(min_frames=3)
    assert camera.sees("cat", times=2) + camera.sees() + camera.sees("cat", times=2) == []
    assert told(camera.sees("cat")) == [("started", "cat", "e1")]


def test_a_started_event_says_when_it_was_first_seen_and_its_best_sighting():
    camera = Camera(min_frames=3)
    camera.sees(Sighting("cat", 0.6, (0, 0, 1, 1)))
    camera.sees(Sighting("cat", 0.9, BOX))
    (change,) = camera.sees(Sighting("cat", 0.7, (0, 0, 2, 2)))
    expected = EventChange(
        type="started",
        event_id="e1",
        label="cat",
        confidence=0.9,
        xyxy=BOX,
        frames=3,
        started_at_ns=WALL_NS + 5 * FRAME_NS,
        last_seen_at_ns=WALL_NS + 7 * FRAME_NS,
    )
    assert expected == change
    assert change.ended_at_ns is None


def test_it_ends_when_the_label_was_away_for_the_cooldown_and_ended_when_last_seen():
    camera = Camera(min_frames=1, cooldown_s=1.0)
    camera.sees("cat", times=5)
    last_seen_at_ns = WALL_NS + camera.now_ns - FRAME_NS
    assert camera.sees(times=9) == []
    (change,) = camera.sees()
    assert told([change]) == [("ended", "cat", "e1")]
    assert (change.ended_at_ns, change.frames) == (last_seen_at_ns, 5)
    assert camera.sees(times=50) == []


def test_what_comes_back_earlier_goes_on_with_the_same_event():
    camera = Camera(min_frames=3, cooldown_s=1.0)
    camera.sees("cat", times=3)
    assert camera.sees(times=9) + camera.sees("cat") + camera.sees(times=9) == []
    (change,) = camera.sees()
    assert told([change]) == [("ended", "cat", "e1")]
    assert change.frames == 4


def test_after_the_end_the_next_one_is_another_event():
    camera = Camera(min_frames=2, cooldown_s=0.5)
    changes = camera.sees("cat", times=2) + camera.sees(times=5) + camera.sees("cat", times=2)
    assert told(changes) == [("started", "cat", "e1"), ("ended", "cat", "e1"), ("started", "cat", "e2")]
    assert changes[-1].frames == 2


def test_without_cooldown_the_first_frame_without_it_ends_it():
    camera = Camera(min_frames=1, cooldown_s=0)
    camera.sees("cat", times=3)
    assert told(camera.sees()) == [("ended", "cat", "e1")]


def test_labels_have_events_of_their_own():
    camera = Camera(min_frames=1, cooldown_s=0)
    assert told(camera.sees("cat", "dog")) == [("started", "cat", "e1"), ("started", "dog", "e2")]
    assert told(camera.sees("dog", "owl")) == [("started", "owl", "e3"), ("ended", "cat", "e1")]


def test_updates_come_every_update_s_while_it_is_seen():
    camera = Camera(min_frames=1, update_s=1.0, cooldown_s=10)
    assert told(camera.sees("cat", times=10)) == [("started", "cat", "e1")]
    assert told(camera.sees("cat", times=20)) == [("updated", "cat", "e1")] * 2
    assert camera.sees(times=20) == []
    (change,) = camera.sees(Sighting("cat", 0.9, None))
    assert (change.type, change.frames, change.confidence, change.xyxy) == ("updated", 31, 0.9, None)


def test_update_s_zero_means_no_updates():
    camera = Camera(min_frames=1, update_s=0)
    assert told(camera.sees("cat", times=500)) == [("started", "cat", "e1")]


def test_events_end_by_tick_when_the_source_is_gone():
    camera = Camera(min_frames=1, cooldown_s=5)
    camera.sees("cat", times=5)
    assert camera.is_silent(4.5) == []
    assert told(camera.is_silent(1)) == [("ended", "cat", "e1")]
    assert camera.is_silent(60) == []


def test_a_hiccup_of_the_source_ends_nothing_even_without_cooldown():
    camera = Camera(min_frames=1, cooldown_s=0)
    camera.sees("cat", times=5)
    assert camera.is_silent(1.5) + camera.sees("cat") == []
    assert told(camera.is_silent(3)) == [("ended", "cat", "e1")]


def test_a_source_slower_than_the_cooldown_keeps_its_event():
    """A frame every ten seconds, cooldown five: nobody has seen the label away."""
    camera = Camera(min_frames=2, cooldown_s=5, update_s=0)
    changes = []
    for _ in range(10):
        changes += camera.sees("cat") + camera.is_silent(10)
    assert told(changes) == [("started", "cat", "e1")]
    assert told(camera.sees()) == [("ended", "cat", "e1")]


def test_frames_before_and_after_an_outage_are_not_in_a_row():
    camera = Camera(min_frames=3)
    camera.sees("cat", times=2)
    camera.is_silent(10)
    assert camera.sees("cat", times=2) == []
    assert told(camera.sees("cat")) == [("started", "cat", "e1")]


def test_an_outage_counts_without_ticks_too():
    """So that a recording gives the same events as the camera did."""
    camera = Camera(min_frames=1, cooldown_s=5)
    camera.sees("cat", times=5)
    camera.now_ns += 60_000_000_000
    assert told(camera.sees("cat")) == [("ended", "cat", "e1"), ("started", "cat", "e2")]


def test_one_outage_is_not_taken_for_the_pace_of_the_source():
    camera = Camera(min_frames=1, cooldown_s=5)
    camera.sees(times=5)
    camera.now_ns += 600_000_000_000
    camera.sees("cat")
    assert told(camera.is_silent(6)) == [("ended", "cat", "e1")]


def test_end_all_ends_what_has_started_and_forgets_the_rest():
    camera = Camera(min_frames=2)
    camera.sees("cat", times=2)
    camera.sees("cat", "dog")
    assert told(camera.debounce.end_all()) == [("ended", "cat", "e1")]
    assert camera.debounce.end_all() == []
    assert camera.sees("dog") == []


def test_tick_before_the_first_frame_is_nothing():
    assert Camera().is_silent(100) == []


@pytest.mark.parametrize("min_frames", [1, 2, 3])
def test_an_empty_stream_tells_nothing(min_frames: int):
    assert Camera(min_frames=min_frames).sees(times=30) == []


LABELS = ["cat", "dog", "owl"]


class AnyStream(RuleBasedStateMachine):
    """Whatever a camera sees, what is told of each label makes sense."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = Camera(min_frames=2, cooldown_s=0.4, update_s=0.3)
        self.open: dict[str, EventChange] = {}
        self.ids: set[str] = set()
        self.streak = dict.fromkeys(LABELS, 0)

    def hear(self, changes: list[EventChange]) -> None:
        for change in changes:
            before = self.open.get(change.label)
            if change.type == "started":
                assert before is None
                assert change.event_id not in self.ids
                assert change.frames == 2
                self.ids.add(change.event_id)
                self.open[change.label] = change
            else:
                assert before is not None
                assert before.event_id == change.event_id
                assert before.started_at_ns == change.started_at_ns
                assert before.confidence <= change.confidence
                assert before.frames <= change.frames
                self.open[change.label] = change
            assert change.started_at_ns <= change.last_seen_at_ns
            if change.type == "ended":
                assert change.ended_at_ns == change.last_seen_at_ns
                del self.open[change.label]

    @rule(
        labels=st.sets(st.sampled_from(LABELS)), confidence=st.floats(0, 1), pause_s=st.sampled_from([0, 0.1, 0.5, 9])
    )
    def frame(self, labels: set[str], confidence: float, pause_s: float) -> None:
        self.camera.now_ns += round(pause_s * 1e9)
        was_open = dict(self.open)
        changes = self.camera.sees(*(Sighting(label, confidence, None) for label in sorted(labels)))
        self.hear(changes)
        for change in changes:
            if change.type == "started":
                assert change.label in labels
            if change.type == "ended":
                assert change.label in was_open
        if pause_s > 1:  # may have been a silence
            self.streak = dict.fromkeys(LABELS, 0)
        for label in LABELS:
            self.streak[label] = self.streak[label] + 1 if label in labels else 0
            if self.streak[label] >= 2:
                assert label in self.open

    @rule(seconds=st.floats(0, 20))
    def silence(self, seconds: float) -> None:
        self.hear(self.camera.is_silent(seconds))
        self.streak = dict.fromkeys(LABELS, 0)

    @rule()
    def the_source_goes_away(self) -> None:
        self.hear(self.camera.sees(times=2))  # at its usual pace until then
        self.hear(self.camera.is_silent(5))
        self.streak = dict.fromkeys(LABELS, 0)
        assert self.open == {}

    @rule()
    def end(self) -> None:
        self.hear(self.camera.debounce.end_all())
        assert self.open == {}
        self.streak = dict.fromkeys(LABELS, 0)

    @invariant()
    def never_two_open_events_of_one_label(self) -> None:
        assert len({change.event_id for change in self.open.values()}) == len(self.open)


TestAnyStream = AnyStream.TestCase
TestAnyStream.settings = settings(max_examples=60, stateful_step_count=40)
