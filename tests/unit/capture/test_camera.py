"""Cameras: what goes wrong with real ones, on a capture that behaves like OpenCV's; and no camera at all."""

import time

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.capture import camera as camera_module
from agent.capture.camera import Camera, device_path, to_image
from agent.config import CameraSource
from agent.errors import SourceError, SourceUnusable
from tests.unit.capture.fake_v4l2 import FakeCapture, color, to_jpeg


@pytest.fixture
def device(tmp_path):
    """Something at a path that may be read and written."""
    path = tmp_path / "video0"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def _nothing_reported_yet():
    camera_module._report_difference.cache_clear()


def opened(device, capture, **options):
    camera = Camera(CameraSource(device=str(device), **options), lambda path: capture)
    camera.open()
    return camera


def test_a_number_means_dev_video_and_a_path_itself():
    assert device_path(CameraSource(device=3)) == "/dev/video3"
    assert device_path(CameraSource(device="/dev/v4l/by-id/usb-cam")) == "/dev/v4l/by-id/usb-cam"


def test_a_camera_that_is_not_there_is_waited_for_and_the_message_names_it_and_the_mend():
    camera = Camera(CameraSource(device="/dev/v4l/by-id/usb-nobody"))
    with pytest.raises(SourceError) as caught:
        camera.open()
    assert str(caught.value) == (
        "camera /dev/v4l/by-id/usb-nobody: no such device; `v4l2-ctl --list-devices` shows what is plugged in"
    )
    assert not isinstance(caught.value, SourceUnusable)
    camera.close()


def test_a_number_that_is_gone_is_a_camera_that_may_have_moved():
    with pytest.raises(SourceError, match=r"video255: no such device; .*; a path below /dev/v4l/by-id finds it"):
        Camera(CameraSource(device=255)).open()


def test_a_camera_that_may_not_be_used_names_the_group(device, monkeypatch):
    monkeypatch.setattr("agent.capture.camera.os.access", lambda path, mode: False)
    with pytest.raises(SourceError, match="video0: no permission; add the user that runs the agent to the group video"):
        opened(device, FakeCapture())


def test_a_real_file_that_is_no_camera_is_refused_by_the_real_opencv(device):
    camera = Camera(CameraSource(device=str(device)))
    with pytest.raises(SourceError, match=r"video0: can't be opened; another program uses it \(`fuser "):
        camera.open()


def test_a_busy_camera_is_let_go_of(device):
    capture = FakeCapture(opened=False)
    with pytest.raises(SourceError, match="can't be opened"):
        opened(device, capture)
    assert capture.released == 1


def test_the_link_that_stays_the_same_is_followed_at_every_opening(tmp_path):
    """A camera that was plugged in elsewhere is another /dev/videoN under the same by-id link."""
    link = tmp_path / "by-id"
    paths = []

    def open_capture(path):
        paths.append(path)
        return FakeCapture([color()])

    for name in ("video0", "video1"):
        (tmp_path / name).touch()
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / name)
        camera = Camera(CameraSource(device=str(link)), open_capture)
        camera.open()
        camera.close()
    assert paths == [str(tmp_path / "video0"), str(tmp_path / "video1")]
    assert camera.name == f"camera {link}"


def test_format_size_and_rate_are_asked_for_in_an_order_that_drivers_understand(device):
    capture = FakeCapture([color()])
    opened(device, capture, width=640, height=480, fps=15, format="MJPG")
    assert capture.asked[:4] == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 640),
        (cv2.CAP_PROP_FRAME_HEIGHT, 480),
        (cv2.CAP_PROP_FPS, 15),
    ]


def test_what_the_driver_gives_instead_is_logged_once_not_at_every_opening(device):
    with capture_logs() as logs:
        for _ in range(3):
            opened(device, FakeCapture(given=("YUYV", 320, 240, 30.0))).close()
    assert logs == [
        {
            "event": "capture.settings_differed",
            "log_level": "warning",
            "source": f"camera {device}",
            "asked": "MJPG 640x480 at 15 fps",
            "given": "YUYV 320x240 at 30 fps",
        }
    ]


def test_a_driver_that_gives_what_was_asked_is_not_worth_a_line(device):
    with capture_logs() as logs:
        opened(device, FakeCapture(given=("MJPG", 640, 480, 15.015))).close()
    assert logs == []


def test_an_unplugged_camera_is_lost_at_the_first_refused_frame_although_it_claims_to_be_open(device):
    capture = FakeCapture([color(10), color(20)])
    camera = opened(device, capture)
    assert [int(camera.read().data[0, 0, 0]) for _ in range(2)] == [10, 20]
    with pytest.raises(SourceError, match="video0: unplugged"):
        camera.read()
    assert capture.isOpened()
    camera.close()
    camera.close()
    assert capture.released == 1


def test_a_camera_that_is_silent_for_the_drivers_timeout_is_lost_but_not_called_unplugged(device, monkeypatch):
    now_s = [100.0]

    def silent():
        now_s[0] += 2.0
        return
        yield

    camera = opened(device, FakeCapture(silent()))
    monkeypatch.setattr("agent.capture.camera.time.monotonic", lambda: now_s[0])
    with pytest.raises(SourceError, match=r"video0: no frame for 2\.0 s"):
        camera.read()


