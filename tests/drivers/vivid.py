"""Linux's own virtual camera, with the driver's controls for what goes wrong."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.sim import wait_until

_NAME = "vivid.0"
_DRIVER = Path("/sys/bus/platform/drivers/vivid")
_CLASS = Path("/sys/class/video4linux")
_VIDIOC_S_CTRL = 0xC008561C
_PERCENTAGE_OF_DROPPED_BUFFERS = 0x00F0F040  # as `v4l2-ctl --list-ctrls` shows it


class Vivid:
    """One camera of the driver `vivid`, which has to be loaded."""

    by_id = Path("/run/tmp/by-id/usb-vivid-video-index0")
    """A link to the device file, as udev makes and removes it; there is no udev in the guest."""

    def device(self) -> Path | None:
        """The device file that it has now; None while it is unplugged."""
        for entry in _CLASS.iterdir():
            if (entry / "name").read_text().startswith("vivid"):
                return Path("/dev") / entry.name
        return None

    def link(self) -> None:
        """What udev does when a device file has come."""
        wait_until(lambda: (device := self.device()) and device.exists(), what="the camera's device file")
        device = self.device()
        assert device is not None
        self.by_id.parent.mkdir(parents=True, exist_ok=True)
        self.by_id.symlink_to(device)

    def unplug(self) -> None:
        """The driver lets go of the device, as it does when the plug is pulled."""
        self.by_id.unlink()
        (_DRIVER / "unbind").write_text(_NAME)

    def plug(self) -> None:
        (_DRIVER / "bind").write_text(_NAME)
        self.link()

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        """While a dead device file is held open, the camera comes back as another one."""
        device = os.open(str(self.device()), os.O_RDWR)
        try:
            yield
        finally:
            os.close(device)

    def stall(self) -> None:
        """From now on the device is there and gives no frame."""
        self._drop(percent=100)

    def go_on(self) -> None:
        self._drop(percent=0)

    def _drop(self, percent: int) -> None:
        """Set the driver's own control, without the pauses of starting a program for it."""
        device = os.open(str(self.device()), os.O_RDWR)
        try:
            fcntl.ioctl(device, _VIDIOC_S_CTRL, struct.pack("Ii", _PERCENTAGE_OF_DROPPED_BUFFERS, percent))
        finally:
            os.close(device)
