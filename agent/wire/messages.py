"""The JSON messages as structs. `schema` names type and version; a field is never reused for another meaning.

Readers ignore fields they do not know. Units are in the names; times are RFC 3339 UTC with milliseconds.
JSON Schemas of all of them are made by `agent.wire.schemas` into docs/schema/.
"""

import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from agent.runtime.clock import Clock, ClockState, rfc3339
from agent.values import Anomaly, Classification, Detection, Segment, Timing, Xyxy
from agent.wire.host import HostTelemetry, Position
from agent.wire.releases import Digest, State

Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Seq = Annotated[int, Meta(ge=0, lt=2**53)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema"):
    """Fields of every outgoing message."""

    device: str
    boot: str
    """Random, one for each start of the daemon."""
    time: Time
    """When the message was made."""
    clock: ClockState
    """Whether `time` can be trusted."""


class StreamMessage(Message, frozen=True, kw_only=True, tag_field="schema"):
    """A message of the durable stream. The outbox writes `seq` and `prev`; here they only stand for readers."""

    seq: Seq | UnsetType = UNSET
    """Never repeats for a device: epoch * 2**32 + n."""
    prev: Seq | UnsetType = UNSET
    """The `seq` before it in the stream; 0 for the first ever."""


class FrameInfo(msgspec.Struct, frozen=True):
    """Which frame a result is about."""

    index: int
    width_px: int | UnsetType = UNSET
    """Of a picture."""
    height_px: int | UnsetType = UNSET
    """Of a picture."""
    samples: int | UnsetType = UNSET
    """Length of a window of samples; `captured_at` is the time of the last."""


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model said it."""

    name: str
    version: str
    sha256: str


class Result(StreamMessage, frozen=True, kw_only=True, tag_field="schema", tag="edge.result/1"):
    """What the model said of one frame; one of the last fields is there, by the model's task."""

    pipeline: str
    captured_at: Time
    frame: FrameInfo
    model: ModelInfo
    timing_ms: Timing
    detections: list[Detection] | UnsetType = UNSET
    """Boxes in pixels of the source frame, highest confidence first."""
    classes: list[Classification] | UnsetType = UNSET
    """Highest confidence first."""
    values: list[float] | UnsetType = UNSET
    segments: list[Segment] | UnsetType = UNSET
    anomaly: Anomaly | UnsetType = UNSET
    position: Position | UnsetType = UNSET
    """Where the device was when the message was made; absent without a fresh fix."""


class DriftFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How unlike the model's reference the last frames are, by what was compared: confidence, classes, embedding."""

    psi: dict[str, float]
    """Population stability index: under 0.1 hardly, from 0.25 on a lot."""
    ks: dict[str, float]
    """Largest distance of the cumulated shares (Kolmogorov-Smirnov), of what has an order."""
    max_psi: float
    """From where on it counts as drift."""
    frames: int
    """That were compared."""


class Event(StreamMessage, frozen=True, kw_only=True, tag_field="schema", tag="edge.event/1"):
    """What the rules decided to tell: a label came, is still there, or went."""

    pipeline: str
    type: Literal["started", "updated", "ended"]
    event_id: str
    label: str
    confidence: float
    """The highest so far."""
    started_at: Time
    ended_at: Time | None = None
    """When the label was last seen, once the event has ended."""
    xyxy: Xyxy | None = None
    """Where it was seen with that confidence, in pixels of the source frame; null for a whole-frame class."""
    frames: int
    """Frames in which it was seen so far."""
    drift: DriftFigures | UnsetType = UNSET
    """Of an event `drift`: what has changed."""
    position: Position | UnsetType = UNSET
    """Where the device was when the message was made; absent without a fresh fix."""


class Gap(StreamMessage, frozen=True, kw_only=True, tag_field="schema", tag="edge.gap/1"):
    """Stands in the place of messages that a bound evicted: `from` to `to` are gone. `from` is the number after `prev`,
    whether or not a message ever had it. Some of them may have been sent already, but not acknowledged."""

    from_: Seq = msgspec.field(name="from")
    to: Seq
    count: int
    reason: str


class ActiveVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that answers frames."""

    version: str
    sha256: Digest
    """Of the bundle's archive."""
    activated_at: Time
    confirmed: bool
    """Its health window is over. Until then a failure brings the version before back."""


class PreviousVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle to go back to."""

    version: str
    sha256: Digest


class CandidateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The release that the device was offered last, and how far it has got with it."""

    release: int
    version: str
    sha256: Digest
    state: State
    received_bytes: int
    size_bytes: int
    reason_code: str | None = None
    """Why it is not active, or not yet."""
    reason: str | None = None
    """The same in words."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A release that came to an end on this device, one way or the other."""

    release: int
    version: str
    sha256: Digest
    state: State
    ended_at: Time
    reason_code: str | None = None
    reason: str | None = None


class ModelState(StreamMessage, frozen=True, kw_only=True, tag_field="schema", tag="edge.model-state/1"):
    """Which version of a model the device runs, and what becomes of the one it was offered; retained."""

    model: str
    active: ActiveVersion | None
    """null: there is no model that could run."""
    previous: PreviousVersion | None
    candidate: CandidateVersion | None
    refused: str | None = None
    """Why the last message on the model's release topic was not taken: a reason code. It may come from anybody."""
    pinned: bool = False
    """An operator holds the model at its version."""
    floor: int = 0
    """The highest release number that was accepted; only higher ones are."""
    trust_version: int | None = None
    """Of the trust document that holds on the device."""
    history: list[Attempt] = []
    """The last 20, oldest first."""


class LatencyMs(msgspec.Struct, frozen=True):
    """Capture to outbox, over the interval, in milliseconds."""

    p50: float
    p99: float
    max: float


class SamplesTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that a pipeline keeps to learn from."""

    kept: int
    bytes: int
    waiting: int
    """Not sent yet."""
    labelled: int
    """With a label of the operator's."""
    dropped: int
    """Could not be stored, or went because of the bound before they were sent; since the start."""


class PipelineTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """How one pipeline does. Counters count from the start of the daemon."""

    frames_captured: int
    frames_inferred: int
    frames_dropped: int
    """Captured and not inferred: a newer one came first, or the model was away."""
    frames_broken: int
    """Damaged pictures that the source gave."""
    worker_restarts: int
    fps: float
    """Frames inferred a second, over the interval."""
    latency_ms: LatencyMs | None
    """null when no frame was inferred in the interval."""
    source_state: Literal["starting", "running", "lost", "ended", "off"]
    drift: DriftFigures | UnsetType = UNSET
    """Of the last frames; absent where the model has no reference, or too few frames were seen."""
    samples: SamplesTelemetry | UnsetType = UNSET
    """Frames that are kept to learn from; absent where none are."""


class OutboxTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for the broker."""

    pending: int
    bytes: int
    dropped: int
    """Messages lost to a bound or a full disk since the start; each is announced by a gap or was never accepted."""
    damaged: int
    """Places in its files that could not be read."""


class ProcessTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The agent: the daemon and its workers together."""

    rss_bytes: int
    cpu_s: float
    threads: int


class MqttTelemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to the broker."""

    connects: int
    refused: int
    """Messages that the broker refused for good."""
    no_subscribers: int
    """Messages that the broker took although nobody subscribes to them."""
    commands_dropped: int
    """Commands that were too large or came too fast."""
    last_error: str | None
    certificate_expires_at: Time | UnsetType = UNSET
    """When the device's own certificate ends; of a chain, its first part that does."""
    ca_expires_at: Time | UnsetType = UNSET
    """When the last of the configured authorities ends."""


class Telemetry(Message, frozen=True, kw_only=True, tag_field="schema", tag="edge.telemetry/1"):
    """The device's own state."""

    uptime_s: float
    pipelines: dict[str, PipelineTelemetry]
    outbox: OutboxTelemetry
    snapshots_dropped: int
    """Pictures that were not made because too many waited."""
    host: HostTelemetry
    process: ProcessTelemetry
    mqtt: MqttTelemetry
    position: Position | UnsetType = UNSET
    """Where the device is, while `gps` is enabled and the receiver knows it."""


class Status(Message, frozen=True, kw_only=True, tag_field="schema", tag="edge.status/1"):
    """Whether the device is there and well; retained, and `offline` is also the connection's will."""

    state: Literal["online", "degraded", "offline"]
    reasons: list[str]
    """Why it is degraded, a line each."""
    version: str
    started_at: Time


class Reply(Message, frozen=True, kw_only=True, tag_field="schema", tag="edge.reply/1"):
    """The answer to a command, on the response topic that came with it."""

    command: str
    ok: bool
    error: str | None = None
    data: dict[str, Any] = {}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a command may carry; each command uses what it needs. An empty payload is an empty object."""

    pipeline: str | None = None
    """For `snapshot`, `set`, `label`, `samples` and `personalize`."""
    enabled: bool | None = None
    """For `set`: capture and infer, or not."""
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    """For `set`."""
    model: str | None = None
    """For `model-rollback`, `model-pin` and `model-activate`."""
    pinned: bool | None = None
    """For `model-pin`: hold the model at its version, or not."""
    version: str | None = None
    """For `model-activate`, which only works on the device itself."""
    sample: Annotated[str, Meta(max_length=64)] | None = None
    """For `label`: id of a sample, or of the event that it started."""
    label: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """For `label`: what it shows."""
    right: bool | None = None
    """For `label` instead of a label: the model was right, or wrong."""
    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    """For `samples`: how much to send."""


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag="edge.ack/1"):
    """What a collector says to a device; retained. Used when `outbox.trim` is `collector`."""

    seq: Seq
    """Everything up to this one is stored, and nothing before it is missing."""


MESSAGES: dict[str, type[msgspec.Struct]] = {
    "result": Result,
    "event": Event,
    "gap": Gap,
    "model-state": ModelState,
    "telemetry": Telemetry,
    "status": Status,
    "reply": Reply,
    "command": Command,
    "ack": Ack,
}


class Stamp:
    """Gives the fields that every message begins with."""

    def __init__(self, device: str, clock: Clock, boot: str | None = None) -> None:
        self.device = device
        self.boot = boot or secrets.token_hex(8)
        self._clock = clock

    def __call__(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "boot": self.boot,
            "time": rfc3339(self._clock.now_ns()),
            "clock": self._clock.state(),
        }


encode = msgspec.json.Encoder().encode
"""A message as JSON bytes."""
