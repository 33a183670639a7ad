"""The table of sources, and what has to happen before OpenCV is imported."""

import subprocess
import sys
from typing import get_args

import cv2
import numpy as np
import pytest

from agent.capture import SOURCES, make_source, prepare_environment, stall_timeout_s
from agent.config import (
    CameraSource,
    ExecSource,
    FileSource,
    JetsonSource,
    MicrophoneSource,
    PicameraSource,
    SourceSpec,
    StreamSource,
    SyntheticSource,
)

ONE_OF_EACH = [
    CameraSource(),
    StreamSource(url="rtsp://127.0.0.1/cam"),
    FileSource(path="clip.mp4"),
    SyntheticSource(),
    ExecSource(command=("cat",)),
    PicameraSource(),
    JetsonSource(),
    MicrophoneSource(),
    FileSource(path="sound.wav"),
]


def run_python(code: str, **env: str) -> str:
    """What a fresh Python prints."""
    return subprocess.run(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout.strip()


def test_every_source_of_the_configuration_is_in_the_table():
    assert set(get_args(SourceSpec)) == set(SOURCES)


@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=lambda spec: type(spec).__name__)
def test_a_new_source_is_closed_and_has_a_name(spec):
    source = make_source(spec)
    assert source.name
    assert source.broken == 0


def test_importing_capture_and_its_guard_loads_neither_opencv_nor_pyav():
    code = "import sys, agent.capture, agent.capture.reader; print({'cv2', 'av'} & set(sys.modules))"
    assert run_python(code) == "set()"


def test_a_synthetic_source_never_loads_opencv_or_pyav():
    code = """
import sys
from agent.capture import make_source
from agent.config import SyntheticSource
source = make_source(SyntheticSource())
source.open()
source.read()
print({'cv2', 'av'} & set(sys.modules))
"""
    assert run_python(code) == "set()"


def test_only_live_sources_can_stall():
    assert [stall_timeout_s(spec) for spec in ONE_OF_EACH] == [1.5, 5.0, None, None, 5.0, 5.0, 5.0, 2.0, None]


@pytest.fixture
def environment(monkeypatch):
    """os.environ with nothing of OpenCV's in it; restored afterwards."""
    environ = {"PATH": "/bin"}
    monkeypatch.setattr("os.environ", environ)
    return environ


def test_opencv_waits_for_a_camera_as_long_as_the_most_patient_camera_says_in_whole_seconds(environment):
    prepare_environment([CameraSource(read_timeout_s=0.5), CameraSource(read_timeout_s=2.5), SyntheticSource()])
    assert environment["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] == "3"


def test_without_a_camera_its_timeout_is_left_alone(environment):
    prepare_environment([SyntheticSource()])
    assert "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT" not in environment


def test_what_the_user_set_stays_but_an_empty_value_counts_as_unset(environment):
    environment["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = "7"
    environment["OPENCV_IO_MAX_IMAGE_WIDTH"] = ""
    environment["OPENCV_LOG_LEVEL"] = "DEBUG"
    prepare_environment([CameraSource()])
    assert environment["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] == "7"
    assert environment["OPENCV_IO_MAX_IMAGE_WIDTH"] == "8192"
    assert environment["OPENCV_LOG_LEVEL"] == "DEBUG"


@pytest.mark.parametrize(("width", "loaded"), [(8192, True), (8193, False)])
def test_after_preparing_opencv_refuses_larger_pictures_than_a_frame_may_be(tmp_path, width, loaded):
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.zeros((2, width, 3), np.uint8))
    code = f"""
from pathlib import Path
from agent.capture import prepare_environment
prepare_environment([])
from agent.capture.file import load_picture
print(load_picture(Path({str(path)!r})) is not None)
"""
    assert run_python(code) == str(loaded)
