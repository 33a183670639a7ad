"""The kept frames of all pipelines, and the thread that writes, labels and sends them."""

import contextlib
import errno
import math
import queue
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import structlog

from agent.config import Config, Feedback
from agent.errors import FeedbackRefused, OutboxError
from agent.feedback.samples import Note, SampleStore
from agent.feedback.watch import SampleJob
from agent.runtime.clock import rfc3339
from agent.runtime.health import Health
from agent.runtime.npy import load_npy
from agent.values import Frame, OutboundMessage
from agent.wire.messages import SamplesTelemetry
from agent.wire.samples import CONTENT_TYPES, PROPERTY, SampleInfo
from agent.wire.topics import Topics

T = TypeVar("T")

QUEUE_JOBS = 16
"""Each may hold a frame."""
LOSSLESS_PIXELS = 256 * 256
"""Pictures up to this are kept as PNG: in small ones JPEG blurs what counts."""
MAX_FILE_BYTES = 960 << 10
"""The outbox takes messages of 1 MiB, with what is told of the frame."""
_JPEG_QUALITIES = (95, 85, 70)
_PNG_HEADER = struct.Struct(">8s4x4sII")  # signature, type of the first chunk, width, height
_WAIT_S = 1.0
_ANSWER_S = 10.0
_LOST = frozenset({errno.ENOENT, errno.EIO})
"""Errors of a file that is gone, or that the disk does not give back."""

_log = structlog.get_logger()


class Sink(Protocol):
    """The outbox."""

    def put(self, message: OutboundMessage) -> int:
        """Raises OutboxError."""


class FeedbackService:
    """Body of the feedback thread. `keep`, `ask` and `telemetry` are for any thread; all else is for `ask`."""

    def __init__(self, config: Config, topics: Topics, sink: Sink, health: Health) -> None:
        """Reads the folders; starts nothing."""
        self._topics, self._sink, self._health = topics, sink, health
        self._settings: Mapping[str, Feedback] = {spec.name: spec.feedback for spec in config.pipelines}
        self._stores = {
            name: SampleStore(Path(config.samples.dir) / name, settings.max_bytes)
            for name, settings in self._settings.items()
            if settings.keep != "none"
        }
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(QUEUE_JOBS)
        self._sent_s = dict.fromkeys(self._stores, -math.inf)  # at each start: a device may never run for a whole day

    def keep(self, job: SampleJob) -> bool:
        """Have a frame written, without waiting; False: too many wait already."""
        store = self._stores[job.pipeline]
        try:
            self._jobs.put_nowait(lambda: self._write(store, job))
        except queue.Full:
            store.dropped += 1
            return False
        return True

    def ask(self, work: Callable[[], T]) -> T | None:
        """Have something done in the thread; None: it takes longer than an answer may, and will be done.

        Raises:
            FeedbackRefused: it can't be done, or too much waits already.
        """
        answer: Future[T] = Future()

        def do() -> None:
            try:
                answer.set_result(work())
            except FeedbackRefused as exc:
                _log.warning("feedback.refused", reason=str(exc))
                answer.set_exception(exc)

        try:
            self._jobs.put(do, timeout=_ANSWER_S)
        except queue.Full:
            raise FeedbackRefused("too much waits to be stored; try again") from None
        try:
            return answer.result(_ANSWER_S)
        except TimeoutError:
            return None

    def telemetry(self, pipeline: str) -> SamplesTelemetry | None:
        """None: it keeps nothing."""
        store = self._stores.get(pipeline)
        return store.telemetry() if store else None

    def loop(self, stop: threading.Event) -> None:
        """Body of the thread. What is in the queue at the end is still written."""
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._jobs.get(timeout=_WAIT_S)()
            self._send_what_is_due()
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()()

    # --- for `ask` -----------------------------------------------------------------------------------------------

    def label(self, pipeline: str, sample: str, label: str | None, is_right: bool | None) -> dict[str, Any]:
        """Note the operator's word on a sample. Raises FeedbackRefused."""
        store = self.store_of(pipeline)
        try:
            note = store.change(sample, label=label, is_right=is_right, is_sent=False)
        except KeyError:
            raise FeedbackRefused(f"sample: {pipeline} keeps none with the id {sample!r}") from None
        except OSError as exc:
            raise FeedbackRefused(f"the label can't be stored: {exc.strerror or exc}") from exc
        return {"pipeline": pipeline, "sample": note.id, "predicted": note.predicted, "label": note.truth}

    def send(self, pipeline: str, max_bytes: int | None = None) -> dict[str, Any]:
        """Put what was not sent yet into the outbox, as much as may be, but at least one. Raises FeedbackRefused."""
        store, left = self.store_of(pipeline), max_bytes or int(self._settings[pipeline].upload_max_bytes)
        sent = sent_bytes = 0
        for note in store.unsent():
            try:
                data = self._read(store, note)
                if data is None:
                    continue
                if sent and len(data) > left - sent_bytes:
                    break
                self._sink.put(self._message(note, data))
                store.change(note.id, is_sent=True)
            except (OSError, OutboxError) as exc:
                raise FeedbackRefused(f"{sent} are sent, then: {exc}") from exc
            sent, sent_bytes = sent + 1, sent_bytes + len(data)
        waiting = store.telemetry().waiting
        return {"pipeline": pipeline, "sent": sent, "bytes": sent_bytes, "waiting": waiting}

    def store_of(self, pipeline: str) -> SampleStore:
        """Raises FeedbackRefused: it keeps nothing."""
        store = self._stores.get(pipeline)
        if store is None:
            raise FeedbackRefused(f"pipeline {pipeline} keeps no samples; feedback: {{keep: hard}} makes it")
        return store

    # --- inside --------------------------------------------------------------------------------------------------

    def _read(self, store: SampleStore, note: Note) -> bytes | None:
        """None: it is lost, and forgotten: all that wait behind it would wait for ever. Raises OSError."""
        try:
            return store.read(note)
        except OSError as exc:
            if exc.errno not in _LOST:
                raise
            _log.warning("samples.lost", pipeline=note.pipeline, sample=note.id, reason=exc.strerror)
            store.forget(note)
            return None

    def _write(self, store: SampleStore, job: SampleJob) -> None:
        suffix, data = encode_frame(job.frame)
        if len(data) > MAX_FILE_BYTES:  # a very long window
            store.dropped += 1
            return
        note = Note(
            id=job.id,
            device=self._topics.device,
            pipeline=job.pipeline,
            captured_at=rfc3339(job.frame.captured_at_ns),
            frame_index=job.frame.index,
            reasons=job.reasons,
            model=job.model.name,
            version=job.model.version,
            predicted=job.summary.label,
            confidence=round(job.summary.confidence, 4),
            margin=round(job.summary.margin, 4),
            suffix=suffix,
        )
        part = f"samples.{job.pipeline}"
        try:
            store.put(note, data)
        except OSError as exc:
            self._health.lost(part, f"frames to learn from can't be stored: {exc.strerror or exc}")
        else:
            self._health.recovered(part)

    def _send_what_is_due(self) -> None:
        for pipeline, settings in self._settings.items():
            if pipeline not in self._stores or not settings.upload_every:
                continue
            if time.monotonic() - self._sent_s[pipeline] >= settings.upload_every:
                self._sent_s[pipeline] = time.monotonic()
                try:
                    self.send(pipeline)
                except FeedbackRefused as exc:
                    _log.warning("samples.not_sent", pipeline=pipeline, reason=str(exc))

    def _message(self, note: Note, data: bytes) -> OutboundMessage:
        fields = {name: getattr(note, name) for name in SampleInfo.__struct_fields__}
        text = msgspec.json.encode(SampleInfo(**fields)).decode()
        return OutboundMessage(
            self._topics.samples(note.pipeline),
            data,
            in_chain=False,
            content_type=CONTENT_TYPES[note.suffix],
            user_properties=((PROPERTY, text),),
        )


