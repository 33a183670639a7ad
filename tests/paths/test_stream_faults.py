"""Network cameras that die, freeze, lie and come back: real servers, the real guard, the real decoder."""

import random
import socket
import subprocess
import threading
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import make_source
from agent.capture.reader import Reader
from agent.capture.synthetic import picture
from agent.config import StreamSource
from agent.errors import SourceError
from tests.sim import free_port, require_program, wait_until
from tests.sim.mjpeg_server import STALL, MjpegServer
from tests.sim.rtsp import CLIP, RtspServer

TIMEOUT_S = 1.0
PASSWORD = "p@ss:w/rd%4 ü#"
JPEGS = [cv2.imencode(".jpg", picture(turn, 64, 48))[1].tobytes() for turn in range(30)]
SMALL = [cv2.imencode(".jpg", picture(turn, 32, 24))[1].tobytes() for turn in range(30)]


class Watched:
    """A stream with its guard, as a pipeline runs it; one try at a time, in a thread."""

    def __init__(self, url, **options):
        self.spec = StreamSource(url=url, **{"read_timeout_s": TIMEOUT_S, **options})
        self.frames = []
        self.reader = Reader(partial(make_source, self.spec), self.frames.append)
        self.stop = threading.Event()
        self.outcome = None
        self._thread = None

    def begin(self, frames=0):
        """Start a try, and wait until it has brought so many frames."""
        before = len(self.frames)
        self.outcome = None
        self._thread = threading.Thread(target=self._try)
        self._thread.start()
        wait_until(lambda: len(self.frames) >= before + frames or self.outcome is not None)
        assert len(self.frames) >= before + frames, self.outcome
        return self

    def end(self):
        """Wait for the end of the try: `ended`, `stopped`, or the text of the error."""
        self._thread.join(30.0)
        assert not self._thread.is_alive()
        return self.outcome

    def close(self):
        self.stop.set()
        self.end()
        wait_until(lambda: self.reader.stuck == 0)

    def _try(self):
        try:
            self.reader.start()
            self.outcome = self.reader.watch(self.stop, self.spec.read_timeout_s)
        except SourceError as exc:
            self.outcome = str(exc)


@pytest.fixture
def rtsp():
    with RtspServer() as server:
        yield server


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_gives_the_cameras_pictures(rtsp, transport):
    with closing(Watched(rtsp.url, transport=transport).begin(frames=40)) as watched:
        watched.stop.set()
        assert watched.end() == "stopped"
    clip = cv2.VideoCapture(str(CLIP), cv2.CAP_FFMPEG)
    known = [clip.read()[1] for _ in range(100)]
    clip.release()
    for frame in watched.frames[::10]:
        assert min(cv2.norm(frame.data, image, cv2.NORM_L1) / image.size for image in known) < 1.5
    assert [frame.index for frame in watched.frames] == list(range(len(watched.frames)))
    assert watched.reader.broken == 0


def test_a_server_that_is_shot_is_lost_and_its_frames_go_on_after_a_restart(rtsp):
    with closing(Watched(rtsp.url).begin(frames=10)) as watched:
        rtsp.kill()
        assert watched.end() == f"{rtsp.url}: the other side ended the stream"
        watched.begin()
        assert watched.end() == f"{rtsp.url}: Connection refused"
        rtsp.start()
        watched.begin(frames=10)
        assert [frame.index for frame in watched.frames] == list(range(len(watched.frames)))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_frozen_server_is_noticed_although_the_read_hangs(rtsp, transport):
    with closing(Watched(rtsp.url, transport=transport).begin(frames=10)) as watched:
        rtsp.freeze()
        outcome = watched.end()
        arrived = len(watched.frames)
        assert "no frame for" in outcome or "no answer" in outcome
        wait_until(lambda: watched.reader.stuck == 0)
        assert len(watched.frames) == arrived
        rtsp.thaw()
        watched.begin(frames=10)
        stamps = [frame.captured_ns for frame in watched.frames]
        assert stamps == sorted(stamps)


def test_stop_does_not_wait_for_a_frozen_server(rtsp):
    with closing(Watched(rtsp.url, read_timeout_s=60.0).begin(frames=10)) as watched:
        rtsp.freeze()
        watched.stop.set()
        assert watched.end() == "stopped"
        assert watched.reader.stuck <= 1
        rtsp.kill()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_accepts_and_never_answers_is_given_up(scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/cam"
        with closing(Watched(url).begin()) as watched:
            assert watched.end().startswith(f"{url}: no ")
    assert watched.frames == []


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_rtsp_with_a_password_from_a_file(tmp_path, method):
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n", encoding="utf-8")
    with RtspServer("--login", "viewer", PASSWORD, method) as server:
        url = server.url.replace("://", "://viewer@")
        with closing(Watched(url, password_file=str(path)).begin(frames=5)):
            pass
        path.write_text("wrong")
        with closing(Watched(url, password_file=str(path)).begin()) as watched:
            assert watched.end() == f"{server.url}: refused the user or the password (in the URL; password_file)"


def test_http_with_a_password_from_a_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD, encoding="utf-8")
    with MjpegServer(lambda _: JPEGS * 100, login=("viewer", PASSWORD)) as server:
        url = server.url.replace("://", "://viewer@")
        with closing(Watched(url, password_file=str(path)).begin(frames=5)):
            pass
        with closing(Watched(server.url).begin()) as watched:
            assert watched.end() == f"{server.url}: refused the user or the password (in the URL; password_file)"


