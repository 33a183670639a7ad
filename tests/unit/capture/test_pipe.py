"""Programs that write pictures: formats, damage, and what the guard makes of faults."""

import os
import signal
import threading
import time
from contextlib import closing

import cv2
import numpy as np
import pytest

from agent.capture import make_source, pipe, stall_timeout_s
from agent.capture.pipe import Pipe
from agent.capture.reader import Reader
from agent.capture.synthetic import picture
from agent.config import ExecSource
from agent.errors import SourceError
from tests.sim import wait_until
from tests.sim.picture_program import picture_command

WIDTH, HEIGHT = 64, 48
PICTURES = [picture(turn, WIDTH, HEIGHT) for turn in range(4)]
JPEGS = [cv2.imencode(".jpg", image)[1].tobytes() for image in PICTURES]
SIZE = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture
def files(tmp_path):
    """Puts bytes into files, one each, and gives their folder."""

    def write(*contents):
        for turn, data in enumerate(contents):
            (tmp_path / f"{turn}").write_bytes(data)
        return tmp_path

    return write


def once(folder) -> tuple[str, ...]:
    """A program that writes all files as fast as it goes, and then stays."""
    return "/bin/sh", "-c", 'cat "$0"/*; exec sleep 60', str(folder)


def opened(**spec) -> closing[Pipe]:
    source = make_source(ExecSource(**spec))
    source.open()
    return closing(source)


@pytest.mark.parametrize(
    ("output", "encode"),
    [
        ("i420", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)),
        ("bgr24", lambda image: image),
        ("gray8", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)),
    ],
)
def test_raw_pictures_arrive_as_they_were_written(files, output, encode):
    with opened(command=once(files(encode(PICTURES[1]).tobytes())), output=output, **SIZE) as source:
        data = source.read().data
    expected = encode(PICTURES[1]) if output == "gray8" else PICTURES[1]
    assert data.shape == expected.shape
    assert data.flags.c_contiguous
    assert data.flags.writeable
    inside = np.s_[8:16, 30:]  # away from the square's edge, where I420 shares colours between pixels
    assert np.abs(data[inside].astype(int) - expected[inside]).max() <= 3


def test_jpegs_arrive_decoded(files):
    with opened(command=once(files(JPEGS[2]))) as source:
        assert np.array_equal(source.read().data, cv2.imdecode(np.frombuffer(JPEGS[2], np.uint8), cv2.IMREAD_COLOR))


def test_of_pictures_that_have_come_meanwhile_the_newest_counts(files, tmp_path):
    command = (
        "/bin/sh",
        "-c",
        'cat "$0"/0; while [ ! -e "$0"/go ]; do sleep 0.01; done; cat "$0"/[1-3]; touch "$0"/done; exec sleep 60',
    )
    with opened(command=(*command, str(files(*JPEGS)))) as source:
        source.read()
        (tmp_path / "go").touch()
        wait_until((tmp_path / "done").exists)
        frame = source.read()
    assert np.array_equal(frame.data, cv2.imdecode(np.frombuffer(JPEGS[3], np.uint8), cv2.IMREAD_COLOR))
    assert frame.index == 1
    assert source.broken == 0


def test_damaged_pictures_are_left_out_and_counted(files):
    torn, spoiled = JPEGS[0][:700], JPEGS[1][:600] + JPEGS[1][700:]
    with opened(command=picture_command(files(torn, JPEGS[2], spoiled, JPEGS[3]))) as source:
        good = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in JPEGS[2:]]
        for _ in range(10):
            data = source.read().data
            assert any(np.array_equal(data, image) for image in good)
        assert source.broken >= 5


def test_a_program_that_ends_is_an_error_with_its_last_words(files):
    folder = files(JPEGS[0])
    with opened(command=("/bin/sh", "-c", 'cat "$0"/0; echo sensor lost >&2; exit 7', str(folder))) as source:
        source.read()
        with pytest.raises(SourceError, match=r"^exec sh: sh ended with exit status 7: sensor lost$"):
            source.read()


