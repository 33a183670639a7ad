"""What every source of samples promises, held against each kind of them; sensors that really answer, and really go."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from agent.capture import FrameSource, make_source
from agent.capture import reader as reader_module
from agent.capture.reader import Reader
from agent.capture.sysfs import make_sysfs
from agent.config import (
    CsvSource,
    ExecSource,
    FileSource,
    MicrophoneSource,
    ModbusRegister,
    ModbusSource,
    MqttSource,
    SerialSource,
    SysfsChannel,
    SysfsSource,
)
from agent.errors import SourceError, SourceUnusable
from agent.mqtt.feeds import Feeds
from agent.mqtt.inbox import Inbox, Router
from tests.broker.rig import Publisher, make_link
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fake_arecord import path_with, put_arecord
from tests.sim.sensors import ModbusDevice, Repeater, SerialDevice, hanging_file
from tests.sim.wavs import write_wav

OPEN_FILES = Path("/proc/self/fd")
CHANNELS = ("temperature", "humidity")
LINE = b'{"temperature": 21.5, "humidity": 40}\n'


def nothing() -> None:
    pass


@dataclass
class Rig:
    """A sensor that gives the same values again and again, and what can be done to it."""

    make: Callable[[], FrameSource]
    make_bad: Callable[[], FrameSource]
    """Where nothing is, or nothing usable."""
    lose: Callable[[], object] = nothing
    """Take it away."""
    bring_back: Callable[[], object] = nothing
    silence: Callable[[], object] = nothing
    """Let it say nothing more, without an error."""
    channels: tuple[str, ...] = CHANNELS
    values: tuple[float, ...] | None = (21.5, 40.0)
    """None: any."""
    samples: int = 1
    """In a frame."""
    rate_hz: float | None = None
    is_recording: bool = False


@contextlib.contextmanager
def sysfs(folder: Path) -> Iterator[Rig]:
    sensor = folder / "sys/bus/iio/devices/iio:device0"

    def plug_in() -> None:
        sensor.mkdir(parents=True, exist_ok=True)
        (sensor / "in_temp_input").write_text("21500\n")
        (sensor / "in_humidity_input").write_text("40000\n")

    def spec(device: str) -> SysfsSource:
        files = [f"/sys/bus/iio/devices/{device}/in_{kind}_input" for kind in ("temp", "humidity")]
        channels = {name: SysfsChannel(path=file, scale=1e-3) for name, file in zip(CHANNELS, files, strict=True)}
        return SysfsSource(channels=channels, interval_s=0.01)

    plug_in()
    with contextlib.ExitStack() as at_end:
        yield Rig(
            lambda: make_sysfs(spec("iio:device*"), folder),
            lambda: make_sysfs(spec("iio:device7"), folder),
            lose=lambda: shutil.rmtree(sensor),
            bring_back=plug_in,
            silence=lambda: at_end.enter_context(hanging_file(sensor / "in_temp_input")),
        )


@contextlib.contextmanager
def serial(folder: Path) -> Iterator[Rig]:
    link, silent = folder / "usb-sensor", threading.Event()
    there = [SerialDevice(link)]
    writer = Repeater(lambda _: None if silent.is_set() else there[-1].write(LINE))

    def make(path: Path) -> FrameSource:
        return make_source(SerialSource(device=str(path), channels=CHANNELS, read_timeout_s=5.0))

    yield Rig(
        lambda: make(link),
        lambda: make(folder / "nothing"),
        lose=there[0].unplug,
        bring_back=lambda: there.append(SerialDevice(link)),
        silence=silent.set,
    )
    writer.stop()
    there[-1].unplug()


@contextlib.contextmanager
def program(folder: Path) -> Iterator[Rig]:
    code = f"""
import pathlib, sys, time
while not pathlib.Path({str(folder / "gone")!r}).exists():
    if not pathlib.Path({str(folder / "silent")!r}).exists():
        print({LINE.decode().strip()!r}, flush=True)
    time.sleep(0.01)
