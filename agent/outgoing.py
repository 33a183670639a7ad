"""What was found and decided, as messages for their topics."""

from agent.events.rules import EventChange
from agent.inference.protocol import Answer, BundleInfo
from agent.runtime.clock import rfc3339
from agent.values import Frame, OutboundMessage, Timing
from agent.wire.messages import Event, FrameInfo, ModelInfo, Result, Stamp, encode
from agent.wire.topics import Topics


def result_message(
    topics: Topics, stamp: Stamp, pipeline: str, frame: Frame, model: BundleInfo, answer: Answer, timing: Timing
) -> OutboundMessage:
    """What the model said of one frame."""
    found = answer.found
    result = Result(
        **stamp(),
        pipeline=pipeline,
        captured_at=rfc3339(frame.captured_at_ns),
        frame=FrameInfo(frame.index, frame.data.shape[1], frame.data.shape[0]),
        model=ModelInfo(model.name, model.version, model.sha256),
        timing_ms=timing,
        detections=found.detections,
        classes=found.classes,
        values=found.values,
        segments=found.segments,
    )
    return OutboundMessage(topics.results(pipeline), encode(result))


def event_message(topics: Topics, stamp: Stamp, pipeline: str, change: EventChange) -> OutboundMessage:
    """What the rules decided to tell."""
    event = Event(
        **stamp(),
        pipeline=pipeline,
        type=change.type,
        event_id=change.event_id,
        label=change.label,
        confidence=change.confidence,
        started_at=rfc3339(change.started_at_ns),
        ended_at=None if change.ended_at_ns is None else rfc3339(change.ended_at_ns),
        xyxy=change.xyxy,
        frames=change.frames,
    )
    return OutboundMessage(topics.events(pipeline), encode(event))
