"""Network cameras: RTSP, and MJPEG over HTTP, through PyAV (FFmpeg)."""

import errno
import re
import time
from collections import deque
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from agent.capture.frames import first_frame_s, make_frame
from agent.capture.video import AV_OPTIONS, Decoder, NoVideo, reason
from agent.config import StreamSource
from agent.errors import SourceError, SourceUnusable
from agent.values import Frame

_MIN_OPEN_TIMEOUT_S = 5.0


class Stream:
    """One connection to a network camera. `captured_ns` is when a picture arrived."""

    def __init__(self, spec: StreamSource) -> None:
        self.name = shown_url(spec.url)
        self.broken = 0
        self._spec = spec
        self._decoder: Decoder | None = None
        self._pending: deque[tuple[VideoFrame, int]] = deque()
        self._index = 0
        self._first = True
        self._interrupted = False

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        url = full_url(self._spec)
        http = urlsplit(url).scheme in ("http", "https")
        timeouts_s = (max(_MIN_OPEN_TIMEOUT_S, self._spec.read_timeout_s), self._spec.read_timeout_s)
        began_s = time.monotonic()
        try:
            # The format is said, not guessed: a playlist that a web server sends can't make FFmpeg open other things.
            container = av.open(url, format="mpjpeg" if http else None, options=self._options(http), timeout=timeouts_s)
            self._decoder = Decoder(container, "SLICE")
        except av.FFmpegError as exc:
            problem = _explain(exc)
        except NoVideo as exc:
            problem = str(exc)
        else:
            return
        if time.monotonic() - began_s > self._spec.read_timeout_s:
            problem = f"no answer for {time.monotonic() - began_s:.1f} s"  # FFmpeg's RTSP says "invalid data" to that
        raise SourceError(f"{self.name}: {problem}")  # not inside `except`: FFmpeg's error shows the password

    def read(self) -> Frame | None:
        if self._decoder is None or self._interrupted:
            raise SourceError(f"{self.name}: closed")
        limit_s = first_frame_s(self._spec.read_timeout_s) if self._first else self._spec.read_timeout_s
        began_s = time.monotonic()
        while not self._pending:
            packet = self._next_packet(self._decoder)
            arrived_ns = time.monotonic_ns()
            # After a stall FFmpeg still hands out, with success, what it had buffered before: only the clock tells.
            if time.monotonic() - began_s > limit_s:
                raise SourceError(f"{self.name}: no frame for {time.monotonic() - began_s:.1f} s")
            self._pending.extend((picture, arrived_ns) for picture in self._decoder.decode(packet))
            self.broken = self._decoder.broken
        picture, arrived_ns = self._pending.popleft()
        frame = make_frame(self._decoder.to_bgr(picture), self._index, arrived_ns)
        self._index += 1
        self._first = False
        return frame

    def interrupt(self) -> None:
        self._interrupted = True  # seen when FFmpeg comes back, which its own timeout takes care of

    def close(self) -> None:
        self._interrupted = True
        self._pending.clear()
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def _next_packet(self, decoder: Decoder) -> "Packet[VideoStream]":
        try:
            packet = decoder.next_packet()
        except av.FFmpegError as exc:
            problem = _explain(exc)
        else:
            if packet is not None and not self._interrupted:
                return packet
            problem = "closed" if self._interrupted else "the other side ended the stream"  # a killed server, too
        raise SourceError(f"{self.name}: {problem}")

    def _options(self, http: bool) -> dict[str, str]:
        """FFmpeg's options: find out about the stream from little of it (64 KiB, 0.2 s), so that opening is quick."""
        options = {**AV_OPTIONS, "probesize": "65536", "analyzeduration": "200000"}
        if http:
            return options | {"rw_timeout": str(int(self._spec.read_timeout_s * 1_000_000))}
        return options | {"rtsp_transport": self._spec.transport}


def shown_url(url: str) -> str:
    """The URL as messages may show it: without user, password, and anything that looks like a parameter."""
    try:
        parts = urlsplit(url)
    except ValueError:  # open() says more
        return f"{url.partition('://')[0]}://"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{re.split('[?=&;]', parts.path)[0]}"


def full_url(spec: StreamSource) -> str:
    """The URL to connect to, with the password from the file.

    Raises:
        SourceUnusable: the file can't be read, the URL names no user for the password, or is none.
    """
    try:
        parts = urlsplit(spec.url)
    except ValueError as exc:
        raise SourceUnusable(f"{shown_url(spec.url)}: not a URL: {exc}") from exc
    if spec.password_file is None:
        return spec.url
    login, _, host = parts.netloc.rpartition("@")
    user = login.partition(":")[0]
    if not user:
        raise SourceUnusable(
            f"{shown_url(spec.url)}: password_file needs a user in the URL: {parts.scheme}://USER@{host}/..."
        )
    try:
        password = Path(spec.password_file).read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceUnusable(f"password_file {spec.password_file}: {getattr(exc, 'strerror', 'not UTF-8')}") from exc
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def _explain(error: av.FFmpegError) -> str:
    """One line for the user, without FFmpeg's file name: that is the URL with the password."""
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "refused the user or the password (in the URL; password_file)"
    if isinstance(error, av.error.ExitError):  # PyAV's timeout interrupts FFmpeg: "Immediate exit requested"
        return "no answer in time"
    if error.errno == errno.EIO:
        return "the connection was cut"
    return reason(error)
