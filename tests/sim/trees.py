"""Copies of /dev, /proc and /sys as real computers have them, as far as devices are found through them."""

import os
from pathlib import Path

from tests.sim.v4l2 import CAPTURE, IO_MC, M2M, META_CAPTURE, Kernel, VideoDevice

S30, S15, S10 = (1, 30), (1, 15), (1, 10)
C920 = {
    "YUYV": {(640, 480): [S30, S15], (1280, 720): [S10], (1920, 1080): [(1, 5)]},
    "MJPG": {(640, 480): [S30], (1280, 720): [S15, S30], (1920, 1080): [S30]},
}


class Tree:
    """A folder that stands for /, filled by and by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.video: dict[Path, VideoDevice] = {}
        root.mkdir(parents=True, exist_ok=True)

    @property
    def kernel(self) -> Kernel:
        return Kernel(self.video)

    def write(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def link(self, path: str, target: str) -> None:
        """Both as seen from the root."""
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(self.root / target, link.parent))

    def device(self, place: str, seen_as: str, **files: str) -> None:
        """A folder below /sys/devices, the link that a class or bus has to it, and its files."""
        for name, text in files.items():
            self.write(f"sys/devices/{place}/{name}", f"{text}\n")
        self.link(f"sys/{seen_as}", f"sys/devices/{place}")

    def video_node(self, number: int, name: str, device: VideoDevice, index: int = 0, by_id: str = "") -> None:
        self.write(f"dev/video{number}")
        self.write(f"sys/class/video4linux/video{number}/name", f"{name}\n")
        self.write(f"sys/class/video4linux/video{number}/index", f"{index}\n")
        self.video[self.root / f"dev/video{number}"] = device
        if by_id:
            self.link(f"dev/v4l/by-id/{by_id}-video-index{index}", f"dev/video{number}")

    def usb_camera(self, number: int, name: str, by_id: str, formats=None) -> None:
        """As uvcvideo makes one: a node for pictures, and one for metadata."""
        pictures = VideoDevice("uvcvideo", C920 if formats is None else formats)
        self.video_node(number, name, pictures, by_id=by_id)
        self.video_node(number + 1, name, VideoDevice("uvcvideo", can=META_CAPTURE), index=1, by_id=by_id)

    def program(self, name: str, output: str) -> None:
        self.write(f"usr/bin/{name}", f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\n")
        (self.root / "usr/bin" / name).chmod(0o755)


RPICAM_LIST = """\
Available cameras
-----------------
0 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx219@10)
    Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]
                             1640x1232 [41.85 fps - (0, 0)/3280x2464 crop]
1 : HD Pro Webcam C920 [1920x1080] (/base/scb/pcie@7d500000/pci@0,0/usb@0,0-1.2:1.0-046d:082d)
    Modes: 'MJPEG' : 640x480 [30.00 fps - (0, 0)/640x480 crop]
