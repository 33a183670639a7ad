"""The labelling page: one sample after the other, a key for each class; what was clicked is on the disk at once.

It listens on this machine only, and shows and takes nothing without the token that is in the address it prints: neither
other pages in the same browser nor other users of the machine see the samples.
"""

import argparse
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import numpy as np

from agent.feedback.service import decode_frame
from agent.wire.samples import CONTENT_TYPES
from tools.feedback_inbox import Inbox, Sample
from tools.picture_set import is_label

MAX_BODY_BYTES = 4096
KEYS = tuple("1234567890abcdefghijklmnoqrtuvwxyz")
"""p: the model is right; s: skip."""
PLOT_WH = (640, 240)
MAX_LINES = 16
"""Channels that a drawing shows."""


class Page:
    """What the page shows and takes; the server only carries it."""

    def __init__(self, inbox: Inbox, labels: Sequence[str]) -> None:
        self._inbox, self.labels = inbox, list(labels)
        self.token = secrets.token_urlsafe(16)
        self._skipped: set[str] = set()

    def state(self) -> dict[str, Any]:
        """The next sample without a label, and how far one is."""
        samples = list(self._inbox.all())
        open_ones = [one for one in samples if one.info.truth is None]
        todo = [one for one in open_ones if one.name not in self._skipped]
        known = sorted({one.info.truth for one in samples if one.info.truth} - set(self.labels))
        labels = [*self.labels, *known]
        return {
            "sample": _shown(todo[0]) if todo else None,
            "labels": [{"label": one, "key": key} for one, key in zip(labels, keys_of(labels), strict=True)],
            "done": len(samples) - len(open_ones),
            "all": len(samples),
            "skipped": len(open_ones) - len(todo),
            "counts": Counter(one.info.truth for one in samples if one.info.truth),
        }

    def take(self, name: str, label: str | None) -> bool:
        """A label, or None to skip it; False: there is no such sample."""
        sample = self._inbox.find(name)
        if sample is None:
            return False
        if label is None:
            self._skipped.add(name)
        else:
            self._inbox.label(sample, label)
        return True

    def undo(self, name: str) -> bool:
        """Take a label back; False: there is no such sample."""
        sample = self._inbox.find(name)
        if sample is None:
            return False
        self._skipped.discard(name)
        self._inbox.label(sample, None)
        return True

    def picture(self, name: str) -> tuple[str, bytes] | None:
        """Content type and bytes; of sensor values a drawing."""
        sample = self._inbox.find(name)
        if sample is None:
            return None
        data = sample.path.read_bytes()
        if sample.info.suffix != ".npy":
            return CONTENT_TYPES[sample.info.suffix], data
        return "image/png", _drawing(decode_frame(".npy", data))


def keys_of(labels: Sequence[str]) -> list[str]:
    """A key for each label, or "" where there are no more; one that is a key itself, such as a digit, is its own."""
    own = {one for one in labels if one and one in KEYS}
    others = (key for key in KEYS if key not in own)
    return [one if one in own else next(others, "") for one in labels]


def _shown(sample: Sample) -> dict[str, Any]:
    info = sample.info
    return {
        "name": sample.name, "predicted": info.predicted, "confidence": info.confidence, "reasons": info.reasons,
        "device": info.device, "pipeline": info.pipeline, "captured_at": info.captured_at, "version": info.version,
    }  # fmt: skip


def _drawing(samples: Any) -> bytes:
    """Each channel as a line over time."""
    import cv2  # noqa: PLC0415 - most samples are pictures already

    width, height = PLOT_WH
    picture = np.full((height, width, 3), 255, np.uint8)
    colors = ((180, 80, 20), (40, 40, 200), (30, 140, 30), (150, 60, 150), (20, 130, 200), (90, 90, 90))
    values = np.nan_to_num(np.asarray(samples, np.float64))
    low, high = float(values.min()), float(values.max())
    x = np.linspace(5, width - 5, len(values))
    for place, channel in enumerate(values.T[:MAX_LINES]):
        y = height - 5 - (channel - low) / ((high - low) or 1.0) * (height - 10)
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        cv2.polylines(picture, [points], False, colors[place % len(colors)], 1, cv2.LINE_AA)
    return cv2.imencode(".png", picture)[1].tobytes()


class Wish(msgspec.Struct, frozen=True):
    """What the page sends."""

    name: str
    label: str | None = None


def make_server(page: Page, port: int) -> ThreadingHTTPServer:
    """On the loopback. Raises OSError: the port is taken."""
    return ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"page": page}))


class _Handler(BaseHTTPRequestHandler):
    """Lets through who has the token, and what makes sense."""

    page: Page

    def _look(self, path: str) -> None:
        if path == "/state":
            self._answer("application/json", json.dumps(self.page.state()).encode())
        elif path.startswith("/picture/") and (found := self.page.picture(path.removeprefix("/picture/"))):
            self._answer(*found)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _do(self, path: str, wish: Wish) -> None:
        if path == "/undo":
            is_done = self.page.undo(wish.name)
        else:
            is_done = path == "/label" and self.page.take(wish.name, wish.label)
        self._look("/state" if is_done else "")

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/":
            self._answer("text/html; charset=utf-8", PAGE.read_bytes())
        elif self._is_known(query):
            self._look(path)

    def do_POST(self) -> None:
        path, _, query = self.path.partition("?")
        if not self._is_known(query):
            return
        try:
            size = int(self.headers.get("Content-Length") or 0)
            wish = msgspec.json.decode(self.rfile.read(size) if 0 < size <= MAX_BODY_BYTES else b"", type=Wish)
        except (ValueError, RecursionError):  # MsgspecError and UnicodeError are ValueErrors
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if wish.label is not None and not is_label(wish.label):
            self.send_error(HTTPStatus.BAD_REQUEST, "expected a short line of text")
            return
        try:
            self._do(path, wish)
        except OSError as exc:  # a full disk
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, exc.strerror)

    def _is_known(self, query: str) -> bool:
        token = parse_qs(query).get("token", [""])[0]
        if secrets.compare_digest(token.encode(), self.page.token.encode()):
            return True
        self.send_error(HTTPStatus.FORBIDDEN, "open the address that tools/feedback.py printed")
        return False

    def _answer(self, kind: str, data: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'; "
                         "script-src 'unsafe-inline'; frame-ancestors 'none'")  # fmt: skip
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """A line for each picture would be noise."""


PAGE = Path(__file__).with_name("feedback_page.html")


def label(options: argparse.Namespace, labels: Sequence[str], say: Callable[[str], object]) -> int:
    """The command `label`: serve the page until Ctrl-C. Raises OSError."""
    page = Page(Inbox(options.folder), labels)
    with make_server(page, options.port) as server:
        say(f"open http://127.0.0.1:{server.server_address[1]}/#{page.token}  (Ctrl-C when you are done)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            state = page.state()
            say(f"{state['done']} of {state['all']} have a label")
    return 0
