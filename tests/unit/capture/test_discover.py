"""Devices are found in trees as real computers have them, and the YAML for each is configuration that works."""

import contextlib
import errno
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.capture.discover import cameras, discover
from agent.capture.discover.cameras import best_mode
from agent.capture.discover.ports import GPSD_PORT, find_gpsd
from agent.capture.discover.v4l2 import Mode, describe
from agent.capture.sysfs import make_sysfs
from agent.cli.discover import blocks, report, summary
from agent.config import (
    CameraSource,
    Config,
    Gps,
    JetsonSource,
    MicrophoneSource,
    PicameraSource,
    SerialSource,
    SysfsSource,
)
from agent.runtime.yamlfile import parse_document
from tests.sim import free_port, require_program, wait_until
from tests.sim.trees import Tree, container, jetson, laptop, raspberry_pi
from tests.sim.v4l2 import VideoDevice

PIPELINE = "pipelines:\n  - name: hall\n    model: face\n"
VERSION = b'{"class":"VERSION","release":"3.22","rev":"3.22","proto_major":3,"proto_minor":14}\r\n'
NOBODY = 9  # the discard port
BY_ID = "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920_8A0C2F6F-video-index0"
I2C = "/sys/devices/platform/soc/fe804000.i2c/i2c-1"


def search(tree: Tree, gpsd_port: int = NOBODY):
    return discover(tree.root, gpsd_port, functools.partial(describe, ioctl=tree.kernel.ioctl))


def found(tree: Tree, kind: str):
    return next(search.found for search in search(tree) if search.kind == kind)


def configured(block: str) -> Config:
    """The configuration, after a block was pasted into it."""
    text = PIPELINE + block if "\n    source:" in block else f"{PIPELINE}    source: {{type: camera}}\n{block}"
    return parse_document(text.encode(), Config, "config.yaml")


def sources(tree: Tree) -> list[object]:
    """What the printed blocks configure, each pasted where it belongs."""
    printed = [block for block in blocks(search(tree)) if not block.startswith("# no ")]
    assert all(block.startswith("# ") for block in printed)
    return [configured(block).pipelines[0].source for block in printed]


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of the user that this test runs as, who may not do everything, as root may."""
    with tempfile.TemporaryDirectory() as name:
        is_root = os.getuid() == 0
        if is_root:
            os.chown(name, 65534, 65534)
            os.setresuid(65534, 65534, 0)
        try:
            yield Path(name)
        finally:
            if is_root:
                os.setresuid(0, 0, 0)


@pytest.fixture
def gpsd() -> Iterator[list]:
    """A server that greets with the first of the list; its port is the second."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = [VERSION, server.getsockname()[1]]

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(ConnectionError):
                    connection.sendall(said[0])
                    connection.recv(1)  # until the other side has enough

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield said
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


