"""THE FRAME PATH, in reading order: capture_loop, infer_loop with process, publish_loop.

    source -> slot -> worker -> rules -> outbox -> broker

The slot between capture and inference has one place: the newest frame wins, and what was replaced is counted. Each
loop is the body of one thread; the list of threads is in `daemon.py`.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
from msgspec import UNSET

from agent.capture import Subscribe, make_source, not_connected, retry_cap_s, stall_timeout_s
from agent.capture.masks import masked
from agent.capture.reader import Reader
from agent.capture.windows import Windows
from agent.config import Pipeline as PipelineSpec
from agent.errors import AgentError, LinkDown, ModelError, OutboxError, SourceError, SourceUnusable, WorkerLost
from agent.events.rules import EventChange, Rules
from agent.events.snapshot import SnapshotJob
from agent.feedback.watch import SampleJob, Watch
from agent.inference.active import ActiveModel
from agent.inference.protocol import Answer, BundleInfo
from agent.inference.worker import Worker
from agent.manifest import Reference
from agent.outgoing import event_message, result_message
from agent.runtime.backoff import Backoff
from agent.runtime.health import Health
from agent.runtime.latest import LatestSlot
from agent.runtime.progress import Progress
from agent.telemetry.metrics import PipelineMetrics, SourceState
from agent.updates.trial import Seen
from agent.values import Frame, Image, OutboundMessage, Timing
from agent.wire.host import Position
from agent.wire.messages import PipelineTelemetry, SamplesTelemetry, Stamp
from agent.wire.topics import Topics

if TYPE_CHECKING:  # `replay` needs neither
    from agent.mqtt.link import Link
    from agent.outbox.delivery import Delivery

CONNECT_TIMEOUT_S = 5.0
RECONNECT_CAP_S = 60.0
"""The longest wait between two tries to reach the broker. Both together: how long after a broker a device is back."""
_WINDOWS_KEPT = 16
"""Windows of samples that may wait: unlike pictures, each tells something that no other does."""
_LOAD_S = 60.0
"""A source of samples is held up for so long while the model is loaded."""
_WAIT_S = 1.0
"""The longest that a loop waits before it shows a sign of life."""


class Sink(Protocol):
    """Takes messages: the outbox, or the file of `replay`."""

    def put(self, message: OutboundMessage) -> int:
        """Store a message; raises OutboxError when that is not possible."""


def measured(answer: Answer, total_ms: float) -> Timing:
    """What a result says of the time it took."""
    return Timing(answer.preprocess_ms, answer.infer_ms, answer.decode_ms, round(total_ms, 3))


@dataclass(frozen=True, slots=True)
class Services:
    """What all pipelines of a daemon share."""

    topics: Topics
    stamp: Stamp
    sink: Sink
    snapshot: Callable[[SnapshotJob], bool]
    health: Health
    progress: Progress
    timing: Callable[[Answer, float], Timing] = measured
    subscribe: Subscribe = not_connected
    position: Callable[[], Position | None] = lambda: None
    keep: Callable[[SampleJob], object] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A frame that a worker looks at."""

    frame: Frame
    worker: Worker
    started_ns: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A frame with the model's answer."""

    frame: Frame
    answer: Answer
    model: BundleInfo
    reference: Reference | None
    """Of the model's manifest."""
    total_ms: float
    """From handing over to the answer."""

    @property
    def picture(self) -> Image | None:
        """What was looked at, unless it was samples."""
        return None if self.frame.channels else cast("Image", self.frame.data)


class _Halt(threading.Event):
    """Set when the daemon stops or the pipeline is turned off; to be asked is a sign of life."""

    def __init__(self, is_halted: Callable[[], bool], beat: Callable[[], None]) -> None:
        super().__init__()
        self._is_halted, self._beat = is_halted, beat

    def is_set(self) -> bool:
        self._beat()
        return self._is_halted()

    def wait(self, timeout: float | None = None) -> bool:
        """Look a few times a second; nobody tells."""
        deadline_s = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        while not self.is_set() and (left_s := deadline_s - time.monotonic()) > 0:
            super().wait(min(0.1, left_s))
        return self.is_set()


