"""What was found and decided, as messages for their topics."""

from msgspec import UNSET

from agent.events.rules import EventChange
from agent.inference.protocol import Answer, BundleInfo
from agent.runtime.clock import rfc3339
from agent.values import Frame, OutboundMessage, Timing
from agent.wire.host import Position
from agent.wire.messages import Event, FrameInfo, ModelInfo, Result, Stamp, encode
from agent.wire.topics import Topics


def result_message(
    topics: Topics,
    stamp: Stamp,
    pipeline: str,
    frame: Frame,
    model: BundleInfo,
    answer: Answer,
    timing: Timing,
    position: Position | None,
) -> OutboundMessage:
    """What the model said of one frame, and where the device is."""
    found = answer.found
    result = Result(
        **stamp(),
        pipeline=pipeline,
        captured_at=rfc3339(frame.captured_at_ns),
        frame=_frame_info(frame),
        model=ModelInfo(model.name, model.version, model.sha256),
        timing_ms=timing,
        detections=found.detections,
        classes=found.classes,
        values=found.values,
        segments=found.segments,
        anomaly=found.anomaly,
        position=position or UNSET,
    )
    return OutboundMessage(topics.results(pipeline), encode(result))


def _frame_info(frame: Frame) -> FrameInfo:
    if frame.channels:
        return FrameInfo(frame.index, samples=len(frame.data))
    return FrameInfo(frame.index, frame.data.shape[1], frame.data.shape[0])


def event_message(
    topics: Topics, stamp: Stamp, pipeline: str, change: EventChange, position: Position | None
) -> OutboundMessage:
    """What the rules decided to tell, and where the device is."""
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
        drift=change.drift or UNSET,
        position=position or UNSET,
    )
    return OutboundMessage(topics.events(pipeline), encode(event))
