"""JPEG pictures of frames, with what was found drawn on them; made in a thread of their own.

A JPEG of a 720p frame costs as much as two BlazeFace inferences, so the inference thread only puts jobs in.
"""

import contextlib
import queue
import threading
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import structlog
from msgspec import UNSET

from agent.config import Snapshots
from agent.values import Found, Image, Xyxy

QUEUE_JOBS = 8
"""Each job holds a frame: at 1080p 6 MB."""

MAX_JPEG_BYTES = 960 << 10
"""The outbox takes messages of 1 MiB, with what is told of the picture."""
_COARSER = (85, 70)

_WAIT_S = 0.5

_Bgr = tuple[int, int, int]

_COLORS: tuple[_Bgr, ...] = (
    (80, 220, 60), (60, 170, 255), (255, 170, 40), (220, 90, 230), (60, 230, 245), (90, 90, 255), (235, 215, 60),
    (180, 140, 255),
)  # fmt: skip
"""Bright colours, told apart by most people; a class keeps its own."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SnapshotJob:
    """A picture to make."""

    pipeline: str
    image: Image
    """The frame; it is only read."""
    found: Found | None
    """What to draw on it; None: nothing."""
    event_id: str
    """The event it belongs to, or the id that an answer to a command gave it."""
    captured_at_ns: int
    """When the frame was captured, in Unix nanoseconds."""


class SnapshotMaker:
    """Makes pictures in its own thread, oldest job first. A job that finds the queue full is dropped and counted."""

    def __init__(
        self, settings: Mapping[str, Snapshots], deliver: Callable[[SnapshotJob, bytes, tuple[int, int]], None]
    ) -> None:
        """Make pictures for these pipelines.

        Args:
            settings: by the pipeline's name.
            deliver: takes the job, its JPEG and the picture's width and height; called in the maker's thread.
        """
        self._settings = settings
        self._deliver = deliver
        self._jobs: queue.Queue[SnapshotJob] = queue.Queue(QUEUE_JOBS)
        self.dropped = 0
        """Jobs that came while the queue was full."""

    def submit(self, job: SnapshotJob) -> bool:
        """Put a job in, without waiting; False when it was dropped. From any thread."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.dropped += 1
            log.warning("snapshot.dropped", pipeline=job.pipeline, event_id=job.event_id, dropped=self.dropped)
            return False
        return True

    def loop(self, stop: threading.Event) -> None:
        """Body of the thread. At the end it makes what is still in the queue, so that late events have a picture."""
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._make(self._jobs.get(timeout=_WAIT_S))
        with contextlib.suppress(queue.Empty):
            while True:
                self._make(self._jobs.get_nowait())

    def _make(self, job: SnapshotJob) -> None:
        options = self._settings[job.pipeline]
        picture = draw_snapshot(job.image, job.found, boxes=options.boxes, max_width_px=options.max_width_px)
        jpeg, picture = _within_limit(picture, options.quality)
        self._deliver(job, jpeg, (picture.shape[1], picture.shape[0]))


def encode_snapshot(image: Image, found: Found | None, *, quality: int, boxes: bool, max_width_px: int | None) -> bytes:
    """A JPEG of a frame (H x W x 3 BGR or H x W gray, uint8); options as in the section `snapshots`."""
    return _jpeg(draw_snapshot(image, found, boxes=boxes, max_width_px=max_width_px), quality)


def draw_snapshot(image: Image, found: Found | None, *, boxes: bool, max_width_px: int | None) -> Image:
    """The picture for a snapshot: scaled down to `max_width_px`, and with boxes a colour one with what was found on it.

    The frame itself is never written on.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, (max_width_px or width) / width)
    picture = image
    if scale < 1.0:
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    marks = _marks(found) if boxes and found is not None else []
    if not marks:
        return picture
    picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), np.uint8) if picture.ndim == 2 else picture.copy()
    for mark in reversed(marks):  # the surest comes last, on top
        _draw(picture, mark, scale)
    return picture


def _within_limit(picture: Image, quality: int) -> tuple[bytes, Image]:
    """A JPEG that can be sent, and its picture: coarser, and then smaller, than asked for until it is no larger."""
    import cv2

    while True:
        for tried in (quality, *(coarser for coarser in _COARSER if coarser < quality)):
            jpeg = _jpeg(picture, tried)
            if len(jpeg) <= MAX_JPEG_BYTES:
                return jpeg, picture
        half_wh = (max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2))
        picture = np.asarray(cv2.resize(picture, half_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(picture: Image, quality: int) -> bytes:
    import cv2

    _, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return data.tobytes()


@dataclass(frozen=True, slots=True)
class _Mark:
    """A text, on a box or in the corner."""

    text: str
    color: _Bgr
    xyxy: Xyxy | None


def _marks(found: Found) -> list[_Mark]:
    """What to draw, the surest first; values have no place in the picture."""
    if found.detections is not UNSET:
        return [_mark(one.label, one.class_id, one.confidence, one.xyxy) for one in found.detections]
    if found.segments is not UNSET:
        return [_mark(one.label, one.class_id, one.share, one.xyxy) for one in found.segments]
    if found.classes is not UNSET:
        return [_mark(one.label, one.class_id, one.confidence, None) for one in found.classes[:1]]
    return []


def _mark(label: str, class_id: int, share: float, xyxy: Xyxy | None) -> _Mark:
    text = unicodedata.normalize("NFKD", f"{label} {share:.0%}")  # OpenCV's font has ASCII only: u for an u with dots
    ascii_text = "".join(char for char in text if not unicodedata.combining(char)).encode("ascii", "replace").decode()
    return _Mark(ascii_text, _COLORS[class_id % len(_COLORS)], xyxy)


def _draw(picture: Image, mark: _Mark, scale: float) -> None:
    """Draw a box and its text onto the picture; sizes follow the picture's."""
    import cv2

    height, width = picture.shape[:2]
    line_px = max(1, round(min(width, height) / 240))
    left, top, right, bottom = 0, 0, 0, 0
    if mark.xyxy is not None:
        edges = np.nan_to_num(np.asarray(mark.xyxy, np.float64)) * scale
        left, right = (int(edge) for edge in np.clip(np.round(edges[[0, 2]]), 0, width - 1))
        top, bottom = (int(edge) for edge in np.clip(np.round(edges[[1, 3]]), 0, height - 1))
        cv2.rectangle(picture, (left, top), (right, bottom), mark.color, line_px, cv2.LINE_AA)
    font, font_scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, min(width, height) / 800)
    thickness = max(1, round(font_scale * 1.6))
    (text_width, text_height), below = cv2.getTextSize(mark.text, font, font_scale, thickness)
    pad_px = max(2, round(text_height * 0.35))
    below = max(below, pad_px)
    bar_wh = (text_width + 2 * pad_px, text_height + below + pad_px)
    x = max(0, min(left, width - bar_wh[0]))
    y = top - bar_wh[1] if top >= bar_wh[1] else top  # inside the box where there is no room above
    cv2.rectangle(picture, (x, y), (x + bar_wh[0], y + bar_wh[1]), mark.color, cv2.FILLED)
    baseline = (x + pad_px, y + bar_wh[1] - below)
    cv2.putText(picture, mark.text, baseline, font, font_scale, (0, 0, 0), thickness, cv2.LINE_AA)
