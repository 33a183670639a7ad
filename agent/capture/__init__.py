"""Frame sources: what gives frames, and one table of all kinds.

Importing this is cheap: OpenCV and PyAV come in with the first source that needs them.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agent.capture.frames import MAX_SIDE_PX
from agent.config import CameraSource, FileSource, SourceSpec, StreamSource, SyntheticSource
from agent.values import Frame


class FrameSource(Protocol):
    """One opening of a camera, stream, recording or generator. Make a new object for the next opening.

    All but `interrupt` belongs to one thread; a thread that never comes back from `read` keeps its source for itself.
    """

    name: str
    """How messages call it: `camera /dev/video0`, `rtsp://10.0.0.5/live`. Without secrets."""
    broken: int
    """Frames that were left out because they were damaged. May be read from any thread."""

    def open(self, first_index: int = 0) -> None:
        """Get ready to read; the first frame will have this index.

        Raises:
            SourceUnusable: it can never work as configured.
            SourceError: it is away or refuses; trying again later makes sense.
        """

    def read(self) -> Frame | None:
        """Wait for the next sound frame; None at the end of a recording.

        May take longer than the source's read timeout, or hang in a driver: `Reader` is the guard against that.

        Raises:
            SourceUnusable: a recording without a single readable frame.
            SourceError: the source is lost, or it was interrupted.
        """

    def interrupt(self) -> None:
        """Have `read` come back soon with SourceError, now and from now on. From any thread, at any time."""

    def close(self) -> None:
        """Give the device, connection or file back. Again, after a failure or without an open it does nothing."""


def _camera(spec: CameraSource) -> FrameSource:
    from agent.capture.camera import Camera

    return Camera(spec)


def _stream(spec: StreamSource) -> FrameSource:
    from agent.capture.stream import Stream

    return Stream(spec)


def _file(spec: FileSource) -> FrameSource:
    from agent.capture.file import Recording

    return Recording(spec)


def _synthetic(spec: SyntheticSource) -> FrameSource:
    from agent.capture.synthetic import Synthetic

    return Synthetic(spec)


SOURCES: Mapping[type[SourceSpec], Callable[[Any], FrameSource]] = {
    CameraSource: _camera,
    StreamSource: _stream,
    FileSource: _file,
    SyntheticSource: _synthetic,
}
"""Every kind of source."""


def make_source(spec: SourceSpec) -> FrameSource:
    """The source that this part of the configuration describes; not open yet."""
    return SOURCES[type(spec)](spec)


def stall_timeout_s(spec: SourceSpec) -> float | None:
    """How long the source may be silent before it counts as lost; None for those that keep their own pace."""
    return spec.read_timeout_s if isinstance(spec, CameraSource | StreamSource) else None


def prepare_environment(specs: Iterable[SourceSpec]) -> None:
    """Set the environment variables that OpenCV reads when it is imported; call it before that. Set ones stay.

    A V4L2 read that gets no frame blocks for OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT, 10 s by default, and only this
    variable changes it: whole seconds, one value for the process, so the longest that a camera asks for. Larger
    pictures than a frame may be are refused before they are decoded.
    """
    timeouts = [math.ceil(spec.read_timeout_s) for spec in specs if isinstance(spec, CameraSource)]
    wanted = {"OPENCV_IO_MAX_IMAGE_WIDTH": MAX_SIDE_PX, "OPENCV_IO_MAX_IMAGE_HEIGHT": MAX_SIDE_PX}
    if timeouts:
        wanted["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = max(timeouts)
    for name, value in wanted.items():
        if not os.environ.get(name):  # empty is as good as unset to us, and makes OpenCV raise
            os.environ[name] = str(value)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its warnings repeat in more lines what our errors say