"""


def raspberry_pi(root: Path) -> Tree:
    """A Raspberry Pi 4 with a USB camera with microphone, a CSI camera, a BMP280, two DS18B20 and an Arduino."""
    tree = Tree(root)
    tree.write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    tree.usb_camera(0, "HD Pro Webcam C920", "usb-046d_HD_Pro_Webcam_C920_8A0C2F6F")
    tree.video_node(2, "unicam-image", VideoDevice("unicam", {"pBAA": {}}, can=CAPTURE | IO_MC))
    tree.video_node(10, "bcm2835-codec-decode", VideoDevice("bcm2835-codec", can=M2M))
    tree.video_node(14, "bcm2835-isp-capture0", VideoDevice("bcm2835-isp", {"YUYV": {(64, 64): [S30]}}), index=1)
    tree.program("rpicam-hello", RPICAM_LIST)
    tree.write(
        "proc/asound/cards",
        " 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones\n"
        "                      bcm2835 Headphones\n"
        " 1 [C920           ]: USB-Audio - HD Pro Webcam C920\n"
        "                      HD Pro Webcam C920 at usb-0000:01:00.0-1.2, high speed\n",
    )
    tree.write(
        "proc/asound/pcm",
        "00-00: bcm2835 Headphones : bcm2835 Headphones : playback 8\n01-00: USB Audio : USB Audio : capture 1\n",
    )
    tree.write("dev/snd/pcmC1D0c")
    tree.device(
        "platform/soc/fe804000.i2c/i2c-1/1-0076/iio:device0",
        "bus/iio/devices/iio:device0",
        name="bmp280",
        in_temp_input="25080",
        in_pressure_input="100.653253906",
        in_pressure_oversampling_ratio="16",
    )
    tree.device("virtual/thermal/thermal_zone0", "class/thermal/thermal_zone0", type="cpu-thermal", temp="48312")
    tree.device("virtual/thermal/thermal_zone0/hwmon0", "class/hwmon/hwmon0", name="cpu_thermal", temp1_input="48312")
    tree.device("platform/soc/soc:firmware/hwmon/hwmon1", "class/hwmon/hwmon1", name="rpi_volt", in0_lcrit_alarm="0")
    tree.device("platform/soc/i2c-1/1-0044/hwmon/hwmon2", "class/hwmon/hwmon2", name="sht3x", temp1_input="21480",
        humidity1_input="43210")  # fmt: skip
    for number, value in (("28-0316a2795eff", "20937"), ("28-0416a24911ff", "19125")):
        reading = f"50 01 55 00 7f ff 0c 10 1c : crc=1c YES\n50 01 55 00 7f ff 0c 10 1c t={value}"
        tree.device(f"w1_bus_master1/{number}", f"bus/w1/devices/{number}", w1_slave=reading)
    tree.device("w1_bus_master1", "bus/w1/devices/w1_bus_master1", w1_master_name="w1_bus_master1")
    tree.device(f"w1_bus_master1/{number}/hwmon/hwmon3", "class/hwmon/hwmon3", name="w1_slave_temp", temp1_input="1")
    port = "platform/scb/usb1/1-1/1-1.3"
    tree.write(f"sys/devices/{port}/product", "Arduino Uno\n")
    tree.write(f"sys/devices/{port}/1-1.3:1.0/bInterfaceClass", "02\n")
    tree.link("sys/class/tty/ttyACM0/device", f"sys/devices/{port}/1-1.3:1.0")
    tree.write("dev/ttyACM0")
    tree.link("dev/serial/by-id/usb-Arduino__www.arduino.cc__0043_75-if00", "dev/ttyACM0")
    return tree


def jetson(root: Path) -> Tree:
    """A Jetson Orin Nano with two CSI cameras."""
    tree = Tree(root)
    for number, place in enumerate(("9-0010", "10-0010")):
        bayer = VideoDevice("tegra-video", {"RG10": {(3280, 2464): [(1, 21)], (1280, 720): [(1, 60)]}})
        tree.video_node(number, f"vi-output, imx219 {place}", bayer)
    tree.write(
        "proc/asound/cards", " 1 [APE            ]: tegra-ape - NVIDIA Jetson Orin Nano APE\n                 -\n"
    )
    tree.write(
        "proc/asound/pcm",
        "".join(f"01-{i:02}: tegra-dlink-{i} XBAR-ADMAIF{i + 1}-{i} :  : playback 1 : capture 1\n" for i in range(20)),
    )
    for number, (name, value) in enumerate(
        (("cpu-thermal", "51500"), ("gpu-thermal", "50100"), ("tj-thermal", "52"), ("PMIC-Die", "100000"))
    ):
        tree.device(
            f"virtual/thermal/thermal_zone{number}", f"class/thermal/thermal_zone{number}", type=name, temp=value
        )
    tree.device(
        "platform/c240000.i2c/i2c-1/1-0040/hwmon/hwmon1", "class/hwmon/hwmon1", name="ina3221", in1_input="5088"
    )
    return tree


def laptop(root: Path) -> Tree:
    """A notebook with cameras for colour and infrared, a microphone, an accelerometer, and sensors in the processor."""
    tree = Tree(root)
    tree.usb_camera(0, "Integrated Camera: Integrated C", "usb-Chicony_Integrated_Camera_0001")
    grey = {"GREY": {(640, 360): [S15]}}
    tree.usb_camera(2, "Integrated Camera: Integrated I", "usb-Chicony_Infrared_Camera_0001", grey)
    tree.write(
        "proc/asound/cards", " 0 [PCH            ]: HDA-Intel - HDA Intel PCH\n                      at 0x1 irq 155\n"
    )
    tree.write(
        "proc/asound/pcm",
        "00-00: ALC257 Analog : ALC257 Analog : playback 1 : capture 1\n00-03: HDMI 0 : HDMI 0 : playback 1\n",
    )
    tree.write("dev/snd/pcmC0D0c")
    tree.device(
        "platform/coretemp.0/hwmon/hwmon5",
        "class/hwmon/hwmon5",
        name="coretemp",
        temp1_input="45000",
        temp1_label="Package id 0",
        temp2_input="43000",
        temp2_label="Core 0",
        temp3_input="44000",
        temp3_label="Core 0",
    )
    tree.device("virtual/thermal/thermal_zone0", "class/thermal/thermal_zone0", type="acpitz", temp="27800")
    tree.device("virtual/thermal/thermal_zone1", "class/thermal/thermal_zone1", type="acpitz", temp="40000")
    tree.device("virtual/thermal/thermal_zone0/hwmon1", "class/hwmon/hwmon1", name="acpitz", temp1_input="27800")
    for number, name in enumerate(("accel_3d", "als")):  # two on one hub
        files = {"in_accel_x_raw": "12", "in_accel_scale": "0.5", "in_rot_quaternion_raw": "0 0 0 1"}
        files = {"name": name, **(files if number == 0 else {"in_illuminance_raw": "40"})}
        tree.device(f"usb1/hub/iio:device{number}", f"bus/iio/devices/iio:device{number}", **files)
    return tree


def container(root: Path) -> Tree:
    """A container: it sees the class folders of its host, and no device."""
    tree = Tree(root)
    (root / "sys/class/thermal").mkdir(parents=True)
    (root / "dev").mkdir()
    return tree
