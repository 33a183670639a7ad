"""Looks over the inference thread's shoulder: is this frame hard, and do frames drift? Decides only; nothing is stored.

For one pipeline and its inference thread, except `disagreed`, which comes from the update path.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from agent.config import Pipeline
from agent.events.rules import EventChange, RateLimit
from agent.feedback.drift import DriftChange, DriftMonitor
from agent.feedback.summary import Summary, summarize
from agent.inference.protocol import Answer, BundleInfo
from agent.manifest import Reference
from agent.values import Frame
from agent.wire.messages import DriftFigures
from agent.wire.samples import Reason

DRIFT = "drift"
"""Label of the events that tell of it."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SampleJob:
    """A frame to keep."""

    id: str
    pipeline: str
    frame: Frame
    model: BundleInfo
    summary: Summary
    reasons: tuple[Reason, ...]


class Watch:
    """Of one pipeline."""

    def __init__(self, spec: Pipeline, keep: Callable[[SampleJob], object]) -> None:
        """Args: `keep` takes what should be kept; it must not wait."""
        self._spec, self._keep = spec, keep
        self._keeps = spec.feedback.keep == "hard"
        self._limit = RateLimit(spec.feedback.max_per_min / 60)
        self._disagreements = RateLimit(spec.feedback.max_per_min / 60)  # of another thread
        self._due_ns = 0
        self._version: BundleInfo | None = None
        self._monitor: DriftMonitor | None = None
        self._has_reference = True  # until a worker says otherwise
        self._event: tuple[str, int] | None = None

    @property
    def drift(self) -> DriftFigures | None:
        """The newest figures; may be asked from any thread."""
        monitor = self._monitor
        return monitor.figures if monitor else None

    def wants_evidence(self, captured_ns: int) -> bool:
        """Whether the model should say of this frame how sure it is."""
        return self._keeps or (self._has_reference and self._is_due(captured_ns))

    def see(
        self,
        frame: Frame,
        answer: Answer,
        model: BundleInfo,
        reference: Reference | None,
        changes: Sequence[EventChange],
        min_confidence: float,
    ) -> list[EventChange]:
        """Take a frame in; gives the events that drift makes.

        Args:
            answer: with evidence, or nothing is done.
            reference: of the model's manifest.
            changes: events of this frame.
            min_confidence: of the pipeline, now.
        """
        ended = self._follow(model, reference, frame)
        if answer.evidence is None:
            return ended
        summary = summarize(answer.evidence.found, min_confidence)
        change = None
        if self._monitor and self._is_due(frame.captured_ns):
            self._due_ns = frame.captured_ns + round(self._spec.drift.every_s * 1e9)
            change = self._monitor.see(summary, answer.evidence.embedding)
        if self._keeps:
            started = next((one.event_id for one in changes if one.type == "started"), None)
            self._keep_if_hard(frame, model, summary, started)
        return ended + (self._tell(change, frame) if change else [])

    def disagreed(self, frame: Frame, answer: Answer, model: BundleInfo | None, min_confidence: float) -> None:
        """A model on trial says something else than this answer. From any thread."""
        if self._keeps and answer.evidence and model and self._disagreements.take(time.monotonic_ns()):
            summary = summarize(answer.evidence.found, min_confidence)
            self._keep(SampleJob(secrets.token_hex(8), self._spec.name, frame, model, summary, ("disagreement",)))

    def _is_due(self, captured_ns: int) -> bool:
        return captured_ns >= self._due_ns

    def _follow(self, model: BundleInfo, reference: Reference | None, frame: Frame) -> list[EventChange]:
        """Another version has another reference; its drift begins anew."""
        if model == self._version:  # also where a lost worker was replaced
            return []
        self._version, settings = model, self._spec.drift
        self._has_reference = reference is not None and settings.window_frames > 0
        monitor, self._monitor = self._monitor, None
        if reference is not None and self._has_reference:
            self._monitor = DriftMonitor(reference, settings)
        over = DriftChange(False, monitor.figures) if monitor and monitor.drifts and monitor.figures else None
        return self._tell(over, frame) if over else []

    def _keep_if_hard(self, frame: Frame, model: BundleInfo, summary: Summary, event_id: str | None) -> None:
        reasons: list[Reason] = []
        if event_id:
            reasons.append("event")
        if summary.margin < self._spec.feedback.margin:
            reasons.append("unsure")
        if self._monitor and self._monitor.drifts:
            reasons.append("drift")
        if reasons and self._limit.take(time.monotonic_ns()):
            sample_id = event_id or secrets.token_hex(8)
            self._keep(SampleJob(sample_id, self._spec.name, frame, model, summary, tuple(reasons)))

    def _tell(self, change: DriftChange, frame: Frame) -> list[EventChange]:
        """As an event: its confidence is 0.5 at the limit, and goes towards 1 above it."""
        figures = change.figures
        worst = max(figures.psi.values(), default=0.0)
        if change.drifts:
            self._event = (secrets.token_hex(8), frame.captured_at_ns)
            _log.warning("drift.started", pipeline=self._spec.name, psi=figures.psi, max_psi=figures.max_psi)
        else:
            _log.info("drift.ended", pipeline=self._spec.name, psi=figures.psi)
        event_id, began_at_ns = self._event or (secrets.token_hex(8), frame.captured_at_ns)
        return [
            EventChange(
                type="started" if change.drifts else "ended",
                event_id=event_id,
                label=DRIFT,
                confidence=round(worst / (worst + figures.max_psi), 4),
                xyxy=None,
                frames=figures.frames,
                started_at_ns=began_at_ns,
                last_seen_at_ns=frame.captured_at_ns,
                drift=figures,
            )
        ]
