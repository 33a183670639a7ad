"""What video devices say of themselves, asked in the layout of linux/videodev2.h."""

import errno
from pathlib import Path

import pytest

from agent.capture.discover import v4l2
from agent.capture.discover.v4l2 import Description, Mode, describe
from tests.sim.trees import C920
from tests.sim.v4l2 import CAPTURE_MPLANE, IO_MC, M2M, META_CAPTURE, EndlessDevice, Kernel, VideoDevice


def ask(tmp_path: Path, device: VideoDevice) -> Description:
    node = tmp_path / "video0"
    node.write_bytes(b"")
    return describe(node, Kernel({node: device}).ioctl)


def test_the_numbers_are_those_of_the_kernel_headers():
    """As a C program on x86-64 and aarch64 prints them."""
    assert v4l2.QUERYCAP == 0x80685600
    assert v4l2.ENUM_FMT == 0xC0405602
    assert v4l2.ENUM_FRAMESIZES == 0xC02C564A
    assert v4l2.ENUM_FRAMEINTERVALS == 0xC034564B


def test_a_usb_camera_tells_formats_sizes_and_the_highest_rate_of_each(tmp_path):
    answer = ask(tmp_path, VideoDevice("uvcvideo", C920))
    assert (answer.driver, answer.card, answer.is_camera) == ("uvcvideo", "a card", True)
    assert answer.modes == (
        *(Mode("YUYV", 640, 480, 30.0), Mode("YUYV", 1280, 720, 10.0), Mode("YUYV", 1920, 1080, 5.0)),
        *(Mode("MJPG", 640, 480, 30.0), Mode("MJPG", 1280, 720, 30.0), Mode("MJPG", 1920, 1080, 30.0)),
    )


def test_a_camera_with_planes_of_its_own_is_one_too(tmp_path):
    answer = ask(tmp_path, VideoDevice("rkisp", {"NV12": {(1280, 720): [(1, 30)]}}, can=CAPTURE_MPLANE))
    assert answer.modes == (Mode("NV12", 1280, 720, 30.0),)


@pytest.mark.parametrize("can", [META_CAPTURE, M2M, M2M | 0x1, IO_MC | 0x1, 0])
def test_what_gives_no_pictures_by_itself_is_no_camera(tmp_path, can):
    assert not ask(tmp_path, VideoDevice("uvcvideo", C920, can=can)).is_camera


def test_of_a_range_of_sizes_usual_ones_and_the_ends_are_told(tmp_path):
    device = VideoDevice("v4l2 loopback", {"YU12": {}}, size_range=(2, 1920, 2, 1, 1080, 1), interval_range=(1, 60, 0))
    sizes = [(mode.width_px, mode.height_px, mode.fps) for mode in ask(tmp_path, device).modes]
    assert sizes == [(2, 1, 60.0), (320, 240, 60.0), (640, 480, 60.0), (1280, 720, 60.0), (1920, 1080, 60.0)]
    tall = VideoDevice("odd", {"YU12": {}}, size_range=(64, 1000, 64, 64, 1000, 64), interval_range=(1, 60, 0))
    assert [(64, 64)] == [(mode.width_px, mode.height_px) for mode in ask(tmp_path, tall).modes if mode.width_px < 320]


def test_a_driver_that_tells_no_rates_has_none(tmp_path):
    assert ask(tmp_path, VideoDevice("odd", {"YUYV": {(640, 480): []}})).modes == (Mode("YUYV", 640, 480, 0.0),)
    assert ask(tmp_path, VideoDevice("odd", {"YUYV": {(640, 480): [(0, 30), (1, 0)]}})).modes[0].fps == 0.0


def test_a_driver_without_an_end_is_not_asked_for_ever(tmp_path):
    device = EndlessDevice()
    assert len(ask(tmp_path, device).modes) == v4l2.MAX_FORMATS * v4l2.MAX_SIZES
    assert device.asked == 1 + v4l2.MAX_FORMATS * (1 + v4l2.MAX_SIZES * (1 + v4l2.MAX_RATES))


def test_what_is_no_video_device_or_not_there_is_an_error(tmp_path):
    (tmp_path / "video0").write_bytes(b"")
    with pytest.raises(OSError, match="ioctl") as caught:
        describe(tmp_path / "video0")
    assert caught.value.errno == errno.ENOTTY
    with pytest.raises(FileNotFoundError):
        describe(tmp_path / "video1")
