"""What every frame source promises, held against each kind of them; streams against real servers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import FrameSource, make_source
from agent.capture.camera import Camera
from agent.capture.synthetic import picture
from agent.config import CameraSource, ExecSource, FileSource, StreamSource, SyntheticSource
from agent.errors import SourceError, SourceUnusable
from tests.sim import wait_until
from tests.sim.mjpeg_server import MjpegServer
from tests.sim.picture_program import picture_command
from tests.sim.rtsp import CLIP, RtspServer
from tests.unit.capture.fake_v4l2 import FakeCapture

OPEN_FILES = Path("/proc/self/fd")
JPEGS = [cv2.imencode(".jpg", picture(turn, 64, 48))[1].tobytes() for turn in range(20)]


def _camera(folder: Path, good: bool) -> Iterator[FrameSource]:
    device = folder / "video0"
    if good:
        device.touch()
    yield Camera(
        CameraSource(device=str(device)), lambda _: FakeCapture(picture(turn, 64, 48) for turn in range(10**6))
    )


def _mjpeg(folder: Path, good: bool) -> Iterator[FrameSource]:
    with MjpegServer(lambda _: JPEGS * 1000) as server:
        url = server.url if good else "http://127.0.0.1:1/video"
        yield make_source(StreamSource(url=url, read_timeout_s=5.0))


def _rtsp(folder: Path, good: bool) -> Iterator[FrameSource]:
    with RtspServer() as server:
        yield make_source(StreamSource(url=server.url if good else server.url + "/nothing", read_timeout_s=5.0))


def _video(folder: Path, good: bool) -> Iterator[FrameSource]:
    yield make_source(FileSource(path=str(CLIP) if good else "missing.mp4", loop=True, realtime=False))


def _pictures(folder: Path, good: bool) -> Iterator[FrameSource]:
    for turn, jpeg in enumerate(JPEGS if good else []):
        (folder / f"{turn}.jpg").write_bytes(jpeg)
    yield make_source(FileSource(path=str(folder), fps=100.0))


def _one_picture(folder: Path, good: bool) -> Iterator[FrameSource]:
    path = folder / "one.jpg"
    path.write_bytes(JPEGS[0] if good else JPEGS[0][:300])
    yield make_source(FileSource(path=str(path), loop=True, fps=100.0))


def _synthetic(folder: Path, good: bool) -> Iterator[FrameSource]:
    yield make_source(SyntheticSource(width=64, height=48, fps=100.0))


def _exec_mjpeg(folder: Path, good: bool) -> Iterator[FrameSource]:
    for turn, jpeg in enumerate(JPEGS):
        (folder / f"{turn}").write_bytes(jpeg)
    yield make_source(ExecSource(command=picture_command(folder) if good else ("no-such-program",)))


def _exec_i420(folder: Path, good: bool) -> Iterator[FrameSource]:
    for turn in range(5):
        raw = cv2.cvtColor(picture(turn, 64, 48), cv2.COLOR_BGR2YUV_I420)
        (folder / f"{turn}").write_bytes(raw.tobytes())
    command = picture_command(folder) if good else ("sh", "-c", "echo no camera >&2; exit 1")
    yield make_source(ExecSource(command=command, output="i420", width=64, height=48))


KINDS = [_camera, _mjpeg, _rtsp, _video, _pictures, _one_picture, _synthetic, _exec_mjpeg, _exec_i420]
ALWAYS_WORKS = [_synthetic]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.strip("_"))
def source(request, tmp_path):
    """A source of each kind that works and has at least ten frames; closed at the end."""
    with contextmanager(request.param)(tmp_path, good=True) as made:
        yield made
        made.close()


@pytest.fixture(params=[kind for kind in KINDS if kind not in ALWAYS_WORKS], ids=lambda kind: kind.__name__.strip("_"))
def bad_source(request, tmp_path):
    """A source of each kind where nothing is, or nothing usable."""
    with contextmanager(request.param)(tmp_path, good=False) as made:
        yield made


def read(source: FrameSource, count: int):
    frames = [source.read() for _ in range(count)]
    assert None not in frames
    return frames


def test_frames_are_whole_pictures_in_memory_of_their_own(source):
    source.open()
    frames = read(source, 5)
    before = [frame.data.copy() for frame in frames]
    read(source, 5)
    for frame, copy in zip(frames, before, strict=True):
        assert frame.data.dtype == np.uint8
        assert frame.data.flags.c_contiguous
        assert frame.data.shape == (*frame.data.shape[:2], 3)
        assert np.array_equal(frame.data, copy), "a later frame was written over an earlier one"
        assert frame.data.std() > 10


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


def test_only_recordings_have_positions(source):
    source.open()
    frame = read(source, 1)[0]
    assert (frame.position_ns is not None) == (type(source).__name__ == "Recording")


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


def test_interrupt_brings_back_a_read_in_another_thread(source):
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
    thread.join(10.0)
    assert not thread.is_alive()
    assert len(caught) == 1
    assert source.name in str(caught[0])


def test_no_open_file_or_connection_is_left_behind(source):
    before = len(list(OPEN_FILES.iterdir()))
    source.open()
    read(source, 3)
    source.close()
    wait_until(lambda: len(list(OPEN_FILES.iterdir())) == before)


def use(source: FrameSource):
    """What anyone does first with a source."""
    source.open()
    return source.read()


def test_a_bad_one_says_so_in_one_line_with_its_name_and_can_be_closed(bad_source):
    with pytest.raises(SourceError) as caught:
        use(bad_source)
    assert bad_source.name in str(caught.value)
    assert "\n" not in str(caught.value)
    bad_source.close()
    bad_source.close()


def test_recordings_that_are_not_there_can_never_work_while_devices_and_servers_may_come(bad_source):
    with pytest.raises(SourceError) as caught:
        use(bad_source)
    assert isinstance(caught.value, SourceUnusable) == (type(bad_source).__name__ == "Recording")
    bad_source.close()