class Pipeline:
    """One source through one model. Building it starts nothing."""

    def __init__(
        self, spec: PipelineSpec, services: Services, active: ActiveModel, *, needs_model: bool = True
    ) -> None:
        """Without `needs_model` a bundle that can't be used is no reason to end: a release may bring a better one."""
        self.name = spec.name
        self.spec = spec
        self.min_confidence = spec.min_confidence
        self.enabled = spec.enabled
        """As configured, or as the command `set` said last."""
        self.held = False
        """Off whatever `enabled` says: safe mode."""
        self.metrics = PipelineMetrics()
        self.ready = threading.Event()
        """The model is loaded, or was tried to be."""
        self.last_seen: _Seen | None = None
        """The frame that was looked at last, for the `snapshot` command."""
        self.slot: LatestSlot[Frame] = LatestSlot()
        self._windows = Windows()
        self._services = services
        self._rules = Rules(spec.events, spec.results)
        self._watch = Watch(spec, services.keep)
        self.active = active
        self._needs_model = needs_model

    # --- capture: source -> slot ---------------------------------------------------------------------------------

    def capture_loop(self, stop: threading.Event) -> None:
        """Keep the source open and its frames coming, whatever happens to it.

        Raises:
            SourceUnusable: the source can never work as configured.
        """
        part, health = f"capture.{self.name}", self._services.health
        backoff = Backoff(base_s=0.5, cap_s=retry_cap_s(self.spec.source))
        reader = Reader(functools.partial(make_source, self.spec.source, self._services.subscribe), self._take_in)
        halt = _Halt(lambda: stop.is_set() or not self._on, functools.partial(self._services.progress.beat, part))
        while not stop.is_set():
            if not self._on:
                self._rest("off", stop)
                continue
            try:
                if self.metrics.source_state != "lost":
                    self.metrics.source_state = "starting"
                reader.start()
                if reader.watch(halt, stall_timeout_s(self.spec.source)) == "ended":
                    self._rest("ended", halt)
            except SourceUnusable:
                raise
            except SourceError as exc:
                if self.metrics.source_state == "running":
                    backoff.reset()
                self.metrics.source_state = "lost"
                health.lost(part, str(exc))
                halt.wait(backoff.next_s())
            finally:
                self.metrics.frames_broken = reader.broken + self._windows.left_out

    @property
    def _on(self) -> bool:
        return self.enabled and not self.held

    def telemetry(self, window_s: float, samples: SamplesTelemetry | None = None) -> PipelineTelemetry:
        """Counters since the start, rate and latency over the last so many seconds; with it what is kept of it."""
        numbers = self.metrics.snapshot(
            window_s, frames_replaced=self.slot.dropped, worker_restarts=self.active.restarts
        )
        return msgspec.structs.replace(numbers, drift=self._watch.drift or UNSET, samples=samples or UNSET)

    def _rest(self, state: SourceState, until: threading.Event) -> None:
        """Nothing to capture: a recording is over, or the pipeline is turned off; `set` may bring it back."""
        self.metrics.source_state = state
        self._services.health.recovered(f"capture.{self.name}")
        while not until.wait(_WAIT_S / 2) and (state == "ended" or not self._on):
            self._services.progress.beat(f"capture.{self.name}")

    def _take_in(self, captured: Frame) -> None:
        """In the reader's thread. A model that takes what the source does not give has no answer for its frames, which
        counts against the model: the source is well, and may have been long before a release brought this model."""
        if self.metrics.source_state != "running":
            self.metrics.source_state = "running"
            self._services.health.recovered(f"capture.{self.name}")
        if captured.channels:
            self.ready.wait(_LOAD_S)  # nobody knows before how long a window is, and a recording would be over
        try:
            for frame in self.cut(captured):
                self.metrics.frames_captured += 1
                self.slot.put(frame, places=_WINDOWS_KEPT if frame.channels else 1)
        except SourceError as exc:
            self._no_answer(exc)

    def cut(self, captured: Frame) -> Iterable[Frame]:
        """What the model looks at: a picture as it is; of samples, the windows that are complete with these.

        Raises:
            SourceError: the source lacks what the model takes.
        """
        info = self.active.info
        if not captured.channels or info is None:
            return [] if captured.channels else [masked(captured, self.spec.privacy_masks)]
        if info.window is None:
            raise SourceError(f"model {info.name} takes pictures, and the source gives {', '.join(captured.channels)}")
        return self._windows.cut(captured, info.window)

    # --- inference: slot -> outbox -------------------------------------------------------------------------------

    def infer_loop(self, stop: threading.Event) -> None:
        """Look at the newest frame, again and again.

        Raises:
            ModelError: at start, the bundle can't be used, and no release could bring another.
        """
        with contextlib.suppress(WorkerLost) if self._needs_model else self._model_trouble(stop):
            self.active.current()
        self.ready.set()
        seen: _Seen | None = None
        while not stop.is_set():
            self._services.progress.beat(f"infer.{self.name}")
            frame = self.slot.take(0.0 if seen else _WAIT_S)
            if frame is None:
                self.active.idle()
            asked: _Asked | None = None
            with self._model_trouble(stop):
                asked = self._hand_over(frame) if frame else None
            with self._outbox_trouble():  # the model is at work on the next frame meanwhile
                self._report(seen) if seen else self._tell(self._rules.tick(time.monotonic_ns()))
            seen = None
            with self._model_trouble(stop):
                seen = self._answer(asked) if asked else None
        with self._outbox_trouble():
            if seen:
                self._report(seen)
            self._tell(self._rules.end_all())

    def process(self, frame: Frame) -> None:
        """The way of one frame, step after step; `infer_loop` lets the steps of two frames overlap.

        Raises:
            WorkerLost, ModelError: there is no answer for this frame.
            OutboxError: what was found could not be stored.
        """
        self._report(self._answer(self._hand_over(frame)))

    def _hand_over(self, frame: Frame) -> "_Asked":
        worker = self.active.current()  # the only contact with the update path
        started_ns = time.perf_counter_ns()
        worker.submit(frame.data, self.min_confidence, evidence=self._watch.wants_evidence(frame.captured_ns))
        return _Asked(frame, worker, started_ns)

    def _answer(self, asked: "_Asked") -> "_Seen":
        answer = asked.worker.receive()
        self._services.health.recovered(f"model.{self.name}")
        total_ms = (time.perf_counter_ns() - asked.started_ns) / 1e6
        return _Seen(asked.frame, answer, asked.worker.info, asked.worker.reference, total_ms)

    def _report(self, seen: "_Seen") -> None:
        to, frame, found = self._services, seen.frame, seen.answer.found
        self.last_seen = seen
        decision = self._rules.decide(found, frame.captured_ns, frame.captured_at_ns)
        try:
            if decision.publish_result:
                timing, at = to.timing(seen.answer, seen.total_ms), to.position()
                self._store(result_message(to.topics, to.stamp, self.name, frame, seen.model, seen.answer, timing, at))
        finally:  # also of a frame whose result could not be stored
            self.metrics.inferred(time.monotonic_ns() - frame.captured_ns)
            drift = self._watch.see(
                frame, seen.answer, seen.model, seen.reference, decision.events, self.min_confidence
            )
            self._tell([*decision.events, *drift])

    def disagreed(self, seen: Seen) -> None:
        """A model on trial says something else of this frame. Called from the update path."""
        self._watch.disagreed(seen.frame, seen.answer, self.active.info, self.min_confidence)

    def _tell(self, changes: Sequence[EventChange]) -> None:
        """Put events into the outbox, and have a snapshot taken of each that starts."""
        to = self._services
        for change in changes:
            self._store(event_message(to.topics, to.stamp, self.name, change, to.position()))
            wanted = change.type == "started" and self.spec.snapshots.on == "events"
            if wanted and (seen := self.last_seen) and seen.picture is not None:
                at_ns = seen.frame.captured_at_ns
                to.snapshot(SnapshotJob(self.name, seen.picture, seen.answer.found, change.event_id, at_ns))

    def _store(self, message: OutboundMessage) -> None:
        """Raises OutboxError. Only what was stored says that the outbox works: most frames leave nothing to store."""
        self._services.sink.put(message)
        self._services.health.recovered("outbox")

    @contextlib.contextmanager
    def _model_trouble(self, stop: threading.Event) -> Iterator[None]:
        """A frame without an answer: count it, say it once, go on with the next."""
        try:
            yield
        except (WorkerLost, ModelError) as exc:
            if not stop.is_set():
                self._no_answer(exc)

    def _no_answer(self, exc: AgentError) -> None:
        self.metrics.failed(str(exc))
        self._services.health.lost(f"model.{self.name}", str(exc))

    @contextlib.contextmanager
    def _outbox_trouble(self) -> Iterator[None]:
        """A message that could not be stored: the outbox counts it, inference goes on."""
        try:
            yield
        except OutboxError as exc:
            self._services.health.lost("outbox", str(exc))