class TestRaspberryPi:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Tree:
        return raspberry_pi(tmp_path / "root")

    def test_every_device_is_there_once_with_the_configuration_that_uses_it(self, tree: Tree):
        usb, csi, microphone, *sensors, arduino = sources(tree)
        assert usb == CameraSource(device=BY_ID, width=1280, height=720, fps=30, format="MJPG")
        assert csi == PicameraSource(camera=0, width=1280, height=720, fps=30)
        assert microphone == MicrophoneSource(device="plughw:CARD=C920,DEV=0")
        assert isinstance(arduino, SerialSource)
        assert arduino.device == "/dev/serial/by-id/usb-Arduino__www.arduino.cc__0043_75-if00"
        assert all(isinstance(sensor, SysfsSource) for sensor in sensors)
        assert [set(sensor.channels) for sensor in sensors] == [
            {"temperature_c", "pressure_kpa"},
            {"temperature_c", "humidity_percent"},
            {"temperature_c_28_0316a2795eff", "temperature_c_28_0416a24911ff"},
            {"temperature_c_cpu_thermal"},
        ]

    def test_the_sensors_give_values_in_the_units_of_their_names(self, tree: Tree):
        values = {}
        for spec in sources(tree):
            if isinstance(spec, SysfsSource):
                with contextlib.closing(make_sysfs(spec, tree.root)) as source:
                    source.open()
                    frame = source.read()
                    values |= dict(zip(frame.channels, frame.data[0].tolist(), strict=True))
        assert values == pytest.approx(
            {
                "temperature_c": 21.48,
                "pressure_kpa": 100.653253906,
                "humidity_percent": 43.21,
                "temperature_c_28_0316a2795eff": 20.937,
                "temperature_c_28_0416a24911ff": 19.125,
                "temperature_c_cpu_thermal": 48.312,
            }
        )

    def test_chips_are_named_by_their_place_since_numbers_change(self, tree: Tree):
        paths = [channel.path for spec in sources(tree) if isinstance(spec, SysfsSource) for channel in
                 spec.channels.values()]  # fmt: skip
        assert f"{I2C}/1-0076/iio:device*/in_temp_input" in paths
        assert "/sys/devices/platform/soc/i2c-1/1-0044/hwmon/hwmon*/temp1_input" in paths
        assert "/sys/bus/w1/devices/28-0316a2795eff/w1_slave" in paths

    def test_people_read_what_it_is(self, tree: Tree):
        printed = list(blocks(search(tree)))
        assert printed[0] == (
            "# camera: HD Pro Webcam C920 at /dev/video0\n"
            "#   YUYV: 1920x1080@5, 1280x720@10, 640x480@30\n"
            "#   MJPG: 1920x1080@30, 1280x720@30, 640x480@30\n"
            f"    source: {{type: camera, device: {BY_ID}, width: 1280, height: 720,\n"
            "      fps: 30, format: MJPG}"
        )
        assert printed[1].startswith("# camera: CSI camera 0, imx219 with 3280x2464\n")
        assert printed[2].startswith("# microphone: HD Pro Webcam C920, USB Audio\n")
        assert printed[-2].startswith("# serial port: Arduino Uno at /dev/ttyACM0\n")
        assert printed[-1].startswith(f"# no gpsd: nobody answers as gpsd at localhost:{NOBODY}; `apt install gpsd`")

    def test_programs_read_the_same(self, tree: Tree):
        document = json.loads(json.dumps(report(search(tree))))
        assert [device["kind"] for device in document["devices"]] == [
            *("camera", "camera", "microphone", "sensor", "sensor", "sensor", "sensor", "serial"),
        ]
        assert document["devices"][0]["settings"]["device"] == BY_ID
        assert document["devices"][0]["section"] == "source"
        assert list(document["nothing"]) == ["gpsd"]

    def test_they_are_counted(self, tree: Tree):
        assert summary(search(tree)).startswith(
            "2 cameras, 1 microphone, 4 sensors, 1 serial port; `edge-agent discover`"
        )

    @pytest.mark.parametrize(
        "script", ["exec sleep 60", "kill -9 $$", "echo 'No cameras available!'", "sleep 60 & sleep 60", "exec yes"]
    )
    def test_a_listing_that_hangs_or_fails_costs_the_csi_cameras_only(self, tree: Tree, script, monkeypatch):
        monkeypatch.setattr(cameras, "_LIST_S", 0.3)
        (tree.root / "usr/bin/rpicam-hello").write_text(f"#!/bin/sh\n{script}\n")
        began_s = time.monotonic()
        assert len(found(tree, "camera")) == 1
        assert time.monotonic() - began_s < 3.0

    def test_without_the_program_that_lists_them_it_is_named(self, tmp_path: Path):
        tree = Tree(tmp_path / "bare")
        tree.write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
        assert "`apt install rpicam-apps`" in search(tree)[0].nothing


