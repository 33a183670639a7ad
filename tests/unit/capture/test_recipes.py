"""CSI cameras: the right program with the right arguments, and pictures from one that checks them."""

from contextlib import closing

import cv2
import pytest

from agent.capture import make_source
from agent.capture.recipes import recipe
from agent.capture.synthetic import picture
from agent.config import ExecSource, JetsonSource, PicameraSource
from agent.errors import SourceError
from tests.sim.picture_program import picture_command


def only(*installed):
    return lambda name: f"/usr/bin/{name}" if name in installed else None


def test_the_recipe_for_a_raspberry_pi():
    spec = PicameraSource(camera=1, width=1280, height=720, fps=29.97, args=("--rotation", "180"), read_timeout_s=3.0)
    assert recipe(spec, only("rpicam-vid")) == ExecSource(
        command=(
            *("rpicam-vid", "-t", "0", "-n", "--codec", "mjpeg", "--flush"),
            *("--camera", "1", "--width", "1280", "--height", "720", "--framerate", "29.97"),
            *("--rotation", "180", "-o", "-"),
        ),
        output="mjpeg",
        read_timeout_s=3.0,
    )


@pytest.mark.parametrize(
    ("installed", "program"),
    [
        (("rpicam-vid", "libcamera-vid"), "rpicam-vid"),
        (("rpicam-vid",), "rpicam-vid"),
        (("libcamera-vid",), "libcamera-vid"),
        ((), "rpicam-vid"),
    ],
)
def test_older_systems_have_it_under_its_older_name(installed, program):
    assert recipe(PicameraSource(), only(*installed)).command[0] == program


@pytest.mark.parametrize(("fps", "rate"), [(15.0, "15/1"), (29.97, "2997/100"), (7.5, "15/2")])
def test_the_recipe_for_a_jetson(fps, rate):
    spec = JetsonSource(sensor_id=1, width=1280, height=720, fps=fps, flip_method=2, read_timeout_s=3.0)
    assert recipe(spec) == ExecSource(
        command=(
            *("gst-launch-1.0", "-q", "nvarguscamerasrc", "sensor-id=1", "!"),
            *(f"video/x-raw(memory:NVMM),width=1280,height=720,framerate={rate}", "!"),
            *("nvvidconv", "flip-method=2", "!", "video/x-raw,format=I420", "!", "jpegenc", "!", "fdsink"),
        ),
        output="mjpeg",
        read_timeout_s=3.0,
    )


@pytest.mark.parametrize(
    ("spec", "name", "program", "package"),
    [
        (PicameraSource(camera=1), "picamera 1", "rpicam-vid", "rpicam-apps"),
        (JetsonSource(), "jetson 0", "gst-launch-1.0", "gstreamer1.0-tools"),
    ],
)
def test_a_camera_whose_program_is_there_gives_frames_and_else_says_what_to_install(
    tmp_path, monkeypatch, spec, name, program, package
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=rf"^{name}: {program}: not installed; `apt install {package}`$"):
        make_source(spec).open()
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0").write_bytes(cv2.imencode(".jpg", picture(0, 64, 48))[1].tobytes())
    command = " ".join(f"'{word}'" for word in picture_command(pictures))
    (tmp_path / program).write_text(f"#!/bin/sh\necho GST_ARGUS: ready\nexec {command}\n")
    (tmp_path / program).chmod(0o755)
    with closing(make_source(spec)) as source:
        source.open()
        assert source.name == name
        assert [source.read().data.shape for _ in range(3)] == [(48, 64, 3)] * 3
        assert source.broken == 0
