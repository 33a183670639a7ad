"""What of all that was found is told: which results are published, and when an event starts, goes on and ends.

Pure decisions: no I/O, and time is passed in.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import UNSET

from agent.config import Events, Results
from agent.events.debounce import Debounce, EventChange, Sighting
from agent.values import Found

__all__ = ["Decision", "EventChange", "RateLimit", "Rules", "Sighting", "sightings"]

ANOMALY = "anomaly"
"""Label of the events that an anomaly makes."""

_MAX_PERIOD_NS = 10**18


@dataclass(frozen=True, slots=True)
class Decision:
    """What to tell about one frame."""

    publish_result: bool
    events: list[EventChange]


class Rules:
    """Decides for one pipeline. For one thread."""

    def __init__(
        self, events: Events, results: Results, new_id: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        """Args: sections of the pipeline's configuration; `new_id` makes ids of events."""
        self._debounce = Debounce(events, new_id)
        self._publish = results.publish
        self._limit = RateLimit(results.max_per_s)
        self._last_gist: object = None

    def decide(self, found: Found, captured_ns: int, captured_at_ns: int) -> Decision:
        """What to tell about a frame.

        Args:
            captured_ns: when the frame was captured, monotonic.
            captured_at_ns: the same in Unix time.
        """
        changes = self._debounce.frame(sightings(found), captured_ns, captured_at_ns)
        return Decision(self._result_is_due(found, captured_ns), changes)

    def tick(self, now_ns: int) -> list[EventChange]:
        """To be called now and then while no frame arrives: ends events whose source is gone."""
        return self._debounce.tick(now_ns)

    def end_all(self) -> list[EventChange]:
        """End all events, when the pipeline ends or is turned off."""
        return self._debounce.end_all()

    def _result_is_due(self, found: Found, now_ns: int) -> bool:
        if self._publish == "none":
            return False
        if self._publish == "all":
            return self._limit.take(now_ns)
        # Only what was published counts as last time, so a change that the limit holds back is told by a later frame.
        gist = _gist(found)
        if gist == self._last_gist or not self._limit.take(now_ns):
            return False
        self._last_gist = gist
        return True


class RateLimit:
    """Lets through at most so many a second; what is over is left out.

    The virtual scheduling form of GCRA (ITU-T I.371, annex A): each one moves the due time on by one period, so there
    is no drift, and a source at just this rate passes whole. One may come half a period early, which is the jitter
    of a camera.
    """

    def __init__(self, max_per_s: float | None) -> None:
        self._period_ns = 0 if max_per_s is None else int(min(1e9 / max_per_s, _MAX_PERIOD_NS))
        self._due_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether one may pass now."""
        due_ns = now_ns if self._due_ns is None else self._due_ns
        if now_ns < due_ns - self._period_ns // 2:
            return False
        self._due_ns = max(due_ns, now_ns) + self._period_ns
        return True


def sightings(found: Found) -> list[Sighting]:
    """The labels in a frame, each once, with the highest confidence, in the order found.

    Of classes only the first counts: the others are what the frame shows less likely. A segment's confidence is the
    share of the frame that it covers. Values (regression) have no labels. An anomaly's confidence is 0.5 at the
    threshold and goes towards 1 above it.
    """
    if found.anomaly is not UNSET:
        score, threshold = found.anomaly.score, found.anomaly.threshold
        return [Sighting(ANOMALY, round(score / (score + threshold), 4), None)] if found.anomaly.is_anomaly else []
    if found.classes is not UNSET:
        return [Sighting(top.label, top.confidence, None) for top in found.classes[:1]]
    if found.detections is not UNSET:
        every = [Sighting(one.label, one.confidence, one.xyxy) for one in found.detections]
    elif found.segments is not UNSET:
        every = [Sighting(one.label, one.share, one.xyxy) for one in found.segments]
    else:
        every = []
    best: dict[str, Sighting] = {}
    for one in every:
        if one.label not in best or one.confidence > best[one.label].confidence:
            best[one.label] = one
    return list(best.values())


def _gist(found: Found) -> object:
    """What has to differ for `publish: changes`: the labels and how many of each, or the values themselves."""
    if found.values is not UNSET:
        return tuple(found.values)
    if found.anomaly is not UNSET:
        return found.anomaly.is_anomaly
    parts = next(part for part in (found.detections, found.classes, found.segments, []) if part is not UNSET)
    return Counter(part.label for part in parts)
