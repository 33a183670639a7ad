"""Cameras: USB and others on V4L2, and CSI cameras of Raspberry Pi and Jetson."""

import errno
import functools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.capture.child import Child
from agent.capture.discover.found import Found, Search, access_problem, all_in_time, as_configured, entries, printable
from agent.capture.discover.found import read as read_file
from agent.capture.discover.v4l2 import Description, Mode, describe
from agent.errors import SourceError

BEST_WIDTH_PX, BEST_HEIGHT_PX = 1280, 720
"""Larger pictures cost more to decode than models see of them."""

_ANSWER_S = 3.0  # a USB camera that hangs lets each question wait for 5 s
_LIST_S = 5.0
_LIST_BYTES = 1 << 16
_USABLE_FPS = 10.0
_SHOWN_SIZES = 12
_SHOWN_FORMATS = 8
_DECODED = ("MJPG", "JPEG", "YUYV", "UYVY", "NV12", "NV21", "YU12", "YV12", "BGR3", "RGB3", "GREY")
"""What OpenCV makes pictures of."""
_CSI_PARTS = ("bcm2835-codec", "bcm2835-isp", "unicam", "rp1-cfe", "pispbe", "rpivid", "rpi-hevc-dec")
"""Nodes of a Raspberry Pi that look like cameras and are parts of one, or of the video decoder."""
_CSI_RECEIVERS = ("unicam", "rp1-cfe")
_JETSON = ("tegra-video", "vi-output")
_NODE = re.compile(r"video[0-9]{1,3}")
_LISTED = re.compile(r"^\s*([0-9]{1,2}) : (\S+) \[([0-9]+x[0-9]+)[^\]]*\] \((.*)\)", re.MULTILINE)

Describe = Callable[[Path], Description]


@dataclass(frozen=True, slots=True)
class _Node:
    """A /dev/videoN, and what could be learnt about it."""

    path: Path
    name: str
    """What the kernel calls it."""
    index: int
    """Its place among the nodes of one camera: a USB camera has one for pictures and one for metadata."""
    answer: Description | None
    problem: str | None = None

    def is_of(self, names: tuple[str, ...]) -> bool:
        return any(text.startswith(names) for text in (self.name, self.answer.driver if self.answer else ""))


def find_cameras(root: Path, describe: Describe = describe) -> Search:
    """All cameras, those on V4L2 first."""
    nodes = _nodes(root, describe)
    csi, mend = _picameras(root)
    plain = [node for node in nodes if not node.is_of((*_CSI_PARTS, *_JETSON)) and _is_camera(node)]
    found = [_camera(node, root) for node in plain]
    found += csi
    found += [_jetson(number, node) for number, node in enumerate(node for node in nodes if node.is_of(_JETSON))]
    nothing = "none is plugged in, or its driver is not loaded; `dmesg` tells what happens when it is plugged in"
    if mend and (any(node.is_of(_CSI_RECEIVERS) for node in nodes) or _is_raspberry(root)):
        nothing = f"{nothing}; {mend}"
    return Search("camera", tuple(found), nothing)


def best_mode(modes: tuple[Mode, ...]) -> Mode | None:
    """The largest pictures up to 1280x720 that come at a usable rate, as JPEG where there is a choice; None when OpenCV
    could read none of them."""
    readable = [mode for mode in modes if mode.format in _DECODED and min(mode.width_px, mode.height_px) > 0]
    compressed = [mode for mode in readable if mode.format == "MJPG"]
    choice = compressed or readable
    fitting = [mode for mode in choice if mode.width_px <= BEST_WIDTH_PX and mode.height_px <= BEST_HEIGHT_PX]
    if not fitting:
        return min(choice, key=_area, default=None)
    return max(fitting, key=lambda mode: (mode.fps >= _USABLE_FPS, _area(mode), mode.fps))


def _area(mode: Mode) -> int:
    return mode.width_px * mode.height_px


def _nodes(root: Path, describe: Describe) -> list[_Node]:
    """Every node that the kernel or /dev knows."""
    known = root / "sys/class/video4linux"
    names = {path.name for path in (*entries(known, "video*"), *entries(root / "dev", "video*"))}
    numbers = sorted(int(name.removeprefix("video")) for name in names if _NODE.fullmatch(name))
    folders = [known / f"video{number}" for number in numbers]
    tasks = [functools.partial(_node, root / "dev" / folder.name, folder, root, describe) for folder in folders]
    nodes = zip(folders, all_in_time(tasks, _ANSWER_S), strict=True)
    return [node or _silent(root / "dev" / folder.name, folder) for folder, node in nodes]


def _node(path: Path, folder: Path, root: Path, describe: Describe) -> _Node:
    name, number = printable(read_file(folder / "name")), read_file(folder / "index")
    index = int(number) if number.isascii() and number.isdigit() else 0
    problem = access_problem(path, root, "video")
    if problem is not None:
        return _Node(path, name, index, None, problem)
    try:
        answer = describe(path)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return _Node(path, name, index, None, f"another program has it (`fuser {path}`), so it told no sizes")
        reason = (exc.strerror or str(exc)).lower()
        return _Node(path, name, index, None, f"does not answer: {reason}; plug it in again, or see `dmesg`")
    return _Node(path, name or printable(answer.card), index, answer)


