"""Which frames are kept, and what drift makes of events."""

from typing import Any

import msgspec
import numpy as np
import pytest

from agent.config import Pipeline
from agent.events.rules import EventChange
from agent.feedback.summary import Summary, summarize
from agent.feedback.watch import SampleJob, Watch
from agent.inference.protocol import Answer, BundleInfo, Evidence
from agent.manifest import Histogram, Reference
from agent.values import Anomaly, Classification, Detection, Found, Frame, Segment

MODEL = BundleInfo("digits", "1", "0" * 64, "classify", "litert", 1, None, None)
REFERENCE = Reference(samples=1000, classes={"a": 1.0}, confidence=Histogram((0.5,), (0.0, 1.0)))
SURE = Found(classes=[Classification("a", 0, 0.9), Classification("b", 1, 0.1)])
TORN = Found(classes=[Classification("a", 0, 0.5), Classification("b", 1, 0.45)])
STARTED = EventChange("started", "e" * 16, "a", 0.9, None, 3, 0, 0)


class Eyes:
    """A watch, what it keeps, and frames one second apart."""

    def __init__(self, **feedback: Any) -> None:
        spec = {
            "name": "door",
            "model": "digits",
            "source": {"type": "synthetic"},
            "feedback": {"keep": "hard", "max_per_min": 6000, **feedback},
            "drift": {"window_frames": 10, "every_s": 0},
        }
        self.kept: list[SampleJob] = []
        self.watch = Watch(msgspec.convert(spec, Pipeline), self.kept.append)
        self.index = 0

    def see(self, found: Found, *changes: EventChange, model: BundleInfo = MODEL) -> list[EventChange]:
        self.index += 1
        frame = Frame(np.zeros((8, 8, 3), np.uint8), self.index, self.index * 10**9, self.index * 10**9)
        assert self.watch.wants_evidence(frame.captured_ns)
        answer = Answer(found, 0.1, 0.1, 0.1, Evidence(found))
        return self.watch.see(frame, answer, model, REFERENCE, changes, 0.5)


def test_what_the_model_is_unsure_of_is_kept():
    eyes = Eyes()
    eyes.see(SURE)
    eyes.see(TORN)
    assert [(job.frame.index, job.reasons) for job in eyes.kept] == [(2, ("unsure",))]


def test_the_frame_that_starts_an_event_is_kept_under_its_id():
    eyes = Eyes()
    eyes.see(SURE, STARTED)
    assert [(job.id, job.reasons) for job in eyes.kept] == [("e" * 16, ("event",))]


def test_no_more_are_kept_than_may_be():
    eyes = Eyes(max_per_min=1)
    for _ in range(20):
        eyes.see(TORN)
    assert len(eyes.kept) == 1


def test_nothing_is_kept_unless_asked():
    eyes = Eyes(keep="none")
    for _ in range(5):
        eyes.see(TORN)
    eyes.watch.disagreed(Frame(np.zeros((8, 8), np.uint8), 1, 1, 1), Answer(TORN, 0, 0, 0, Evidence(TORN)), MODEL, 0.5)
    assert eyes.kept == []


def test_frames_on_which_two_models_disagree_are_kept():
    eyes = Eyes()
    eyes.watch.disagreed(Frame(np.zeros((8, 8), np.uint8), 1, 1, 1), Answer(SURE, 0, 0, 0, Evidence(SURE)), MODEL, 0.5)
    assert [job.reasons for job in eyes.kept] == [("disagreement",)]


def test_drift_is_an_event_with_figures_and_its_frames_are_kept():
    eyes = Eyes()
    other = Found(classes=[Classification("b", 1, 0.3)])
    told = [change for _ in range(12) for change in eyes.see(other)]
    (started,) = told
    assert (started.type, started.label) == ("started", "drift")
    assert started.drift is not None
    assert started.drift.psi["classes"] > 0.25
    assert 0.5 < started.confidence < 1
    assert "drift" in eyes.kept[-1].reasons
    (ended,) = [change for _ in range(30) for change in eyes.see(SURE)]
    assert (ended.type, ended.event_id) == ("ended", started.event_id)


def test_another_model_begins_anew():
    eyes = Eyes()
    other = Found(classes=[Classification("b", 1, 0.3)])
    (started,) = [change for _ in range(12) for change in eyes.see(other)]
    newer = msgspec.structs.replace(MODEL, version="2")
    (ended,) = eyes.see(SURE, model=newer)
    assert (ended.type, ended.event_id) == ("ended", started.event_id)
    assert eyes.watch.drift is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found(classes=[]), Summary("", 0.0, 0.0)),
        (Found(classes=[Classification("a", 0, 0.75)]), Summary("a", 0.75, 0.75)),
        (Found(detections=[]), Summary("", 0.0, 1.0)),
        (
            Found(detections=[Detection("a", 0, 0.875, (0, 0, 1, 1)), Detection("b", 0, 0.375, (0, 0, 1, 1))]),
            Summary("a", 0.875, 0.125),
        ),
        (Found(segments=[Segment("a", 0, 0.25, (0, 0, 1, 1))]), Summary("a", 0.25, 1.0)),
        (Found(anomaly=Anomaly(3.0, 2.0, True)), Summary("anomaly", 3.0, 0.5)),
        (Found(anomaly=Anomaly(0.0, 0.0, False)), Summary("", 0.0, 0.0)),
        (Found(values=[4.0, 2.0]), Summary("", 4.0, 1.0)),
        (Found(values=[]), Summary("", 0.0, 1.0)),
    ],
)
def test_every_task_has_a_summary(found: Found, expected: Summary):
    assert summarize(found, 0.5) == expected


def test_disagreements_are_held_to_the_same_rate():
    eyes = Eyes(max_per_min=1)
    for _ in range(5):
        eyes.watch.disagreed(
            Frame(np.zeros((8, 8), np.uint8), 1, 1, 1), Answer(SURE, 0, 0, 0, Evidence(SURE)), MODEL, 0.5
        )
    assert len(eyes.kept) == 1


def test_a_worker_that_was_replaced_is_the_same_model():
    eyes = Eyes()
    for _ in range(12):
        eyes.see(SURE)
    assert eyes.watch.drift is not None
    eyes.see(SURE, model=msgspec.structs.replace(MODEL))
    assert eyes.watch.drift is not None, "what was seen is not forgotten"
