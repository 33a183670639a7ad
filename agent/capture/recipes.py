"""CSI cameras: which program brings their pictures, and how it is called.

MJPEG rather than raw pictures: it finds its way back after a stray line that a library prints to standard output, and
has no padding at the ends of lines, which depends on the program and the width.
"""

import shutil
from collections.abc import Callable
from fractions import Fraction

from agent.config import ExecSource, JetsonSource, PicameraSource


def recipe(spec: PicameraSource | JetsonSource, find: Callable[[str], str | None] = shutil.which) -> ExecSource:
    """The program for this camera. `find` gives the path of a program, or None."""
    command = _jetson(spec) if isinstance(spec, JetsonSource) else _picamera(spec, find)
    return ExecSource(command=tuple(command), read_timeout_s=spec.read_timeout_s)


def _picamera(spec: PicameraSource, find: Callable[[str], str | None]) -> list[str]:
    """`--flush`: without it the end of each picture waits in a buffer for the next one."""
    old_name = "libcamera-vid"  # until Raspberry Pi OS Bookworm
    program = old_name if find(old_name) and not find("rpicam-vid") else "rpicam-vid"
    camera = ["--camera", str(spec.camera), "--width", str(spec.width), "--height", str(spec.height)]
    endless = ["-t", "0", "-n", "--codec", "mjpeg", "--flush"]
    return [program, *endless, *camera, "--framerate", f"{spec.fps:g}", *spec.args, "-o", "-"]


def _jetson(spec: JetsonSource) -> list[str]:
    rate = Fraction(spec.fps).limit_denominator(1000)
    size = f"width={spec.width},height={spec.height},framerate={rate.numerator}/{rate.denominator}"
    elements = [
        ["nvarguscamerasrc", f"sensor-id={spec.sensor_id}"],
        [f"video/x-raw(memory:NVMM),{size}"],
        ["nvvidconv", f"flip-method={spec.flip_method}"],
        ["video/x-raw,format=I420"],
        ["jpegenc"],
    ]
    return ["gst-launch-1.0", "-q", *(word for element in elements for word in (*element, "!")), "fdsink"]