def test_arguments_are_never_shown():
    source = make_source(ExecSource(command=("no-such-program", "rtsp://user:tops3cret@cam/")))
    with pytest.raises(SourceError) as caught:
        source.open()
    assert str(caught.value).startswith("exec no-such-program: no-such-program: not installed")
    assert "tops3cret" not in str(caught.value)


def test_other_things_than_pictures_are_an_error_that_says_what_came(monkeypatch):
    monkeypatch.setattr(pipe, "first_frame_s", lambda _: 0.5)
    with (
        opened(command=("/bin/sh", "-c", "while :; do echo hello; sleep 0.01; done")) as source,
        pytest.raises(
            SourceError, match=r"^exec sh: no whole picture for 0\.5 s, though data came; does it write mjpeg to"
        ),
    ):
        source.read()


def test_a_flood_of_random_bytes_ends_in_time(monkeypatch):
    monkeypatch.setattr(pipe, "first_frame_s", lambda _: 0.5)
    began_s = time.monotonic()
    with opened(command=("cat", "/dev/urandom")) as source, pytest.raises(SourceError, match="no whole picture"):
        source.read()
    assert time.monotonic() - began_s < 5.0


def test_a_picture_without_end_is_an_error(files):
    folder = files(JPEGS[0][:-2])
    command = ("/bin/sh", "-c", 'cat "$0"/0 /dev/zero', str(folder))
    with (
        opened(command=command) as source,
        pytest.raises(SourceError, match=r"^exec sh: a JPEG over 16 MiB; expected mjpeg on standard output$"),
    ):
        source.read()


class Watched:
    """A source under the guard, as a pipeline has it."""

    def __init__(self, spec: ExecSource) -> None:
        self.frames = []
        self.sources = []
        self._spec = spec
        self._stop = threading.Event()
        self._reader = Reader(self._make, self.frames.append)
        self._outcome = None
        self._thread = threading.Thread(target=self._watch)

    def _make(self):
        self.sources.append(make_source(self._spec))
        return self.sources[-1]

    def _watch(self):
        try:
            self._reader.start()
            self._outcome = self._reader.watch(self._stop, stall_timeout_s(self._spec))
        except SourceError as exc:
            self._outcome = exc

    def begin(self):
        self._thread.start()
        wait_until(lambda: len(self.frames) >= 3)
        return self.sources[-1]._child._process

    def outcome(self):
        self._thread.join(20.0)
        assert self._reader.stuck == 0
        return self._outcome

    def close(self):
        self._stop.set()
        self._thread.join(20.0)


def test_a_killed_program_is_lost_at_once(files):
    with closing(Watched(ExecSource(command=picture_command(files(*JPEGS)), read_timeout_s=30.0))) as watched:
        process = watched.begin()
        began_s = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        assert str(watched.outcome()).endswith("was killed by SIGKILL: camera is on")
        assert time.monotonic() - began_s < 5.0


def test_a_stopped_program_is_lost_after_the_timeout_and_ended(files):
    with closing(Watched(ExecSource(command=picture_command(files(*JPEGS)), read_timeout_s=0.5))) as watched:
        process = watched.begin()
        began_s = time.monotonic()
        os.kill(process.pid, signal.SIGSTOP)
        assert "no " in str(watched.outcome())
        assert 0.4 < time.monotonic() - began_s < 5.0
        assert process.returncode is not None


def test_stopping_the_pipeline_ends_the_program(files):
    with closing(Watched(ExecSource(command=picture_command(files(*JPEGS)), read_timeout_s=30.0))) as watched:
        process = watched.begin()
        watched.close()
        assert watched.outcome() == "stopped"
        assert process.returncode is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"command": ("",)}, "command: expected a program first, got an empty name"),
        ({"command": ("cat",), "output": "i420"}, "width and height: expected both with output i420"),
        ({"command": ("cat",), "output": "gray8", "width": 64}, "width and height: expected both with output gray8"),
        ({"command": ("cat",), "output": "i420", "width": 63, "height": 48}, "expected even numbers with output i420"),
        ({"command": ("cat",), "width": 64, "height": 48}, "width and height: only for raw output"),
    ],
)
def test_a_size_is_asked_for_where_the_pictures_do_not_bring_it(spec, message):
    with pytest.raises(ValueError, match=message):
        ExecSource(**spec)
