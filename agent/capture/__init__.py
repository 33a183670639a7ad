"""Frame sources: what gives frames, and one table of all kinds.

Importing this is cheap: OpenCV and PyAV come in with the first source that needs them.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from agent.capture.frames import MAX_SIDE_PX
from agent.config import (
    CameraSource,
    CsvSource,
    ExecSource,
    FileSource,
    JetsonSource,
    MicrophoneSource,
    ModbusSource,
    MqttSource,
    PicameraSource,
    SerialSource,
    SourceSpec,
    StreamSource,
    SyntheticSource,
    SysfsSource,
)
from agent.errors import SourceError
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


class Feed(Protocol):
    """Messages of some topics, from whatever connection brings them. Belongs to one thread, save `close`."""

    def take(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next message, topic and payload, in the order they came; None when none came in time.

        Raises:
            SourceError: the broker refuses one of the topics, or the feed was closed.
        """

    @property
    def dropped(self) -> int:
        """Messages that came faster than they were taken."""
        ...

    def close(self) -> None:
        """Nobody wants these messages any more. From any thread; again it does nothing."""


Subscribe = Callable[[Sequence[str]], Feed]
"""How a source gets at topics: the daemon has the one connection to the broker."""


def not_connected(topics: Sequence[str]) -> Feed:
    """Stands for the connection where there is none, as in `check` and `bench`."""
    raise SourceError(f"there is no connection to {', '.join(topics)[:200]} here; `edge-agent run` has one")


def _camera(spec: CameraSource) -> FrameSource:
    from agent.capture.camera import Camera

    return Camera(spec)


def _stream(spec: StreamSource) -> FrameSource:
    from agent.capture.stream import Stream

    return Stream(spec)


def _file(spec: FileSource) -> FrameSource:
    if spec.path.lower().endswith(".wav"):
        from agent.capture.wav import WavRecording

        return WavRecording(spec)
    from agent.capture.file import Recording

    return Recording(spec)


def _synthetic(spec: SyntheticSource) -> FrameSource:
    from agent.capture.synthetic import Synthetic

    return Synthetic(spec)


def _exec(spec: ExecSource) -> FrameSource:
    if spec.channels is not None:
        from agent.capture.lines import make_lines

        return make_lines(spec)
    from agent.capture.pipe import Pipe

    return Pipe(spec)


def _picamera(spec: PicameraSource) -> FrameSource:
    from agent.capture.pipe import Pipe
    from agent.capture.recipes import recipe

    return Pipe(recipe(spec), f"picamera {spec.camera}")


def _jetson(spec: JetsonSource) -> FrameSource:
    from agent.capture.pipe import Pipe
    from agent.capture.recipes import recipe

    return Pipe(recipe(spec), f"jetson {spec.sensor_id}")


def _microphone(spec: MicrophoneSource) -> FrameSource:
    from agent.capture.microphone import Microphone

    return Microphone(spec)


def _sysfs(spec: SysfsSource) -> FrameSource:
    from agent.capture.sysfs import make_sysfs

    return make_sysfs(spec)


def _serial(spec: SerialSource) -> FrameSource:
    from agent.capture.serial import make_serial

    return make_serial(spec)


def _csv(spec: CsvSource) -> FrameSource:
    from agent.capture.table import Table

    return Table(spec)


def _modbus(spec: ModbusSource) -> FrameSource:
    from agent.capture.modbus import make_modbus

    return make_modbus(spec)


def _mqtt(spec: MqttSource, subscribe: Subscribe = not_connected) -> FrameSource:
    from agent.capture.mqtt import Topics

    return Topics(spec, subscribe)


SOURCES: Mapping[type[SourceSpec], Callable[[Any], FrameSource]] = {
    CameraSource: _camera,
    StreamSource: _stream,
    FileSource: _file,
    SyntheticSource: _synthetic,
    ExecSource: _exec,
    PicameraSource: _picamera,
    JetsonSource: _jetson,
    MicrophoneSource: _microphone,
    SysfsSource: _sysfs,
    SerialSource: _serial,
    CsvSource: _csv,
    ModbusSource: _modbus,
    MqttSource: _mqtt,
}
"""Every kind of source."""


def make_source(spec: SourceSpec, subscribe: Subscribe = not_connected) -> FrameSource:
    """The source that this part of the configuration describes; not open yet. `subscribe` is for readings over MQTT."""
    if isinstance(spec, MqttSource):
        return _mqtt(spec, subscribe)
    return SOURCES[type(spec)](spec)


def stall_timeout_s(spec: SourceSpec) -> float | None:
    """How long the source may be silent before it counts as lost; None for those that keep their own pace."""
    if isinstance(spec, FileSource | SyntheticSource | CsvSource):
        return None
    if isinstance(spec, SysfsSource | ModbusSource):
        return spec.interval_s + spec.read_timeout_s
    return spec.read_timeout_s


def retry_cap_s(spec: SourceSpec) -> float:
    """The longest pause before the source is opened again: one on this device costs nobody else anything."""
    return 15.0 if isinstance(spec, StreamSource | ModbusSource) else 2.0


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
