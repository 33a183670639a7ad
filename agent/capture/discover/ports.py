"""Serial ports, and gpsd."""

import json
import os
import socket
import time
from pathlib import Path

from agent.capture.discover.found import Found, Search, access_problem, as_configured, entries, printable, read

GPSD_PORT = 2947
_GPSD_S = 0.5
_GREETING_BYTES = 4096


def find_serial_ports(root: Path) -> Search:
    """USB serial ports, each once, under the name that stays the same when it is plugged in elsewhere."""
    links = {os.path.realpath(link): link for link in reversed(entries(root / "dev/serial/by-id"))}
    nodes = [*entries(root / "dev", "ttyUSB*"), *entries(root / "dev", "ttyACM*")]
    found = [_port(node, links.get(os.path.realpath(node), node), root) for node in nodes]
    nothing = "nothing at /dev/ttyUSB* and /dev/ttyACM*; in a container, hand it in with `--device /dev/ttyUSB0`"
    return Search("serial", tuple(found), nothing)


def _port(node: Path, link: Path, root: Path) -> Found:
    """The channels are an example: only the device knows what it writes."""
    settings = {"type": "serial", "device": as_configured(link, root), "baud": 115200, "format": "json"}
    settings |= {"channels": {"value": "value"}}
    details = ("baud, format (json, csv) and channels are examples: put in what the device writes",)
    name = f"{_product(node, root) or 'serial port'} at {as_configured(node, root)}"
    return Found(name, settings, details=details, problem=access_problem(node, root, "dialout"))


def _product(node: Path, root: Path) -> str:
    """What the USB device calls itself: it is one, two or three folders above its port."""
    folder = Path(os.path.realpath(root / "sys/class/tty" / node.name / "device"))
    for above in (folder, *folder.parents[:3]):
        if product := printable(read(above / "product")):
            return product
    return ""


def find_gpsd(port: int = GPSD_PORT, host: str = "localhost") -> Search:
    """A gpsd that greets as one."""
    nothing = f"nobody answers as gpsd at {host}:{port}; `apt install gpsd`, and name the receiver in /etc/default/gpsd"
    try:
        greeting = json.loads(_greeting(host, port))
    except (OSError, ValueError, RecursionError):
        return Search("gpsd", nothing=nothing)
    if not isinstance(greeting, dict) or greeting.get("class") != "VERSION":
        return Search("gpsd", nothing=nothing)
    settings = {"enabled": True} if port == GPSD_PORT else {"enabled": True, "port": port}
    name = printable(f"release {greeting.get('release', 'unknown')}")
    return Search("gpsd", (Found(f"{name} at {host}:{port}", settings, section="gps"),))


def _greeting(host: str, port: int) -> bytes:
    """The first line that a server says.

    Raises:
        OSError: nobody is there, or it did not come in time.
    """
    deadline_s = time.monotonic() + _GPSD_S
    with socket.create_connection((host, port), timeout=_GPSD_S) as connection:
        text = b""
        while b"\n" not in text and len(text) < _GREETING_BYTES:
            connection.settimeout(max(0.01, deadline_s - time.monotonic()))
            data = connection.recv(_GREETING_BYTES)
            if not data or time.monotonic() > deadline_s:
                raise TimeoutError
            text += data
    return text.partition(b"\n")[0]
