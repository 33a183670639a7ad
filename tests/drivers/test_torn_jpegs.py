"""A camera that loses parts of its pictures on the way, on a real driver."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.capture import make_source
from agent.config import CameraSource
from agent.values import Image
from tests.drivers.conftest import load
from tests.drivers.loopback import MjpegCamera
from tests.unit.capture.test_jpeg import by_opencv, encode, scene

NUMBER = 9
WIDTH, HEIGHT = 320, 240
WHOLE = [encode(scene(WIDTH, HEIGHT, turn)) for turn in range(5)]
PICTURES = [by_opencv(jpeg) for jpeg in WHOLE]
TORN = [jpeg[: len(jpeg) // 3] + jpeg[len(jpeg) // 3 + 2000 :] for jpeg in WHOLE]
CUT_OFF = [jpeg[: len(jpeg) // 2] for jpeg in WHOLE]
FRAMES = 30


@pytest.fixture(scope="module", autouse=True)
def device() -> Path:
    load("v4l2loopback", video_nr=NUMBER, exclusive_caps=1)
    return Path(f"/dev/video{NUMBER}")


def is_sent(image: Image) -> bool:
    """Whether this is one of the pictures, whole."""
    return any(np.array_equal(image, picture) for picture in PICTURES)


def test_torn_and_cut_off_pictures_are_left_out_and_counted(device: Path) -> None:
    sent = list(itertools.chain.from_iterable(zip(WHOLE, TORN, CUT_OFF, strict=True)))
    source = make_source(CameraSource(device=NUMBER, width=WIDTH, height=HEIGHT, fps=10))
    with MjpegCamera(device, WIDTH, HEIGHT, sent, fps=10):
        source.open()
        frames = [source.read() for _ in range(FRAMES)]
        source.close()
    assert [frame.index for frame in frames if frame] == list(range(FRAMES))
    assert all(is_sent(frame.data) for frame in frames if frame)
    assert source.broken >= FRAMES


def test_whole_pictures_are_all_taken(device: Path) -> None:
    source = make_source(CameraSource(device=str(device), width=WIDTH, height=HEIGHT, fps=10))
    with MjpegCamera(device, WIDTH, HEIGHT, WHOLE, fps=10):
        source.open()
        frames = [source.read() for _ in range(FRAMES)]
        source.close()
    assert all(frame and is_sent(frame.data) for frame in frames)
    assert source.broken == 0


def test_opencv_alone_would_take_torn_pictures(device: Path) -> None:
    """Why they are not left to it; when this fails one day, `agent.capture.jpeg` may have become needless."""
    with MjpegCamera(device, WIDTH, HEIGHT, TORN, fps=10):
        capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
        got_frame, image = capture.read()
        capture.release()
    assert got_frame
    assert not is_sent(image)
