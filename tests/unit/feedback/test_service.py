"""The feedback thread: what is written, labelled and sent, and what is told when that does not work."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.config import Config
from agent.errors import FeedbackRefused, OutboxError
from agent.feedback import service as service_module
from agent.feedback.service import MAX_FILE_BYTES, QUEUE_JOBS, FeedbackService, decode_frame, encode_frame
from agent.feedback.summary import Summary
from agent.feedback.watch import SampleJob
from agent.inference.protocol import BundleInfo
from agent.runtime.health import Health
from agent.runtime.units import ByteSize, Duration
from agent.values import Frame, OutboundMessage
from agent.wire.samples import PROPERTY, SampleInfo
from agent.wire.topics import Topics
from tests.sim import wait_until
from tests.unit.outbox.support import open_box, read_all

MODEL = BundleInfo("digits", "1", "0" * 64, "classify", "litert", 1, None, None)
RNG = np.random.default_rng(1)


class Sink:
    """An outbox that can be full."""

    def __init__(self) -> None:
        self.messages: list[OutboundMessage] = []
        self.trouble: str | None = None

    def put(self, message: OutboundMessage) -> int:
        if self.trouble:
            raise OutboxError(self.trouble)
        self.messages.append(message)
        return len(self.messages)


class Device:
    """A service whose thread runs only when it is told to."""

    def __init__(self, folder: Path, **feedback: Any) -> None:
        pipelines = [
            {"name": "door", "feedback": {"keep": "hard", **feedback}},
            {"name": "yard"},
        ]
        fields = {
            "samples": {"dir": str(folder / "samples")},
            "pipelines": [{"model": "digits", "source": {"type": "synthetic"}, **one} for one in pipelines],
        }
        self.folder, self.sink, self.health = folder / "samples" / "door", Sink(), Health()
        config = msgspec.convert(fields, Config)
        self.service = FeedbackService(config, Topics("edge", "cam-1"), self.sink, self.health)

    def work(self) -> None:
        """Do what is in the queue."""
        stop = threading.Event()
        stop.set()
        self.service.loop(stop)

    def keep(self, number: int = 1, data: np.ndarray | None = None, **fields: Any) -> str:
        """A frame, written at once; gives its id."""
        frame = Frame(
            np.full((8, 8, 3), number, np.uint8) if data is None else data, number, 1, number * 10**9, **fields
        )
        summary = Summary("3", 0.6, 0.1)
        assert self.service.keep(SampleJob(f"{number:016x}", "door", frame, MODEL, summary, ("unsure",)))
        self.work()
        return f"{number:016x}"


def info_of(message: OutboundMessage) -> SampleInfo:
    return msgspec.json.decode(dict(message.user_properties)[PROPERTY], type=SampleInfo)


def test_a_kept_frame_is_sent_once_with_what_is_known_of_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    sample = device.keep(7)
    assert device.service.send("door") == {
        "pipeline": "door",
        "sent": 1,
        "bytes": pytest.approx(90, abs=60),
        "waiting": 0,
    }
    assert device.service.send("door")["sent"] == 0
    (message,) = device.sink.messages
    assert (message.topic, message.content_type, message.in_chain) == (
        "edge/devices/cam-1/samples/door", "image/png", False,
    )  # fmt: skip
    info = info_of(message)
    assert (info.id, info.device, info.frame_index, info.captured_at) == (
        sample,
        "cam-1",
        7,
        "1970-01-01T00:00:07.000Z",
    )
    assert (info.predicted, info.confidence, info.margin, info.reasons) == ("3", 0.6, 0.1, ("unsure",))
    assert (decode_frame(info.suffix, message.payload) == 7).all()


def test_a_label_travels_though_the_picture_was_sent_before(tmp_path: Path) -> None:
    device = Device(tmp_path)
    sample = device.keep()
    device.service.send("door")
    assert device.service.label("door", sample, "8", None) == {
        "pipeline": "door", "sample": sample, "predicted": "3", "label": "8",
    }  # fmt: skip
    assert device.service.send("door")["sent"] == 1
    assert info_of(device.sink.messages[-1]).truth == "8"
    assert device.service.label("door", sample, None, True)["label"] == "3"
    assert device.service.telemetry("door").labelled == 1


def test_what_can_not_be_had_is_refused_in_a_line(tmp_path: Path) -> None:
    service = Device(tmp_path).service
    with pytest.raises(FeedbackRefused, match="door keeps none with the id 'nothing'"):
        service.label("door", "nothing", "8", None)
    with pytest.raises(FeedbackRefused, match=r"yard keeps no samples; feedback: \{keep: hard\} makes it"):
        service.send("yard")
    assert service.telemetry("yard") is None


def test_no_more_bytes_go_at_once_than_may_but_always_one(tmp_path: Path) -> None:
    """A frame that is larger than the bound would stop all that wait behind it."""
    device = Device(tmp_path, upload_max_bytes=ByteSize(1024))
    for number in range(3):
        device.keep(number, RNG.integers(0, 255, (24, 24, 3), np.uint8))
    assert device.service.send("door")["sent"] == 1
    assert device.service.send("door", max_bytes=4000) == {
        "pipeline": "door", "sent": 2, "bytes": pytest.approx(3600, abs=400), "waiting": 0,
    }  # fmt: skip


def test_an_outbox_in_trouble_loses_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.keep()
    device.sink.trouble = "no space"
    with pytest.raises(FeedbackRefused, match="0 are sent, then: no space"):
        device.service.send("door")
    device.sink.trouble = None
    assert device.service.send("door")["sent"] == 1


def test_a_file_that_is_lost_does_not_stop_those_behind_it(tmp_path: Path) -> None:
    """Of the newest, which is sent first, the card gives nothing back."""
    device = Device(tmp_path)
    device.keep(1)
    (device.folder / f"{device.keep(2)}.png").unlink()
    told = device.service.send("door")
    assert (told["sent"], told["waiting"]) == (1, 0)
    assert info_of(device.sink.messages[0]).frame_index == 1
    assert device.service.telemetry("door").dropped == 1
    assert len(list(device.folder.iterdir())) == 2


def test_a_full_queue_costs_frames_and_not_the_frame_path(tmp_path: Path) -> None:
    device = Device(tmp_path)
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 1, 1, 1)
    jobs = [
        SampleJob(f"{number:016x}", "door", frame, MODEL, Summary("3", 0.6, 0.1), ("unsure",))
        for number in range(QUEUE_JOBS + 3)
    ]
    assert [device.service.keep(job) for job in jobs].count(False) == 3
    device.work()
    told = device.service.telemetry("door")
    assert (told.kept, told.dropped) == (QUEUE_JOBS, 3)


def test_a_disk_in_trouble_is_a_part_that_is_lost_until_it_works(tmp_path: Path) -> None:
    device = Device(tmp_path)
    (tmp_path / "samples").write_bytes(b"a file where the folder should be")
    device.keep(1)
    assert device.health.reasons()[0].startswith("samples.door: frames to learn from can't be stored: ")
    assert device.service.telemetry("door").dropped == 1
    (tmp_path / "samples").unlink()
    device.keep(2)
    assert device.health.reasons() == []


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Device]:
    """With its thread, and a schedule."""
    device, stop = Device(tmp_path, upload_every=Duration(0.01)), threading.Event()
    device.keep()
    thread = threading.Thread(target=device.service.loop, args=[stop])
    thread.start()
    yield device
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_with_a_schedule_it_sends_by_itself(running: Device) -> None:
    wait_until(lambda: running.sink.messages, 20)


def test_what_was_not_sent_is_sent_at_the_start_and_then_by_the_schedule(tmp_path: Path) -> None:
    """A device that is switched off each night never runs for a whole day."""
    device = Device(tmp_path, upload_every=Duration(86400))
    device.keep(1)
    device.service._send_what_is_due()
    device.keep(2)
    device.service._send_what_is_due()
    assert len(device.sink.messages) == 1


def test_the_thread_answers_questions_and_refusals(running: Device) -> None:
    assert running.service.ask(lambda: running.service.store_of("door").telemetry().kept) == 1
    with pytest.raises(FeedbackRefused):
        running.service.ask(lambda: running.service.store_of("yard"))


def test_what_finds_no_room_in_the_queue_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the thread learns, frames fill the queue: nobody may be told then that a label will be stored."""
    monkeypatch.setattr(service_module, "_ANSWER_S", 0.01)
    device = Device(tmp_path)
    sample = device.keep()

    def label() -> dict[str, Any] | None:
        return device.service.ask(lambda: device.service.label("door", sample, "8", None))

    frame = Frame(np.zeros((8, 8, 3), np.uint8), 1, 1, 1)
    for number in range(2, QUEUE_JOBS + 2):
        summary = Summary("3", 0.6, 0.1)
        assert device.service.keep(SampleJob(f"{number:016x}", "door", frame, MODEL, summary, ("unsure",)))
    with pytest.raises(FeedbackRefused, match="try again"):
        label()
    device.work()
    assert label() is None, "there is room: it will be stored"
    device.work()
    assert device.service.telemetry("door").labelled == 1