# --- publishing: outbox -> broker ------------------------------------------------------------------------------------


def publish_loop(
    delivery: "Delivery",
    link: "Link",
    health: Health,
    progress: Progress,
    last_words: Callable[[], OutboundMessage],
    stop: threading.Event,
) -> None:
    """Send what the outbox holds, in order, one connection after the other."""
    backoff = Backoff(base_s=0.5, cap_s=RECONNECT_CAP_S)
    while not stop.is_set():
        progress.beat("publish")
        try:
            link.connect(CONNECT_TIMEOUT_S)
            health.recovered("mqtt")
            _send_all(delivery, link, health, progress, backoff, stop)
        except LinkDown as exc:
            health.lost("mqtt", str(exc))
            link.close(None, 2.0)
            stop.wait(backoff.next_s())
    link.close(last_words(), 3.0)


def _send_all(
    delivery: "Delivery", link: "Link", health: Health, progress: Progress, backoff: Backoff, stop: threading.Event
) -> None:
    """Raises LinkDown when the connection ends. A disk that can't be read does not end it: telemetry says so."""
    from agent.mqtt.link import BATCH_BYTES

    delivery.begin()
    while not stop.is_set():
        progress.beat("publish")
        link.pump()
        for message_id in link.take_acks():
            delivery.taken(message_id)
            backoff.reset()  # a broker is well when it takes messages, not already when it says hello
        try:
            messages = delivery.next(link.room(), BATCH_BYTES)
            health.recovered("outbox.reading")
        except OutboxError as exc:
            messages = []
            health.lost("outbox.reading", str(exc))
        for message in messages:
            link.send(message)
        link.wait(_WAIT_S)
