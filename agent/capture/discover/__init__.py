"""Which devices this computer has, and what stands in the configuration to use each.

Nothing is switched on, changed or kept open: a camera or port that another program uses is found as well.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.capture.discover.cameras import Describe, find_cameras
from agent.capture.discover.found import Found, Kind, Search, all_in_time
from agent.capture.discover.microphones import find_microphones
from agent.capture.discover.ports import GPSD_PORT, find_gpsd, find_serial_ports
from agent.capture.discover.sensors import find_sensors
from agent.capture.discover.v4l2 import describe

__all__ = ["Found", "Kind", "Search", "discover"]

TIMEOUT_S = 12.0
"""For all together. rpicam-hello may take 5 s of it, and cameras 3 s before."""


def discover(root: Path = Path("/"), gpsd_port: int = GPSD_PORT, describe: Describe = describe) -> list[Search]:
    """Look for every kind of device, side by side.

    Args:
        root: the folder that /dev, /proc and /sys are in.
        describe: asks a video device what it is.
    """
    finders: Mapping[Kind, Callable[[], Search]] = {
        "camera": functools.partial(find_cameras, root, describe),
        "microphone": functools.partial(find_microphones, root),
        "sensor": functools.partial(find_sensors, root),
        "serial": functools.partial(find_serial_ports, root),
        "gpsd": functools.partial(find_gpsd, gpsd_port),
    }
    searches = all_in_time(list(finders.values()), TIMEOUT_S)
    hung = f"the search did not end in {TIMEOUT_S:.0f} s; a driver hangs, and `dmesg` may say which"
    return [search or Search(kind, nothing=hung) for kind, search in zip(finders, searches, strict=True)]
