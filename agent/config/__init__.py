"""Every option of the agent as frozen structs; `config.yaml` at the top of the repository shows them all.

`load_config(path)` gives a Config or raises ConfigError with the file, the line and the path of the key.
"""

import re
import socket
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.feedback import Drift, Feedback, Samples
from agent.config.section import Pixels, Port, Section
from agent.config.sources import (
    Argument,
    CameraSource,
    ChannelName,
    CsvSource,
    Delimiter,
    ExecSource,
    FileSource,
    JetsonSource,
    MicrophoneSource,
    ModbusRegister,
    ModbusSource,
    MqttPlace,
    MqttSource,
    PicameraSource,
    Places,
    SerialSource,
    SourceSpec,
    StreamSource,
    SyntheticSource,
    SysfsChannel,
    SysfsSource,
)
from agent.errors import ConfigError
from agent.manifest import Name, Positive, Share
from agent.runtime.units import ByteSize, Duration
from agent.runtime.yamlfile import DocumentError, load_document

__all__ = [
    "MIN_OUTBOX_BYTES",
    "Argument",
    "CameraSource",
    "ChannelName",
    "Config",
    "CsvSource",
    "Delegate",
    "Delimiter",
    "Device",
    "Drift",
    "Events",
    "ExecSource",
    "Feedback",
    "FileSource",
    "Gps",
    "JetsonSource",
    "Log",
    "Mask",
    "MicrophoneSource",
    "ModbusRegister",
    "ModbusSource",
    "Models",
    "Mqtt",
    "MqttPlace",
    "MqttSource",
    "Outbox",
    "PicameraSource",
    "Pipeline",
    "Places",
    "Results",
    "Samples",
    "SerialSource",
    "Snapshots",
    "SourceSpec",
    "StreamSource",
    "SyntheticSource",
    "SysfsChannel",
    "SysfsSource",
    "Telemetry",
    "Tls",
    "device_id",
    "load_config",
]

MIN_OUTBOX_BYTES = 1 << 20

Mask = tuple[Share, Share, Share, Share]


class Device(Section, frozen=True):
    """Who this device is."""

    id: Name | None = None
    """Name in topics, and the MQTT client id. Default: the host name."""
    groups: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Groups it belongs to, for commands and releases to many devices."""
    hardware: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=16)] = ()
    """More names for its hardware, for releases; the machine and the board's own names are always among them."""


class Tls(Section, frozen=True):
    """Encryption of the connection to the broker."""

    enabled: bool = False
    """Speak TLS; the port is usually 8883 then."""
    ca_file: str | None = None
    """Certificates that the broker's must chain to. Default: the system's."""
    cert_file: str | None = None
    """The device's own certificate, where the broker asks for one."""
    key_file: str | None = None
    """The key of that certificate."""
    warn_before: Duration = msgspec.field(default_factory=lambda: Duration(30 * 86400))
    """How long before their end certificates are complained about; less than they live."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file: expected both or neither")
        if not self.enabled and (self.ca_file or self.cert_file):  # it would speak without TLS, and nobody notice
            raise ValueError("enabled: expected true, since ca_file or cert_file is set")


class Mqtt(Section, frozen=True):
    """The broker; MQTT 5."""

    host: Annotated[str, Meta(min_length=1)] = "localhost"
    """The broker's name or address."""
    port: Port = 1883
    """Its port."""
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=128)] = "edge"
    """First level of every topic."""
    username: str | None = None
    """For brokers that ask for one. Default: the device id, when there is a password."""
    password_file: str | None = None
    """File with the password on its first line; under systemd, a credential."""
    tls: Tls = msgspec.field(default_factory=Tls)
    """Encryption."""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """A broker that says nothing for twice this is taken for gone; below 8 kB/s upwards it has to be longer."""
    max_in_flight: Annotated[int, Meta(ge=1, le=1000)] = 50
    """Messages sent and not yet acknowledged; the broker's own limit holds too."""


class Models(Section, frozen=True):
    """Where models are."""

    dir: str = "models"
    """Bundles: `{dir}/{name}/{version}/`. On a device: /var/lib/edge-agent/models."""
    trust: str | None = None
    """Trust document for releases. Default: none, and no release is accepted."""
    max_bytes: ByteSize = msgspec.field(default_factory=lambda: ByteSize(512 << 20))
    """Releases of larger bundles are refused."""
    healthy_after_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0
    """A start that lasts this long was a good one. After three others in a row a new model is taken back; after six
    the agent starts without inference, for ten minutes."""


class Results(Section, frozen=True):
    """Which results are published."""

    publish: Literal["all", "changes", "none"] = "all"
    """`changes`: only when the set of labels, or how many there are of one, is another than last time."""
    max_per_s: Positive | None = 10.0
    """More are left out (not queued); null: no limit."""


class Events(Section, frozen=True):
    """When something that was found becomes an event."""

    min_frames: Annotated[int, Meta(ge=1, le=1000)] = 3
    """A label has to be there in so many frames in a row before its event starts."""
    cooldown_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 5.0
    """A label has to be away for so long before its event ends; what comes back earlier goes on with the same event."""
    update_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 10.0
    """While an event lasts, an update this often; 0: none."""


class Snapshots(Section, frozen=True):
    """JPEG pictures."""

    on: Literal["events", "none"] = "events"
    """`events`: one at the start of each event."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 85
    """Of the JPEG; one over 960 KiB gets coarser, and then smaller, until a message takes it."""
    boxes: bool = True
    """Draw what was found; false: the bare frame."""
    max_width_px: Pixels | None = None
    """Wider frames are scaled down to this. Default: as captured."""


class Delegate(Section, frozen=True):
    """An accelerator for the model."""

    library: Annotated[str, Meta(min_length=1)]
    """Shared library, such as libedgetpu.so.1."""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    """What the library takes, such as `device: usb`."""
    fallback: Literal["none", "cpu"] = "none"
    """When the accelerator can't be used: stop with an error, or run on the CPU and say so."""


