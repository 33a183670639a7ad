"""Pictures out of a container, through PyAV (FFmpeg): what network cameras and video files have in common."""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from agent.capture.frames import MAX_SIDE_PX, Shot, fits
from agent.errors import SourceError, SourceUnusable
from agent.values import Image

AV_OPTIONS = {"max_pixels": str(MAX_SIDE_PX * MAX_SIDE_PX)}
"""For every container and decoder: a damaged header can't ask for gigabytes."""

_FALLBACK_RATE = Fraction(25)


class NoVideo(ValueError):  # noqa: N818 - what the container lacks
    """There is nothing in this container that could be decoded to pictures."""


class Decoder:
    """The first video track of an open container. Damaged pictures are left out and counted."""

    def __init__(self, container: InputContainer, thread_type: Literal["SLICE", "AUTO"]) -> None:
        """Take over the container.

        `thread_type`: SLICE gives each picture at once; AUTO may work on several at a time, faster but later.

        Raises:
            NoVideo: there is no track in it, or no decoder for it. The container is closed.
        """
        self._container = container
        if not container.streams.video or not container.streams.video[0].codec_context:
            container.close()
            raise NoVideo("no video in it that can be decoded")
        track = container.streams.video[0]
        track.thread_type = thread_type
        # By default FFmpeg's JPEG decoder makes up what is missing and says nothing. H.264 may conceal small losses.
        explode = {"err_detect": "explode"} if track.codec_context.name == "mjpeg" else {}
        track.codec_context.options = AV_OPTIONS | explode
        self.start = (track.start_time or 0) * (track.time_base or Fraction(0))
        """Where the track's clock starts, in seconds."""
        self.rate = track.average_rate or _FALLBACK_RATE
        """Pictures a second, as the container says."""
        self.broken = 0
        self._packets: Iterator[Packet[VideoStream]] = container.demux(track)
        self._reformatter = VideoReformatter()  # one for all: it keeps its tables from picture to picture

    def next_packet(self) -> "Packet[VideoStream] | None":
        """The next packet; empty ones, to flush the decoder, at the end; then None.

        Raises:
            av.FFmpegError: nothing more can be read.
        """
        return next(self._packets, None)

    def decode(self, packet: "Packet[VideoStream]") -> list[VideoFrame]:
        """The sound pictures that this packet completes: none, one, or several at the end."""
        try:
            pictures = packet.decode()
        except av.FFmpegError:
            self.broken += 1
            return []
        sound = [picture for picture in pictures if not picture.is_corrupt and fits(picture.width, picture.height)]
        self.broken += len(pictures) - len(sound)
        return sound

    def to_bgr(self, picture: VideoFrame) -> Image:
        """H x W x 3, BGR, uint8, and upright: a phone's clip says in a matrix how the phone was held."""
        image = self._reformatter.reformat(picture, format="bgr24").to_ndarray()
        if picture.rotation and picture.rotation % 90 == 0:
            image = np.rot90(image, picture.rotation // 90)
        return np.ascontiguousarray(image, dtype=np.uint8)

    def close(self) -> None:
        """Close the container, and let go of the decoder: its threads end with it."""
        self._packets = iter(())
        self._container.close()


class Clip:
    """A video file once from start to end."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            SourceUnusable: it is not a video.
        """
        self._path = path
        try:
            self._decoder = Decoder(av.open(str(path), options=AV_OPTIONS), "AUTO")
        except av.FFmpegError as exc:
            raise SourceUnusable(f"{path}: neither a picture nor a video: {reason(exc)}") from exc
        except NoVideo as exc:
            raise SourceUnusable(f"{path}: {exc}") from exc
        self._period_ns = round(1_000_000_000 / self._decoder.rate)
        self._end_ns = 0
        self._pending: deque[VideoFrame] = deque()

    @property
    def broken(self) -> int:
        return self._decoder.broken

    def next(self) -> Shot | None:
        while not self._pending:
            packet = self._next_packet()
            if packet is None:
                return None
            self._pending.extend(self._decoder.decode(packet))
        picture = self._pending.popleft()
        position_ns = self._end_ns  # pictures without a time follow each other at the clip's rate
        if picture.pts is not None and picture.time_base is not None:
            position_ns = max(0, round((picture.pts * picture.time_base - self._decoder.start) * 1_000_000_000))
        self._end_ns = position_ns + self._period_ns
        return Shot(self._decoder.to_bgr(picture), position_ns, self._period_ns)

    def close(self) -> None:
        self._pending.clear()
        self._decoder.close()

    def _next_packet(self) -> "Packet[VideoStream] | None":
        try:
            return self._decoder.next_packet()
        except av.InvalidDataError:
            self._decoder.broken += 1  # a file that was cut off ends here
            return None
        except av.FFmpegError as exc:
            raise SourceError(f"{self._path}: {reason(exc)}") from exc


def reason(error: av.FFmpegError) -> str:
    """What went wrong, without the file name or URL that the error's own text shows."""
    return str(error.strerror or type(error).__name__)