def _silent(path: Path, folder: Path) -> _Node:
    problem = f"no answer for {_ANSWER_S:.0f} s; plug it in again, or see `dmesg`"
    return _Node(path, printable(read_file(folder / "name")), 0, None, problem)


def _is_camera(node: _Node) -> bool:
    """One that could not be asked counts when it is the first node of its camera."""
    return node.answer.is_camera if node.answer else node.index == 0


def _camera(node: _Node, root: Path) -> Found:
    modes = node.answer.modes if node.answer else ()
    best = best_mode(modes)
    settings: dict[str, Any] = {"type": "camera", "device": _lasting_path(node.path, root)}
    if best is not None:
        settings |= {"width": best.width_px, "height": best.height_px}
        settings |= {"fps": _rate(best.fps)} if best.fps else {}
        settings |= {"format": best.format}
    problem = node.problem
    if node.answer and best is None:
        problem = "it offers no format that can be read; `v4l2-ctl --list-formats-ext` shows what it has"
    name = f"{node.name or 'camera'} at {as_configured(node.path, root)}"
    return Found(name, settings, details=tuple(_summaries(modes)), problem=problem)


def _rate(fps: float) -> float | int:
    return round(fps) if abs(fps - round(fps)) < 0.005 else round(fps, 2)


def _summaries(modes: tuple[Mode, ...]) -> Iterator[str]:
    """A line for each format: its sizes, with the highest rate of each."""
    names = list(dict.fromkeys(mode.format for mode in modes))
    for name in names[:_SHOWN_FORMATS]:
        sizes = sorted({mode for mode in modes if mode.format == name}, key=_area, reverse=True)
        shown = [f"{mode.width_px}x{mode.height_px}" + (f"@{_rate(mode.fps)}" if mode.fps else "") for mode in sizes]
        more = f", {len(sizes) - _SHOWN_SIZES} more" if len(sizes) > _SHOWN_SIZES else ""
        yield f"{printable(name)}: {', '.join(shown[:_SHOWN_SIZES])}{more}"
    if names[_SHOWN_FORMATS:]:
        yield f"and {len(names) - _SHOWN_FORMATS} more formats"


def _lasting_path(node: Path, root: Path) -> str:
    """The link that stays the same wherever the camera is plugged in; or at least after a restart; or the node."""
    for folder in ("by-id", "by-path"):
        for link in entries(root / "dev/v4l" / folder):
            if os.path.realpath(link) == os.path.realpath(node):
                return as_configured(link, root)
    return as_configured(node, root)


def _is_raspberry(root: Path) -> bool:
    return "Raspberry Pi" in read_file(root / "proc/device-tree/model")


def _picameras(root: Path) -> tuple[list[Found], str]:
    """CSI cameras that libcamera lists, and the mend when there are none."""
    folders = os.pathsep.join(str(root / folder) for folder in ("usr/local/bin", "usr/bin", "bin"))
    program = next(filter(None, (shutil.which(name, path=folders) for name in ("rpicam-hello", "libcamera-hello"))), "")
    if not program:
        return [], "`apt install rpicam-apps` makes CSI cameras usable"
    listing = f"`{Path(program).name} --list-cameras`"
    text = _output(program)
    if text is None:
        return [], f"{listing} hangs"
    found = [
        _picamera(int(number), name, size)
        for number, name, size, place in _LISTED.findall(text)
        if "usb" not in place.lower()  # those are on V4L2 as well, and better there
    ]
    return found, f"{listing} lists none: look at the ribbon cable"


def _output(program: str) -> str | None:
    """What a program lists, within bounds; None when it does not end."""
    child = Child([program, "--list-cameras"], Path(program).name)
    deadline_s = time.monotonic() + _LIST_S
    text = b""
    try:
        child.open()
        while len(text) < _LIST_BYTES:
            text += child.read(_LIST_BYTES, deadline_s - time.monotonic())
    except SourceError:  # it has ended, or does not
        if time.monotonic() >= deadline_s:
            return None
    finally:
        child.close()
    return text.decode("utf-8", "replace")


def _picamera(number: int, name: str, size: str) -> Found:
    return Found(f"CSI camera {number}, {printable(name)} with {size}", _csi_settings("picamera", camera=number))


def _jetson(number: int, node: _Node) -> Found:
    modes = tuple(_summaries(node.answer.modes)) if node.answer else ()
    name = f"CSI camera {number}, {node.name or 'tegra-video'}"
    return Found(name, _csi_settings("jetson", sensor_id=number), details=modes, problem=node.problem)


def _csi_settings(kind: str, **number: int) -> dict[str, Any]:
    """The image processor makes any size of what the sensor has; 30 frames a second all of them reach with this."""
    return {"type": kind, **number, "width": BEST_WIDTH_PX, "height": BEST_HEIGHT_PX, "fps": 30}
