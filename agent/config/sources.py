"""Where frames come from: one struct for each kind of source, told apart by `type`."""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from agent.config.section import Pixels, Port, Seconds, Section
from agent.manifest import Positive

Argument = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]*$")]
"""Of a program."""

ChannelName = Annotated[str, Meta(min_length=1, max_length=64)]
Places = (
    Annotated[tuple[ChannelName, ...], Meta(min_length=1, max_length=256)]
    | Annotated[
        dict[ChannelName, Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=0, lt=1024)]],
        Meta(min_length=1, max_length=256),
    ]
)
"""Channels of a line, and where in it each is. JSON: a path such as `sensor.temperature`; CSV: the number of a column,
from 0, or what stands in the header. A mere list: paths equal to the names, or columns in this order."""
Delimiter = Annotated[str, Meta(pattern=r"^[,;:|/\t ]$")]


class CameraSource(Section, frozen=True, tag_field="type", tag="camera"):
    """A V4L2 camera."""

    device: Annotated[int, Meta(ge=0, le=255)] | str = 0
    """Index of /dev/videoN, or a path; /dev/v4l/by-id/... stays the same when the camera is plugged in elsewhere."""
    width: Pixels = 640
    """Of the pictures to ask for."""
    height: Pixels = 480
    """Of the pictures to ask for."""
    fps: Positive = 15.0
    """Frames a second to ask for."""
    format: Annotated[str, Meta(pattern=r"^[A-Z0-9]{4}$")] = "MJPG"
    """Pixel format to ask for, as a FOURCC; most cameras reach their full rate only with MJPG."""
    read_timeout_s: Seconds = 1.5
    """A camera that gives no frame for this long is opened again."""


class StreamSource(Section, frozen=True, tag_field="type", tag="stream"):
    """A network camera: RTSP, or MJPEG over HTTP."""

    url: Annotated[str, Meta(pattern=r"^(rtsp|rtsps|http|https)://.+")]
    """Address of the stream, with the user name if there is one, without the password."""
    password_file: str | None = None
    """File with the password for the user name in the URL; keeps it out of this file and of logs."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP carries the pictures."""
    read_timeout_s: Seconds = 5.0
    """A stream that gives no new frame for this long is opened again."""


class FileSource(Section, frozen=True, tag_field="type", tag="file"):
    """A video, a picture, a folder of pictures, or sound (WAV)."""

    path: Annotated[str, Meta(min_length=1)]
    """The video, the picture, the folder or the sound."""
    loop: bool = False
    """Start again at the end."""
    realtime: bool = True
    """Keep to the recording's own pace; false: as fast as it goes."""
    fps: Positive = 10.0
    """Rate for pictures; a video brings its own."""
    channel: Annotated[int, Meta(ge=0, le=63)] | None = None
    """Of sound with several channels, from 0. Default: their mean."""


class SyntheticSource(Section, frozen=True, tag_field="type", tag="synthetic"):
    """Computed frames with known content: a bright square on a moving background."""

    width: Pixels = 640
    """Of the frames."""
    height: Pixels = 480
    """Of the frames."""
    fps: Positive = 15.0
    """Frames a second."""
    frames: Annotated[int, Meta(ge=1)] | None = None
    """How many. Default: no end."""


class ExecSource(Section, frozen=True, kw_only=True, tag_field="type", tag="exec"):
    """Any program that writes pictures, or lines with readings, to its standard output."""

    command: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=256)]
    """The program and its arguments; no shell looks at them."""
    output: Literal["mjpeg", "i420", "bgr24", "gray8", "json", "csv"] = "mjpeg"
    """What it writes: JPEG pictures one after the other, raw ones without padding at the ends of lines, or a line for
    each reading: an object in JSON, or numbers with a delimiter between them."""
    width: Pixels | None = None
    """Of raw pictures; JPEG brings its own size."""
    height: Pixels | None = None
    """Of raw pictures; JPEG brings its own size."""
    channels: Places | None = None
    """Of lines: names, and where each is in a line: path in the JSON, or column."""
    delimiter: Delimiter = ","
    """Between the columns of CSV."""
    read_timeout_s: Seconds = 5.0
    """A program that gives no picture or reading for this long is ended and started again."""

    def __post_init__(self) -> None:
        if not self.command[0]:
            raise ValueError("command: expected a program first, got an empty name")
        sides_px = [side_px for side_px in (self.width, self.height) if side_px is not None]
        is_text = self.output in ("json", "csv")
        if is_text != (self.channels is not None):
            raise ValueError(f"channels: expected {'some' if is_text else 'none'} with output {self.output}")
        _check_twice(self.channels or ())
        if self.output in ("mjpeg", "json", "csv") and sides_px:
            raise ValueError(f"width and height: only for raw output, not for {self.output}")
        if self.output not in ("mjpeg", "json", "csv") and len(sides_px) < 2:
            raise ValueError(f"width and height: expected both with output {self.output}")
        if self.output == "i420" and any(side_px % 2 for side_px in sides_px):
            raise ValueError("width and height: expected even numbers with output i420")