def test_frames_that_cannot_be_decoded_are_left_out_and_counted(device):
    shots = [color(10), None, np.empty((0, 0, 3), np.uint8), color().astype(np.uint16), color(20)]
    camera = opened(device, FakeCapture(shots, given=("BGR3", 640, 480, 15.0)))
    assert [(frame.index, int(frame.data[0, 0, 0])) for frame in (camera.read(), camera.read())] == [(0, 10), (1, 20)]
    assert camera.broken == 3


def test_torn_jpegs_are_left_out_and_counted_although_opencv_would_take_them(device):
    whole = [to_jpeg(color(value)) for value in (10, 20)]
    noise = to_jpeg(np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8))
    middle = len(noise) // 2
    without_end, with_a_hole = noise[:middle], noise[:middle] + noise[middle + 3000 :]
    padded = whole[1] + bytes(4096)
    shots = [whole[0], without_end, with_a_hole, without_end + whole[1], padded]
    assert cv2.imdecode(np.frombuffer(with_a_hole, np.uint8), cv2.IMREAD_COLOR) is not None
    camera = opened(device, FakeCapture(shots))
    assert [(frame.index, int(frame.data[0, 0, 0])) for frame in (camera.read(), camera.read())] == [(0, 10), (1, 20)]
    assert camera.broken == 3


def test_only_formats_that_are_jpeg_are_taken_as_they_come(device):
    yuyv, mjpg = (FakeCapture([color()], given=(code, 640, 480, 15.0)) for code in ("YUYV", "MJPG"))
    assert [opened(device, capture).read().data.shape for capture in (yuyv, mjpg)] == [(480, 640, 3)] * 2
    assert [capture.get(cv2.CAP_PROP_CONVERT_RGB) for capture in (yuyv, mjpg)] == [1.0, 0.0]


def test_a_camera_that_sends_only_rubbish_is_lost_after_its_timeout(device, monkeypatch):
    now_s = [100.0]

    def rubbish():
        yield color()
        while True:
            now_s[0] += 0.5
            yield None

    camera = opened(device, FakeCapture(rubbish()), read_timeout_s=2.0)
    camera.read()
    monkeypatch.setattr("agent.capture.camera.time.monotonic", lambda: now_s[0])
    with pytest.raises(SourceError, match="only broken frames"):
        camera.read()
    assert camera.broken == 5


def test_a_size_that_changes_while_it_runs_is_fine(device):
    camera = opened(device, FakeCapture([color(), color(width=320, height=240)]))
    assert [camera.read().data.shape for _ in range(2)] == [(480, 640, 3), (240, 320, 3)]


@pytest.mark.parametrize("age_ms", [0.0, 40.0, 2_800.0, 59_000.0])
def test_a_frame_is_as_old_as_the_driver_says(device, age_ms):
    """After a pause the first frames out of the driver's queue are seconds old."""
    camera = opened(device, FakeCapture([color()], age_ms=age_ms))
    before_ns = time.monotonic_ns()
    frame = camera.read()
    after_ns = time.monotonic_ns()
    assert before_ns - 1_000_000 <= frame.captured_ns + round(age_ms * 1e6) <= after_ns + 1_000_000
    assert abs((time.time_ns() - frame.captured_at_ns) - (time.monotonic_ns() - frame.captured_ns)) < 1_000_000_000


@pytest.mark.parametrize("age_ms", [None, -5_000.0, 61_000.0])
def test_a_driver_time_that_cannot_be_is_replaced_by_now(device, age_ms):
    camera = opened(device, FakeCapture([color()], age_ms=age_ms))
    before_ns = time.monotonic_ns()
    assert before_ns <= camera.read().captured_ns <= time.monotonic_ns()


def test_gray_pictures_stay_gray():
    assert to_image(np.full((48, 64), 7, np.uint8)).shape == (48, 64)
    assert to_image(np.full((48, 64, 1), 7, np.uint8)).shape == (48, 64)


def test_two_channels_are_yuyv():
    white = np.empty((48, 64, 2), np.uint8)
    white[:] = (235, 128)
    assert to_image(white).shape == (48, 64, 3)
    assert to_image(white).min() >= 254


def test_of_four_channels_the_last_is_dropped():
    image = to_image(np.full((4, 4, 4), (1, 2, 3, 4), np.uint8))
    assert image.tolist() == [[[1, 2, 3]] * 4] * 4


@pytest.mark.parametrize("shape", [(1, 26_741, 5), (26_741,), (0, 0), (9000, 4, 3)])
def test_anything_else_is_damage(shape):
    assert to_image(np.zeros(shape, np.uint8)) is None


def test_a_picture_in_memory_of_somebody_else_is_copied():
    buffer = color()
    image = to_image(buffer[:, ::-1])
    buffer[:] = 0
    assert image.min() == 100
    assert image.flags.c_contiguous


def test_opencv_hands_out_a_new_array_for_every_frame(tmp_path):
    """What lets frames go on without a copy."""
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for value in (0, 120, 240):
        writer.write(color(value, 64, 48))
    writer.release()
    capture = cv2.VideoCapture(path)
    images = [capture.retrieve()[1] for _ in range(3) if capture.grab()]
    capture.release()
    assert [image.flags.owndata for image in images] == [True] * 3
    assert [round(float(image.mean()) / 10) for image in images] == [0, 12, 24]
