"""From "seen in this frame" to "came, is still there, went": one event for a label at a time.

Time is passed in: no clock is read here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from agent.config import Events
from agent.values import Xyxy
from agent.wire.messages import DriftFigures

_SILENCE_NS = 2_000_000_000
"""With no frame for so long, and for three times the usual pause between frames, nothing is known any more. The usual
pause is the shorter of the last two, so that an outage is not taken for a habit."""
_FIRST_PAUSE_NS = 10_000_000_000
"""The usual pause, before two frames have told it: slow sources must not lose their first event to `tick`."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A label in one frame, where and how sure the model is of it most."""

    label: str
    confidence: float
    xyxy: Xyxy | None
    """None for a class of the whole frame."""


@dataclass(frozen=True, slots=True)
class EventChange:
    """What there is to tell about an event."""

    type: Literal["started", "updated", "ended"]
    event_id: str
    label: str
    confidence: float
    """The highest so far."""
    xyxy: Xyxy | None
    """Where it was seen with that confidence."""
    frames: int
    """Frames in which it was seen so far, also those before the event started."""
    started_at_ns: int
    """Unix time of the first of the frames that led to the event."""
    last_seen_at_ns: int
    """Unix time of the last frame in which it was seen."""
    drift: DriftFigures | None = None
    """Of an event that tells of drift."""

    @property
    def ended_at_ns(self) -> int | None:
        """An event ends when its label was last seen."""
        return self.last_seen_at_ns if self.type == "ended" else None


@dataclass(slots=True)
class _Watch:
    """A label that is seen; an event once it has an id."""

    best: Sighting
    started_at_ns: int
    last_seen_ns: int
    last_seen_at_ns: int
    frames: int = 0
    event_id: str | None = None
    told_ns: int = 0

    def see(self, sighting: Sighting, now_ns: int, now_at_ns: int) -> None:
        if sighting.confidence > self.best.confidence:
            self.best = sighting
        self.frames += 1
        self.last_seen_ns, self.last_seen_at_ns = now_ns, now_at_ns

    def change(self, kind: Literal["started", "updated", "ended"], event_id: str) -> EventChange:
        return EventChange(
            type=kind,
            event_id=event_id,
            label=self.best.label,
            confidence=self.best.confidence,
            xyxy=self.best.xyxy,
            frames=self.frames,
            started_at_ns=self.started_at_ns,
            last_seen_at_ns=self.last_seen_at_ns,
        )


class Debounce:
    """Keeps one event a label. For one thread."""

    def __init__(self, settings: Events, new_id: Callable[[], str]) -> None:
        self._min_frames = settings.min_frames
        self._cooldown_ns = round(settings.cooldown_s * 1e9)
        self._update_ns = round(settings.update_s * 1e9)
        self._new_id = new_id
        self._watched: dict[str, _Watch] = {}
        self._last_frame_ns: int | None = None
        self._pauses_ns = (_FIRST_PAUSE_NS, _FIRST_PAUSE_NS)

    def frame(self, sightings: Iterable[Sighting], now_ns: int, now_at_ns: int) -> list[EventChange]:
        """What a frame changes; at most one sighting a label.

        Args:
            now_ns: when the frame was captured, monotonic.
            now_at_ns: the same in Unix time.
        """
        changes = self.tick(now_ns)
        if self._last_frame_ns is not None:
            self._pauses_ns = (self._pauses_ns[1], now_ns - self._last_frame_ns)
        self._last_frame_ns = now_ns
        seen: set[str] = set()
        for sighting in sightings:
            seen.add(sighting.label)
            changes += self._see(sighting, now_ns, now_at_ns)
        return changes + self._leave_out(now_ns, lambda label: label not in seen)

    def tick(self, now_ns: int) -> list[EventChange]:
        """End what has to end although no frame says so: the source is gone."""
        if self._last_frame_ns is None:
            return []
        if now_ns - self._last_frame_ns < max(_SILENCE_NS, 3 * min(self._pauses_ns)):
            return []
        return self._leave_out(now_ns, lambda _label: True)

    def end_all(self) -> list[EventChange]:
        """End all events now, as at the end of the source or of the daemon."""
        watches = list(self._watched.values())
        self._watched.clear()
        self._last_frame_ns, self._pauses_ns = None, (_FIRST_PAUSE_NS, _FIRST_PAUSE_NS)
        return [watch.change("ended", watch.event_id) for watch in watches if watch.event_id]

    def _see(self, sighting: Sighting, now_ns: int, now_at_ns: int) -> list[EventChange]:
        watch = self._watched.get(sighting.label)
        if watch is None:
            watch = self._watched[sighting.label] = _Watch(sighting, now_at_ns, now_ns, now_at_ns)
        watch.see(sighting, now_ns, now_at_ns)
        if watch.event_id is None:
            if watch.frames < self._min_frames:
                return []
            watch.event_id, watch.told_ns = self._new_id(), now_ns
            return [watch.change("started", watch.event_id)]
        if self._update_ns and now_ns - watch.told_ns >= self._update_ns:
            watch.told_ns = now_ns
            return [watch.change("updated", watch.event_id)]
        return []

    def _leave_out(self, now_ns: int, away: Callable[[str], bool]) -> list[EventChange]:
        """Forget labels that are away: at once before their event has started, after the cooldown when it has."""
        changes: list[EventChange] = []
        for label, watch in list(self._watched.items()):
            if not away(label) or (watch.event_id and now_ns - watch.last_seen_ns < self._cooldown_ns):
                continue
            del self._watched[label]
            if watch.event_id:
                changes.append(watch.change("ended", watch.event_id))
        return changes
