"""tools/push_model.py --wait with a real broker and devices: whom it waits for, and how that ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.desk import Desk, lying_on, make_desk, make_model
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fleet import SimDevice
from tests.sim.keys import Authority, keys
from tests.sim.proxy import FaultProxy
from tools import push_model


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, capsys, monkeypatch)


def test_a_device_that_refuses_ends_the_wait_with_1(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1"), desk.device(broker, "cam-2", fate="golden"):
        broker.listen("edge/devices/+/models/digits").wait_for(lambda messages: len(messages) == 2)
        assert desk.push(broker.port, "--wait") == 1
    assert "cam-2: rejected golden: 3 of 10 answers are right" in desk.out
    assert "release 1 of digits: 1 active, 1 rejected" in desk.out
    assert "golden: the answers to the golden inputs are not the expected ones" in desk.out


def test_healthy_is_more_than_active(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1", fate="healthy"):
        assert desk.push(broker.port, "--device", "cam-1", "--wait", "healthy") == 0
    with desk.device(broker, "cam-2", floor=1):
        assert desk.push(broker.port, "--device", "cam-2", "--wait", "healthy", "--timeout", "2s") == 1
        assert "not all within 2 s; the devices go on without this tool" in desk.out
    with desk.device(broker, "cam-3", floor=2, fate="health"):
        assert desk.push(broker.port, "--device", "cam-3", "--wait", "healthy") == 1
        assert "cam-3: rolled_back health" in desk.out


def test_only_named_devices_are_waited_for(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1"), desk.device(broker, "cam-2", fate="stuck"):
        assert desk.push(broker.port, "--device", "cam-1", "--wait") == 0
        assert desk.push(broker.port, "--exclude", "cam-2", "--wait") == 0
        assert "cam-2" not in desk.out


def test_of_a_group_those_are_waited_for_that_take_it(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1", groups=("hall",)) as hall, desk.device(broker, "cam-2", groups=("yard",)) as yard:
        assert desk.push(broker.port, "--group", "hall", "--wait", "--json") == 0
        assert list(json.loads(desk.out)["devices"]) == ["cam-1"]
        assert hall.archive
        assert not yard.archive


def test_a_device_that_does_not_believe_the_keys_is_told_apart(broker: Broker, desk: Desk) -> None:
    with SimDevice(broker, "cam-1", Authority(release=keys("other")).trust):
        broker.listen("edge/devices/+/models/digits").wait_for(lambda messages: messages)
        assert desk.push(broker.port, "--wait") == 1
    assert "cam-1: refused signature" in desk.out
    assert "signature: not signed by enough keys that the device's trust document names for this" in desk.out


def test_nobody_to_wait_for_is_no_success(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port, "--wait") == 1
    assert "no device says anything of digits" in desk.out


def test_a_device_with_older_trust_is_brought_up_to_date(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1") as device:
        desk.authority.advance(root=keys("root", "new root"))
        desk.authority.advance(release=keys("third"))
        desk.write_trust()
        desk.key = desk.write_key("third")
        assert desk.push(broker.port, "--device", "cam-1", "--wait", "--json") == 0
        assert json.loads(desk.out)["trust_chain"] == 2
        assert device.archive


def test_ctrl_c_leaves_the_devices_to_themselves(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1", fate="stuck"):
        command = [sys.executable, push_model.__file__, str(desk.bundle), "--key", str(desk.key), "--device", "cam-1"]
        with subprocess.Popen(
            [*command, "--wait", "--broker", f"mqtt://127.0.0.1:{broker.port}"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if "receiving" in line:
                    process.send_signal(signal.SIGINT)
                    break
            rest = process.stdout.read()
            assert process.wait(20) == 130
    assert "interrupted: the devices go on without this tool" in rest


def test_ctrl_c_in_the_upload_releases_nothing(broker: Broker, desk: Desk) -> None:
    bundle = make_model(desk.folder, "2.0", 6_000_000)
    with FaultProxy(broker.port) as proxy:
        proxy.slow(2e6)
        command = [sys.executable, push_model.__file__, str(bundle), "--key", str(desk.key)]
        with subprocess.Popen(
            [*command, "--broker", f"mqtt://127.0.0.1:{proxy.port}"], stdout=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: proxy.bytes["up"] > 1_000_000, what="a part is sent")
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=20)[0]
            assert process.returncode == 130
    assert "interrupted: nothing was released" in told
    assert lying_on(broker)
    assert desk.retire(broker.port, "--yes") == 0
    assert lying_on(broker) == set()