class Pipeline(Section, frozen=True):
    """One source through one model."""

    name: Name
    """In topics."""
    source: SourceSpec
    """Where frames come from."""
    model: Name
    """Name of a bundle in models.dir."""
    enabled: bool = True
    """false: nothing is captured until a `set` command turns it on."""
    min_confidence: Share = 0.5
    """What the model is less sure of is left out."""
    threads: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Threads of the interpreter. Default: what the manifest says."""
    delegate: Delegate | None = None
    """Accelerator. Default: the CPU."""
    infer_timeout_s: Annotated[float, Meta(gt=0.0, le=60.0)] = 10.0
    """A model that does not answer for this long is stopped and started again."""
    results: Results = Results()
    """Which results are published."""
    events: Events = Events()
    """When something that was found becomes an event."""
    snapshots: Snapshots = Snapshots()
    """When pictures are published."""
    privacy_masks: Annotated[tuple[Mask, ...], Meta(max_length=64)] = ()
    """Boxes that are black before anything looks at a frame: left, top, right, bottom, as shares of it."""
    feedback: Feedback = msgspec.field(default_factory=Feedback)
    """Which frames are kept to learn from."""
    drift: Drift = Drift()
    """Whether frames are still like those that the model was measured on."""

    def __post_init__(self) -> None:
        for place, (left, top, right, bottom) in enumerate(self.privacy_masks):
            if left >= right or top >= bottom:
                raise ValueError(f"privacy_masks[{place}]: expected left < right and top < bottom")


class Outbox(Section, frozen=True):
    """Where messages wait for the broker."""

    dir: str = "outbox"
    """On a device: /var/lib/edge-agent/outbox."""
    max_bytes: ByteSize = msgspec.field(default_factory=lambda: ByteSize(256 << 20))
    """Over this the oldest are dropped, counted, and announced by a gap message."""
    max_age: Duration = msgspec.field(default_factory=lambda: Duration(7 * 86400))
    """Older ones are dropped likewise."""
    durability: Literal["balanced", "power"] = "balanced"
    """`power`: on the disk before accepted, so a power cut loses nothing; `balanced`: at most the last second."""
    trim: Literal["broker", "collector"] = "broker"
    """Who says that a message is done with: the broker, which may forget it, or a collector, which has stored it."""
    resend_after: Duration = msgspec.field(default_factory=lambda: Duration(30))
    """With trim: collector, what it has not acknowledged for so long is sent again."""
    keep_sent: ByteSize = msgspec.field(default_factory=lambda: ByteSize(0))
    """So much of what is done with is kept for `edge-agent results`, beside max_bytes."""

    def __post_init__(self) -> None:
        if self.resend_after < 1:
            raise ValueError("resend_after: expected at least 1s")
        if self.max_bytes < MIN_OUTBOX_BYTES:
            raise ValueError(f"max_bytes: expected at least 1MiB, got {int(self.max_bytes)} bytes")


class Telemetry(Section, frozen=True):
    """The device's own state."""

    interval_s: Annotated[float, Meta(ge=1.0, le=86400.0)] = 30.0
    """How often it is published."""


class Gps(Section, frozen=True):
    """A satellite receiver behind gpsd; its position goes into results, events and telemetry."""

    enabled: bool = False
    """Connect to gpsd."""
    host: Annotated[str, Meta(min_length=1)] = "localhost"
    """Where gpsd runs."""
    port: Port = 2947
    """Its port."""
    max_age_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 10.0
    """An older position is no longer told."""


class Log(Section, frozen=True):
    """The agent's log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Less important lines are left out."""
    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, JSON elsewhere."""


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    device: Device = Device()
    """Who this device is."""
    mqtt: Mqtt = msgspec.field(default_factory=Mqtt)
    """The broker."""
    models: Models = msgspec.field(default_factory=Models)
    """Where models are."""
    pipelines: Annotated[tuple[Pipeline, ...], Meta(min_length=1, max_length=64)]
    """One source through one model each; they run side by side."""
    outbox: Outbox = msgspec.field(default_factory=Outbox)
    """Where messages wait for the broker."""
    telemetry: Telemetry = Telemetry()
    """The device's own state."""
    gps: Gps = Gps()
    """A satellite receiver behind gpsd."""
    samples: Samples = Samples()
    """Where frames are kept to learn from."""
    log: Log = Log()
    """The agent's log."""

    def __post_init__(self) -> None:
        names = [pipeline.name for pipeline in self.pipelines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"pipelines: the name {twice[0]} is there twice")


def load_config(path: Path) -> Config:
    """Read and check the configuration.

    Raises:
        ConfigError: one line with the file, the line, the path of the key, what was expected and what is there.
    """
    try:
        return load_document(path, Config)
    except DocumentError as exc:
        raise ConfigError(str(exc)) from exc


def device_id(config: Config) -> str:
    """The device's name in topics: as configured, or the host name in lower case without its domain.

    Raises:
        ConfigError: the host name can't stand in a topic.
    """
    if config.device.id is not None:
        return config.device.id
    host = socket.gethostname().split(".")[0].lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", host):
        raise ConfigError(
            f"device.id: the host name {host!r} can't stand in a topic; set device.id to a name like cam-1"
        )
    return host