"""

    def make(*command: str) -> FrameSource:
        return make_source(ExecSource(command=command, output="json", channels=CHANNELS))

    yield Rig(
        lambda: make(sys.executable, "-c", code),
        lambda: make("no-such-program"),
        lose=(folder / "gone").touch,
        bring_back=(folder / "gone").unlink,
        silence=(folder / "silent").touch,
    )


@contextlib.contextmanager
def mqtt(folder: Path) -> Iterator[Rig]:
    with Broker(folder / "broker") as broker:
        link = make_link(broker.port, inbox=Router(Inbox(), lambda _: False, lambda message: feeds.put(message)))  # noqa: PLW0108
        feeds = Feeds(link)
        sensor, silent = broker.listen(), threading.Event()
        writer = Repeater(lambda _: None if silent.is_set() else sensor.client.publish("zigbee2mqtt/kitchen", LINE))

        spec = MqttSource(topic="zigbee2mqtt/kitchen", channels={name: name for name in CHANNELS})
        with Publisher(link):
            wait_until(lambda: link.connected)
            yield Rig(lambda: make_source(spec, feeds.subscribe), lambda: make_source(spec), silence=silent.set)
        writer.stop()


@contextlib.contextmanager
def table(folder: Path) -> Iterator[Rig]:
    rows = "".join(f"{turn / 100},21.5,40\n" for turn in range(1000))
    (folder / "readings.csv").write_text("time," + ",".join(CHANNELS) + "\n" + rows)

    def make(name: str) -> FrameSource:
        return make_source(CsvSource(path=str(folder / name), time_column="time"))

    yield Rig(lambda: make("readings.csv"), lambda: make("nothing.csv"), is_recording=True)


@contextlib.contextmanager
def modbus(folder: Path) -> Iterator[Rig]:
    with ModbusDevice([215, 40], [0]) as device:

        def make(port: int) -> FrameSource:
            scales = [(name, 0.1 if name == "temperature" else 1.0) for name in CHANNELS]
            registers = {name: ModbusRegister(address=at, scale=scale) for at, (name, scale) in enumerate(scales)}
            return make_source(
                ModbusSource(host=device.host, port=port, registers=registers, interval_s=0.01, read_timeout_s=1.0)
            )

        yield Rig(
            lambda: make(device.port),
            lambda: make(1),
            lose=device.kill,
            bring_back=device.start,
            silence=device.freeze,
        )


@contextlib.contextmanager
def microphone(folder: Path) -> Iterator[Rig]:
    put_arecord(folder)

    def make(device: str) -> FrameSource:
        return make_source(MicrophoneSource(device=device))

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", path_with(folder))
        yield Rig(
            lambda: make("default"),
            lambda: make("nothing"),
            lose=(folder / "unplugged").touch,
            bring_back=(folder / "unplugged").unlink,
            silence=(folder / "silent").touch,
            channels=("sound",),
            values=None,
            samples=800,
            rate_hz=16000.0,
        )


@contextlib.contextmanager
def wav(folder: Path) -> Iterator[Rig]:
    write_wav(folder / "sound.wav", np.sin(np.arange(80000)), rate_hz=8000)

    def make(name: str) -> FrameSource:
        return make_source(FileSource(path=str(folder / name)))

    yield Rig(
        lambda: make("sound.wav"),
        lambda: make("nothing.wav"),
        channels=("sound",),
        values=None,
        samples=400,
        rate_hz=8000.0,
        is_recording=True,
    )


KINDS = [sysfs, serial, program, mqtt, table, modbus, microphone, wav]
LIVE = [kind for kind in KINDS if kind not in (table, wav)]
LOSABLE = [kind for kind in LIVE if kind is not mqtt]  # a broker that is away is the link's business


def name_of(kind: Callable[..., object]) -> str:
    return kind.__name__


@pytest.fixture(params=KINDS, ids=name_of)
def rig(request, tmp_path):
    with request.param(tmp_path) as made:
        yield made


@pytest.fixture
def source(rig):
    made = rig.make()
    yield made
    made.close()


def read(source: FrameSource, count: int):
    frames = [source.read() for _ in range(count)]
    assert None not in frames
    return frames


def test_frames_are_samples_in_memory_of_their_own(rig, source):
    source.open()
    frames = read(source, 5)
    before = [frame.data.copy() for frame in frames]
    read(source, 5)
    for frame, copy in zip(frames, before, strict=True):
        assert frame.data.dtype == np.float32
        assert frame.data.flags.c_contiguous
        assert frame.data.shape == (rig.samples, len(rig.channels))
        assert frame.channels == rig.channels
        assert frame.rate_hz == rig.rate_hz
        assert np.array_equal(frame.data, copy, equal_nan=True), "a later frame was written over an earlier one"
        assert rig.values is None or np.allclose(frame.data, rig.values)


@pytest.mark.parametrize("first_index", [0, 1_000_000])
def test_numbers_rise_by_one_from_where_they_were_told_to_begin(source, first_index):
    source.open(first_index)
    assert [frame.index for frame in read(source, 5)] == [first_index + turn for turn in range(5)]


def test_frames_are_stamped_on_both_clocks_in_order(source):
    before_ns = time.monotonic_ns()
    source.open()
    frames = read(source, 5)
    stamps = [frame.captured_ns for frame in frames]
    assert stamps == sorted(stamps)
    assert before_ns - 1_000_000_000 < stamps[0]
    assert stamps[-1] <= time.monotonic_ns()
    for frame in frames:
        wall_of_monotonic_ns = time.time_ns() - time.monotonic_ns()
        assert abs(frame.captured_at_ns - frame.captured_ns - wall_of_monotonic_ns) < 1_000_000_000


def test_only_the_first_frame_says_that_it_begins_anew(source):
    source.open()
    assert [frame.is_first for frame in read(source, 5)] == [True, False, False, False, False]


def test_only_recordings_have_positions_and_these_rise(rig, source):
    source.open()
    positions = [frame.position_ns for frame in read(source, 5)]
    assert positions == ([*sorted(set(positions))] if rig.is_recording else [None] * 5)


def test_nothing_was_broken(source):
    source.open()
    read(source, 5)
    assert source.broken == 0
    source.close()
    assert source.broken == 0


def test_closing_is_safe_before_opening_and_again_and_ends_reading(source):
    source.open()
    read(source, 1)
    source.close()
    source.close()
    with pytest.raises(SourceError):
        source.read()


def test_a_source_that_was_never_opened_can_be_closed(source):
    source.close()


def test_interrupt_brings_back_a_read_in_another_thread_within_a_second(rig, source):
    source.open()
    read(source, 1)
    caught = []

    def read_on():
        try:
            while True:
                source.read()
        except SourceError as exc:
            caught.append(exc)

    thread = threading.Thread(target=read_on)
    thread.start()
    source.interrupt()
    thread.join(1.0)
    assert not thread.is_alive()
    assert len(caught) == 1
    assert source.name in str(caught[0])


def test_no_open_file_or_connection_is_left_behind(source):
    before = len(list(OPEN_FILES.iterdir()))
    source.open()
    read(source, 3)
    source.close()
    wait_until(lambda: len(list(OPEN_FILES.iterdir())) == before)


@pytest.mark.parametrize("rig", LOSABLE, ids=name_of, indirect=True)
def test_a_lost_one_says_so_in_one_line_and_comes_back_with_a_new_beginning(rig, source):
    source.open()
    index = read(source, 1)[0].index
    rig.lose()
    with pytest.raises(SourceError, match=source.name) as caught:
        read(source, 1000)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, SourceUnusable)
    source.close()
    rig.bring_back()
    again = rig.make()
    try:
        again.open(index + 1)
        frame = again.read()
        assert (frame.index, frame.is_first) == (index + 1, True)
    finally:
        again.close()


@pytest.mark.parametrize("rig", LIVE, ids=name_of, indirect=True)
def test_one_that_falls_silent_is_given_up_in_time(rig, monkeypatch):
    monkeypatch.setattr(reader_module, "first_frame_s", lambda _: 10.0)
    monkeypatch.setattr(reader_module, "GRACE_S", 0.1)
    came = threading.Event()
    reader = Reader(rig.make, lambda _: came.set())
    reader.start()
    assert came.wait(10.0)
    rig.silence()
    with pytest.raises(SourceError, match=r"no frame for 0\.3 s"):
        reader.watch(threading.Event(), 0.3)


def use(source: FrameSource):
    """What anyone does first with a source."""
    source.open()
    return source.read()


def test_a_bad_one_says_so_in_one_line_with_its_name_and_can_be_closed(rig):
    source = rig.make_bad()
    with pytest.raises(SourceError) as caught:
        use(source)
    assert source.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SourceUnusable) == rig.is_recording
    source.close()
    source.close()