@pytest.mark.parametrize(
    ("data", "channels", "suffix"),
    [
        (RNG.integers(0, 255, (12, 9, 3), np.uint8), (), ".png"),
        (RNG.integers(0, 255, (12, 9), np.uint8), (), ".png"),
        (RNG.standard_normal((20, 3)).astype(np.float32), ("x", "y", "z"), ".npy"),
    ],
    ids=["bgr", "gray", "samples"],
)
def test_small_frames_come_back_as_they_were(data: np.ndarray, channels: tuple[str, ...], suffix: str) -> None:
    kept = encode_frame(Frame(data, 1, 1, 1, channels=channels))
    assert kept[0] == suffix
    assert (decode_frame(*kept) == data).all()


def test_any_frame_fits_into_a_message(tmp_path: Path) -> None:
    """The worst one: noise, of which JPEG saves nothing. It is kept smaller rather than not at all."""
    device = Device(tmp_path)
    device.keep(1, RNG.integers(0, 255, (1500, 1500, 3), np.uint8))
    device.keep(2, np.zeros((MAX_FILE_BYTES // 4, 1), np.float32), channels=("sound",))
    assert device.service.telemetry("door").dropped == 1, "a window can't be made smaller"
    device.service._sink = box = open_box(tmp_path / "outbox")
    try:
        assert device.service.send("door")["sent"] == 1
        (stored,) = read_all(box)
        assert decode_frame(".jpg", stored.payload).shape == (750, 750, 3)
    finally:
        box.close()