class PicameraSource(Section, frozen=True, tag_field="type", tag="picamera"):
    """A CSI camera on a Raspberry Pi, through rpicam-vid."""

    camera: Annotated[int, Meta(ge=0, le=15)] = 0
    """Its number in `rpicam-hello --list-cameras`."""
    width: Pixels = 640
    """Of the pictures."""
    height: Pixels = 480
    """Of the pictures."""
    fps: Positive = 15.0
    """Frames a second."""
    args: Annotated[tuple[Argument, ...], Meta(max_length=64)] = ()
    """More arguments for rpicam-vid, such as `[--rotation, "180"]`."""
    read_timeout_s: Seconds = 5.0
    """A camera that gives no frame for this long is opened again."""


class JetsonSource(Section, frozen=True, tag_field="type", tag="jetson"):
    """A CSI camera on a Jetson, through gst-launch-1.0 and nvarguscamerasrc."""

    sensor_id: Annotated[int, Meta(ge=0, le=15)] = 0
    """Number of the camera."""
    width: Pixels = 640
    """Of the pictures."""
    height: Pixels = 480
    """Of the pictures."""
    fps: Positive = 15.0
    """Frames a second."""
    flip_method: Annotated[int, Meta(ge=0, le=7)] = 0
    """Of nvvidconv: 0 leaves pictures as they are, 2 turns them by 180 degrees, 4 mirrors them."""
    read_timeout_s: Seconds = 5.0
    """A camera that gives no frame for this long is opened again."""


class MicrophoneSource(Section, frozen=True, tag_field="type", tag="microphone"):
    """A microphone, through ALSA's arecord."""

    device: Annotated[str, Meta(pattern=r"^[^-\x00][^\x00]*$", max_length=256)] = "default"
    """ALSA's name of it, as `arecord -L` lists them; plughw:CARD=... stays the same when it is plugged in elsewhere."""
    rate_hz: Annotated[int, Meta(ge=4000, le=192000)] = 16000
    """Samples a second to ask for; ALSA converts, and so does the agent where the model wants another rate."""
    channels: Annotated[int, Meta(ge=1, le=32)] = 1
    """To record; what the device has more is mixed by ALSA."""
    channel: Annotated[int, Meta(ge=0, le=31)] | None = None
    """Which of them to listen to, from 0. Default: their mean."""
    read_timeout_s: Seconds = 2.0
    """A microphone that gives nothing for this long is opened again."""

    def __post_init__(self) -> None:
        if self.device.startswith("hw:"):
            raise ValueError(f"device: expected plug{self.device}, which converts rates, got {self.device}")
        if self.channel is not None and self.channel >= self.channels:
            raise ValueError(f"channel: expected less than {self.channels} (channels), got {self.channel}")


def _check_twice(channels: Iterable[str]) -> None:
    """Raises ValueError when a name is there twice."""
    names = list(channels)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"channels: the name {twice[0]} is there twice")


class SysfsChannel(Section, frozen=True):
    """One file below /sys with one number in it."""

    path: Annotated[str, Meta(pattern=r"^/.+", max_length=1024)]
    """The file; * and ? stand for anything, as long as just one file fits. A `_raw` of IIO is taken with the `_scale`
    and `_offset` beside it; a `w1_slave` is checked and gives thousandths of a degree."""
    scale: float = 1.0
    """The value is number * scale + offset; hwmon, thermal zones and 1-wire count in thousandths: 0.001."""
    offset: float = 0.0
    """Added after scaling."""


class SysfsSource(Section, frozen=True, kw_only=True, tag_field="type", tag="sysfs"):
    """Sensors that the kernel has drivers for: IIO, hwmon, thermal zones, 1-wire."""

    channels: Annotated[dict[ChannelName, SysfsChannel], Meta(min_length=1, max_length=256)]
    """One file each."""
    interval_s: Annotated[float, Meta(ge=0.001, le=86400.0)] = 1.0
    """From one reading to the next."""
    read_timeout_s: Seconds = 5.0
    """Files that don't answer for this long are opened again; 1-wire takes a second for each sensor."""