@pytest.mark.parametrize("style", ["plain", "bare", "esp32"])
def test_http_gives_every_picture_unchanged_in_each_cameras_dialect(style):
    with (
        MjpegServer(lambda _: [*JPEGS, STALL], style=style) as server,
        closing(Watched(server.url).begin(frames=len(JPEGS) - 1)) as watched,
    ):
        for frame, jpeg in zip(watched.frames, JPEGS, strict=False):
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert cv2.norm(frame.data, image, cv2.NORM_L1) / image.size < 3


def test_broken_jpegs_are_left_out_and_counted():
    torn = JPEGS[0][: len(JPEGS[0]) // 2]
    scrambled = bytearray(cv2.imencode(".jpg", picture(0, 640, 480))[1].tobytes())
    scrambled[4000:4400] = random.Random(1).randbytes(400)
    script = [JPEGS[0], torn, JPEGS[1], scrambled, b"hello", b"", JPEGS[2], torn, torn, *JPEGS[3:10], STALL]
    with MjpegServer(lambda _: script) as server, closing(Watched(server.url).begin(frames=9)) as watched:
        wait_until(lambda: watched.outcome is not None)
        assert [frame.index for frame in watched.frames] == list(range(10))
        assert watched.reader.broken == 6


def test_a_stream_may_begin_with_broken_pictures():
    with (
        MjpegServer(lambda _: [JPEGS[0][:300], b"hello", JPEGS[1][:200], *JPEGS * 10]) as server,
        closing(Watched(server.url).begin(frames=10)),
    ):
        pass


def test_a_stream_of_nothing_but_broken_pictures_is_given_up(monkeypatch):
    monkeypatch.setattr("agent.capture.reader.first_frame_s", lambda timeout_s: timeout_s)
    with MjpegServer(lambda _: [JPEGS[0][:300]] * 100_000) as server, closing(Watched(server.url).begin()) as watched:
        assert watched.end() == f"{server.url}: no frame for {TIMEOUT_S} s"
        assert watched.frames == []


def test_a_size_that_changes_in_the_stream_is_fine():
    with (
        MjpegServer(lambda _: [*JPEGS[:5], *SMALL[:5], *JPEGS[5:10], STALL]) as server,
        closing(Watched(server.url).begin(frames=14)) as watched,
    ):
        shapes = Counter(frame.data.shape for frame in watched.frames[:14])
    assert shapes[48, 64, 3] >= 9
    assert shapes[24, 32, 3] == 5


def test_http_that_stalls_is_noticed_and_the_next_try_gets_frames():
    def script(connection):
        return [*JPEGS[:10], STALL] if connection == 0 else JPEGS * 100

    with MjpegServer(script) as server, closing(Watched(server.url).begin(frames=9)) as watched:
        assert watched.end().startswith(f"{server.url}: no ")
        watched.begin(frames=10)
        assert [frame.index for frame in watched.frames] == list(range(len(watched.frames)))


def test_http_that_is_cut_is_lost_and_the_next_try_gets_frames():
    with MjpegServer(lambda _: JPEGS[:10]) as server, closing(Watched(server.url).begin(frames=9)) as watched:
        assert watched.end() == f"{server.url}: the connection was cut"
        watched.begin(frames=9)


def test_a_web_page_is_not_taken_for_a_stream():
    with MjpegServer(lambda _: []) as server, closing(Watched(server.url).begin()) as watched:
        assert watched.end().startswith(server.url)
    assert watched.frames == []


def test_a_playlist_cannot_make_the_agent_open_files(tmp_path):
    """FFmpeg guesses formats; an HLS playlist from a web server may name any file or address."""
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://" + str(CLIP).encode() + b"\n#EXT-X-ENDLIST\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/live.m3u8"
        with closing(Watched(url).begin()) as watched:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                head = b"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\r\n"
                connection.sendall(head + playlist)
            assert watched.end().startswith(url)
    assert watched.frames == []


def test_ffmpegs_own_mjpeg_server():
    require_program("ffmpeg", "apt install ffmpeg")
    url = f"http://127.0.0.1:{free_port()}/video"
    command = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", CLIP, "-f", "mpjpeg", "-listen", "1", url]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = Watched(url)

    def frames_come():
        """It says nowhere when it listens, and takes one client only, so none may be wasted on asking."""
        watched.begin()
        wait_until(lambda: len(watched.frames) >= 5 or watched.outcome is not None)
        return watched.outcome is None

    try:
        with closing(watched):
            wait_until(frames_come)
            assert watched.frames[4].data.shape == (480, 640, 3)
            server.kill()
            assert watched.end().startswith(url)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_ten_reopenings_leave_no_thread_and_no_open_file_behind(scheme):
    server = RtspServer() if scheme == "rtsp" else MjpegServer(lambda _: JPEGS * 1000)
    with server, closing(Watched(server.url)) as watched:
        for turn in range(12):
            if turn == 2:  # by then everything that stays for good is there
                before = counts()
            watched.begin(frames=3)
            watched.stop.set()
            assert watched.end() == "stopped"
            watched.stop = threading.Event()
        wait_until(lambda: np.all(counts() <= before))  # joined threads and the server's side take a moment to vanish


def counts():
    """Threads and open files of this process."""
    return np.array([len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("task", "fd")])