class TestOthers:
    def test_a_jetson_has_csi_cameras_and_no_microphone_behind_its_crossbar(self, tmp_path: Path):
        tree = jetson(tmp_path)
        first, second, zones = sources(tree)
        assert first == JetsonSource(sensor_id=0, width=1280, height=720, fps=30)
        assert second == JetsonSource(sensor_id=1, width=1280, height=720, fps=30)
        assert list(zones.channels) == [f"temperature_c_{name}_thermal" for name in ("cpu", "gpu", "tj")]

    def test_a_laptop(self, tmp_path: Path):
        tree = laptop(tmp_path)
        colour, infrared, microphone, accelerometer, light, processor, zones = sources(tree)
        assert (colour.format, colour.width) == ("MJPG", 1280)
        assert (infrared.format, infrared.width, infrared.fps) == ("GREY", 640, 15)
        assert microphone.device == "plughw:CARD=PCH,DEV=0"
        assert accelerometer.channels["acceleration_m_s2_x"].path == "/sys/bus/iio/devices/iio:device0/in_accel_x_raw"
        assert list(light.channels) == ["illuminance_lux"]
        assert list(processor.channels) == [
            *("temperature_c_package_id_0", "temperature_c_core_0", "temperature_c_core_0_3"),
        ]
        assert list(zones.channels) == ["temperature_c_acpitz", "temperature_c_acpitz_1"]

    def test_an_empty_container_says_what_is_missing_and_how_to_hand_it_in(self, tmp_path: Path):
        searches = search(container(tmp_path / "root"))
        (block,) = blocks(searches)
        assert [line.split(":")[0] for line in block.splitlines()] == [
            *("# no camera", "# no microphone", "# no sensor", "# no serial port", "# no gpsd"),
        ]
        assert "`--device /dev/snd`" in block
        assert "--device /dev/ttyUSB0" in block
        assert summary(searches) == "none found; `edge-agent discover` says why that may be"
        assert len(report(searches)["nothing"]) == 5

    def test_this_machine_is_searched_without_a_configuration(self, tmp_path: Path):
        root = str(Path(__file__).resolve().parents[3])
        command = [sys.executable, "-m", "agent", "discover"]
        environ = {**os.environ, "PYTHONPATH": root}
        done = [
            subprocess.run([*command, *more], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
            for more in ([], ["--json"])
        ]
        assert "# " in done[0].stdout
        assert {"devices", "nothing"} == set(json.loads(done[1].stdout))


class TestTrouble:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Tree:
        return Tree(tmp_path / "root")

    def test_cameras_of_the_host_that_a_container_did_not_get_are_named(self, tree: Tree):
        tree.usb_camera(0, "C920", "usb-C920", {})
        for node in (tree.root / "dev").glob("video*"):
            node.unlink()
        (camera,) = found(tree, "camera")
        assert camera.problem == "/dev/video0 is not there; in a container, hand it in with `--device`"

    def test_a_device_without_permission_is_listed_with_the_group_that_has_it(self, nobody: Path):
        tree = Tree(nobody / "root")
        tree.usb_camera(0, "C920", "usb-C920")
        tree.write("proc/asound/cards", " 0 [PCH            ]: HDA-Intel - HDA Intel PCH\n")
        tree.write("proc/asound/pcm", "00-00: ALC257 : ALC257 : capture 1\n")
        tree.write("dev/snd/pcmC0D0c")
        tree.write("dev/ttyUSB0")
        for node in ("video0", "video1", "snd/pcmC0D0c", "ttyUSB0"):
            (tree.root / "dev" / node).chmod(0)
        problems = [(search.kind, device.problem) for search in search(tree) for device in search.found]
        mend = "no permission; add the user that runs the agent to the group"
        groups = {"camera": "video", "microphone": "audio", "serial": "dialout"}
        assert problems == [(kind, f"{mend} {group}") for kind, group in groups.items()]

    @pytest.mark.parametrize(
        ("number", "words"),
        [(errno.EBUSY, "another program has it (`fuser "), (errno.ENODEV, "does not answer: no such device")],
    )
    def test_a_camera_that_is_busy_or_broken_is_listed_all_the_same(self, tree: Tree, number: int, words: str):
        tree.video_node(0, "C920", VideoDevice("uvcvideo"))

        def refuse(path: Path):
            raise OSError(number, os.strerror(number))

        (camera,) = discover(tree.root, NOBODY, refuse)[0].found
        assert words in camera.problem
        assert camera.settings == {"type": "camera", "device": "/dev/video0"}

    def test_a_driver_that_hangs_costs_its_camera_only(self, tree: Tree, monkeypatch):
        monkeypatch.setattr(cameras, "_ANSWER_S", 0.3)
        tree.video_node(0, "stuck", VideoDevice("uvcvideo"))
        tree.usb_camera(1, "C920", "usb-C920")
        release = threading.Event()

        def hang(path: Path):
            if path.name == "video0":
                release.wait(30)
            return describe(path, tree.kernel.ioctl)

        stuck, sound = discover(tree.root, NOBODY, hang)[0].found
        release.set()
        assert "no answer" in stuck.problem
        assert sound.problem is None

    def test_a_camera_without_a_readable_format_says_so(self, tree: Tree):
        tree.video_node(0, "odd", VideoDevice("odd", {"H264": {(1280, 720): [(1, 30)]}}))
        (camera,) = found(tree, "camera")
        assert "no format that can be read" in camera.problem

    def test_ports_without_a_lasting_name_are_found_in_order(self, tree: Tree):
        for name in ("ttyUSB10", "ttyUSB2", "ttyS0", "tty1"):
            tree.write(f"dev/{name}")
        assert [port.settings["device"] for port in found(tree, "serial")] == ["/dev/ttyUSB2", "/dev/ttyUSB10"]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        text=st.one_of(st.text(max_size=200), st.sampled_from(["\x1b[2Jpwned", "a: [b\n c", "'\"\\", "\x85\u2028- x"]))
    )
    def test_names_that_devices_give_themselves_do_no_harm(self, tmp_path_factory, text: str):
        tree = Tree(tmp_path_factory.mktemp("hostile"))
        tree.usb_camera(0, text, "usb-x")
        tree.write("proc/asound/cards", f" 0 [{text}]: {text} - {text}\n 1 [C]: USB - {text}\n")
        tree.write("proc/asound/pcm", f"01-00: {text} : capture 1\n{text}\n")
        tree.device("a/iio:device0", "bus/iio/devices/iio:device0", name=text, in_temp_raw=text)
        tree.device("b/hwmon0", "class/hwmon/hwmon0", name=text, temp1_input="1", temp1_label=text)
        tree.device("c", "class/thermal/thermal_zone0", type=text, temp=text)
        tree.write("dev/ttyUSB0")
        tree.write("sys/devices/p/product", text)
        tree.link("sys/class/tty/ttyUSB0/device", "sys/devices/p")
        for block in blocks(search(tree)):
            assert all(line.isprintable() for line in block.split("\n"))
            if not block.startswith("# no "):
                assert configured(block)