def encode_frame(frame: Frame) -> tuple[Literal[".png", ".jpg", ".npy"], bytes]:
    """A picture as PNG or, over LOSSLESS_PIXELS, as JPEG; samples as a NumPy file (T x channels, float32).

    JPEG gets coarser, and then smaller, until it has no more than MAX_FILE_BYTES.
    """
    if frame.channels:
        file = BytesIO()
        np.save(file, frame.data, allow_pickle=False)
        return ".npy", file.getvalue()
    import cv2

    height, width = frame.data.shape[:2]
    if height * width <= LOSSLESS_PIXELS:
        return ".png", cv2.imencode(".png", frame.data)[1].tobytes()
    picture: Any = frame.data
    while True:
        for quality in _JPEG_QUALITIES:
            data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
            if len(data) <= MAX_FILE_BYTES:
                return ".jpg", data
        picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def decode_frame(suffix: str, data: bytes) -> Any:
    """The array of `encode_frame`, whoever wrote the file; a picture is BGR, or gray where it was kept as PNG.

    Raises:
        ValueError: it is none.
    """
    if suffix == ".npy":
        samples = load_npy(data)
        if samples.dtype != np.float32 or samples.ndim != 2 or not samples.size:
            raise ValueError("expected float32 of samples x channels")
        return samples
    picture = _decode_png(data) if suffix == ".png" else _decode_jpeg(data)
    if picture is None:
        raise ValueError("expected a whole picture")
    return picture


def _decode_jpeg(data: bytes) -> Any:
    from agent.capture.jpeg import decode_jpeg

    return decode_jpeg(data)


def _decode_png(data: bytes) -> Any:
    """None: it is damaged, or larger than a frame may be, which is seen before it is decoded."""
    import cv2

    from agent.capture.frames import fits, is_sound

    if len(data) < _PNG_HEADER.size:
        return None
    signature, kind, width_px, height_px = _PNG_HEADER.unpack_from(data)
    if signature != b"\x89PNG\r\n\x1a\n" or kind != b"IHDR" or not fits(width_px, height_px):
        return None
    with contextlib.suppress(cv2.error):
        picture: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return picture if is_sound(picture) else None
    return None