class SerialSource(Section, frozen=True, kw_only=True, tag_field="type", tag="serial"):
    """A microcontroller that writes a line for each reading to a serial port."""

    device: Annotated[str, Meta(pattern=r"^/.+")]
    """The port; /dev/serial/by-id/... stays the same when it is plugged in elsewhere."""
    baud: Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600] = 115200
    """Its speed; 8 bits, no parity, 1 stop bit."""
    format: Literal["json", "csv"] = "json"
    """What a line is: an object in JSON, or numbers with a delimiter between them."""
    channels: Places
    """Names, and where each is in a line: path in the JSON, or column."""
    delimiter: Delimiter = ","
    """Between the columns of CSV."""
    read_timeout_s: Seconds = 10.0
    """A port that gives no reading for this long is opened again."""

    def __post_init__(self) -> None:
        _check_twice(self.channels)


class MqttPlace(Section, frozen=True):
    """Where a channel is, for those that come with another topic."""

    topic: Annotated[str, Meta(pattern=r"^[^#+\x00]+$", max_length=1024)]
    """The topic, without # and +."""
    path: Annotated[str, Meta(max_length=256)] = ""
    """Path in the JSON; empty: the payload is the number."""


class MqttSource(Section, frozen=True, kw_only=True, tag_field="type", tag="mqtt"):
    """Readings of other devices, as JSON or bare numbers on topics of the same broker, such as Zigbee2MQTT's."""

    topic: Annotated[str, Meta(pattern=r"^[^#+\x00]+$", max_length=1024)]
    """Where readings come, without # and +; the broker has to let the agent read it."""
    channels: Annotated[
        dict[ChannelName, Annotated[str, Meta(max_length=256)] | MqttPlace], Meta(min_length=1, max_length=256)
    ]
    """Names, and the path of each in the JSON; empty: the payload is the number. {topic, path}: on another topic."""
    read_timeout_s: Seconds | None = 7200.0
    """A source without a reading for this long counts as lost; null: never."""


class CsvSource(Section, frozen=True, kw_only=True, tag_field="type", tag="csv"):
    """Recorded readings: a table with a header, a line for each."""

    path: Annotated[str, Meta(min_length=1)]
    """The file."""
    channels: Annotated[tuple[ChannelName, ...], Meta(min_length=1, max_length=256)] | None = None
    """Columns by their header. Default: all that hold numbers."""
    time_column: ChannelName | None = None
    """Header of the column with the time: RFC 3339, or seconds. Default: none, rows follow each other at `rate_hz`."""
    rate_hz: Positive = 1.0
    """Of the rows, without a time column."""
    delimiter: Delimiter = ","
    """Between the columns."""
    loop: bool = False
    """Start again at the end."""
    realtime: bool = True
    """Keep to the times of the rows; false: as fast as it goes."""

    def __post_init__(self) -> None:
        _check_twice(self.channels or ())


class ModbusRegister(Section, frozen=True):
    """One value of a Modbus device."""

    address: Annotated[int, Meta(ge=0, le=65535)]
    """From 0, as on the wire: what manuals call 40001 is holding register 0."""
    kind: Literal["holding", "input"] = "holding"
    """Which table it is in."""
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "int16"
    """What it holds; 32 bits are two registers, the high half first."""
    scale: float = 1.0
    """The value is number * scale + offset."""
    offset: float = 0.0
    """Added after scaling."""

    def __post_init__(self) -> None:
        if self.address == 65535 and self.type.endswith("32"):
            raise ValueError(f"address: {self.type} takes two registers, and 65535 is the last")


class ModbusSource(Section, frozen=True, kw_only=True, tag_field="type", tag="modbus"):
    """Registers of an industrial device, over Modbus TCP; needs `pip install 'edge-agent[modbus]'`."""

    host: Annotated[str, Meta(min_length=1)]
    """The device's name or address, or its gateway's."""
    port: Port = 502
    """Its port."""
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    """Which device behind the gateway."""
    registers: Annotated[dict[ChannelName, ModbusRegister], Meta(min_length=1, max_length=256)]
    """Channels, and the register of each."""
    interval_s: Annotated[float, Meta(ge=0.001, le=86400.0)] = 1.0
    """From one reading to the next."""
    read_timeout_s: Seconds = 3.0
    """A device that does not answer for this long is connected to again."""


SourceSpec = (
    CameraSource
    | StreamSource
    | FileSource
    | SyntheticSource
    | ExecSource
    | PicameraSource
    | JetsonSource
    | MicrophoneSource
    | SysfsSource
    | SerialSource
    | MqttSource
    | CsvSource
    | ModbusSource
)