class TestGpsd:
    def test_its_greeting_is_enough(self, gpsd):
        (receiver,) = find_gpsd(gpsd[1]).found
        assert receiver.name == f"release 3.22 at localhost:{gpsd[1]}"
        (block,) = blocks([find_gpsd(gpsd[1])])
        assert configured(block).gps == Gps(enabled=True, port=gpsd[1])

    def test_the_real_one_is_found(self, tmp_path: Path):
        program, port = require_program("gpsd", "apt install gpsd"), free_port()
        with subprocess.Popen(
            [program, "-N", "-S", str(port), "-F", str(tmp_path / "control")], stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait_until(lambda: find_gpsd(port).found, what="gpsd answers")
            finally:
                process.terminate()

    def test_at_its_usual_port_the_section_needs_no_port(self):
        assert Gps().port == GPSD_PORT

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b'["VERSION"]\n',
            b"[" * 4000 + b"\n",
            b'{"class":"TPV"}\n',
            b"x" * 9000,
        ],
    )
    def test_others_are_not_taken_for_it_and_silence_costs_half_a_second(self, gpsd, said):
        gpsd[0] = said
        began_s = time.monotonic()
        assert find_gpsd(gpsd[1]).found == ()
        assert time.monotonic() - began_s < 2.0

    def test_nobody_there(self):
        assert "`apt install gpsd`" in find_gpsd(free_port()).nothing


class TestBestMode:
    @pytest.mark.parametrize(
        ("modes", "best"),
        [
            ([("MJPG", 640, 480, 30), ("MJPG", 1280, 720, 30), ("MJPG", 1280, 720, 60), ("MJPG", 1920, 1080, 30)], 2),
            ([("YUYV", 640, 480, 30), ("YUYV", 1280, 720, 5)], 0),  # rather smaller than slower than 10 a second
            ([("YUYV", 1280, 720, 30), ("MJPG", 640, 480, 30)], 1),
            ([("H264", 1280, 720, 30), ("YUYV", 320, 240, 15)], 1),
            ([("MJPG", 2592, 1944, 15), ("MJPG", 1600, 1200, 15)], 1),  # none is small enough: the smallest
            ([("YUYV", 640, 480, 0), ("YUYV", 320, 240, 0)], 0),
            ([("MJPG", 0, 0, 30)], None),
            ([("H264", 1280, 720, 30), ("\x00\xff\x1b]", 1, 1, 1)], None),
            ([], None),
        ],
    )
    def test_the_largest_that_is_usable(self, modes, best):
        modes = tuple(Mode(*mode) for mode in modes)
        assert best_mode(modes) == (None if best is None else modes[best])
