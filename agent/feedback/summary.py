"""An answer as three numbers: what the model is surest of, how sure, and how near it was to saying something else."""

from dataclasses import dataclass

from msgspec import UNSET

from agent.values import Found

NOTHING = ""
"""Label of a frame in which nothing was found."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one frame."""

    label: str
    confidence: float
    """Of that label; of an anomaly its score, of a regression its first value."""
    margin: float
    """0: it could as well have been something else; 1: nothing else came near."""


def summarize(found: Found, min_confidence: float) -> Summary:
    """
    Args:
        found: all from a low confidence on, so that it tells what was nearly said.
        min_confidence: from which on the pipeline believes it.
    """
    if found.classes is not UNSET:
        best = [(one.label, one.confidence) for one in found.classes[:2]] + [(NOTHING, 0.0)] * 2
        return Summary(*best[0], margin=best[0][1] - best[1][1])
    if found.detections is not UNSET:
        margin = min((abs(one.confidence - min_confidence) for one in found.detections), default=1.0)
        top = found.detections[0] if found.detections else None
        return Summary(top.label, top.confidence, margin) if top else Summary(NOTHING, 0.0, margin)
    if found.segments is not UNSET:
        largest = found.segments[0] if found.segments else None
        return Summary(largest.label, largest.share, 1.0) if largest else Summary(NOTHING, 0.0, 1.0)
    if found.anomaly is not UNSET:
        score, threshold = found.anomaly.score, found.anomaly.threshold
        label = "anomaly" if found.anomaly.is_anomaly else NOTHING
        return Summary(label, score, min(1.0, abs(score - threshold) / (threshold or 1.0)))
    values = [] if found.values is UNSET else found.values
    return Summary(NOTHING, values[0] if values else 0.0, 1.0)
