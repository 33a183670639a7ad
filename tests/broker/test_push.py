"""tools/push_model.py with a real broker, and devices that check what they get from there."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.broker.desk import Desk, lying_on, make_desk, make_model, release_on
from tests.sim import free_port, wait_until
from tests.sim.broker import Broker, make_certificates
from tests.sim.fakebroker import FakeBroker, Script, connack
from tests.sim.keys import Authority, keys
from tests.sim.proxy import FaultProxy
from tools import operator_link, push_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, capsys, monkeypatch)


# --- pushing


def test_devices_get_the_bytes_that_were_signed(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1") as one, desk.device(broker, "cam-2") as two:
        assert desk.push(broker.port, "--wait", "--json") == 0
        told = json.loads(desk.out)
        assert one.archive == two.archive != b""
    assert {name: device["state"] for name, device in told["devices"].items()} == {"cam-1": "active", "cam-2": "active"}
    assert told["sent"]
    assert told["release"] == release_on(broker)
    assert told["release"]["archive"]["size_bytes"] == len(one.archive)
    assert (told["release"]["fleet"], told["release"]["version"], told["release"]["release"]) == ("acme", "1.0", 1)


def test_a_device_that_comes_later_finds_everything(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port) == 0
    assert "note: no device is to be seen that runs digits" in desk.out
    with desk.device(broker, "cam-1") as device:
        wait_until(lambda: device.archive, what="it has the archive")


def test_what_lies_there_expires_after_seven_days(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port) == 0
    topics = lying_on(broker)
    assert len(topics) == 1 + 4 + 1  # list, chunks, release
    for message in broker.listen("edge/blobs/#", "edge/releases/#").wait_for(lambda messages: len(messages) == 6):
        assert 7 * 86400 - 60 <= message.properties.MessageExpiryInterval <= 7 * 86400


def test_targets_and_limits_are_in_the_release(broker: Broker, desk: Desk) -> None:
    options = [
        "--device",
        "cam-1",
        "--device",
        "cam-2",
        "--group",
        "hall",
        "--exclude",
        "cam-3",
        "--hardware",
        "aarch64",
    ]
    more = [
        "--percent",
        "10",
        "--salt",
        "spring",
        "--notes",
        "New.",
        "--expires",
        "2099-12-31",
        "--spread",
        "10m",
        "--retry",
    ]
    limits = ["--health-window", "5min", "--min-frames", "7", "--max-infer-ms", "80"]
    assert desk.push(broker.port, *options, *more, *limits, bundle=desk.bundle.parent / "1.0") == 0
    release = release_on(broker)
    assert release["targets"] == {
        "devices": ["cam-1", "cam-2"],
        "groups": ["hall"],
        "exclude": ["cam-3"],
        "hardware": ["aarch64"],
        "percent": 10.0,
        "salt": "spring",
    }
    assert (release["notes"], release["expires"], release["spread_s"]) == ("New.", "2099-12-31T23:59:59Z", 600.0)
    assert (release["activation"]["health_window_s"], release["activation"]["min_frames"]) == (300.0, 7)
    assert (release["acceptance"]["max_infer_ms"], release["retry"]) == (80.0, True)


def test_a_dry_run_sends_nothing(broker: Broker, desk: Desk) -> None:
    assert desk.push(broker.port, "--dry-run", "--json") == 0
    told = json.loads(desk.out)
    assert (told["sent"], told["chunks"], told["release"]["release"]) == (False, 4, 1)
    assert lying_on(broker) == set()


def test_a_dry_run_with_a_number_needs_no_broker(desk: Desk) -> None:
    assert desk.push(free_port(), "--dry-run", "--release", "5") == 0
    assert '"release": 5' in desk.out
    assert "bytes in 4 chunks" in desk.out


def test_more_memory_is_not_needed_for_a_larger_model(broker: Broker, desk: Desk) -> None:
    """Asks the process itself: what `wait4` says of a child counts its parent's memory, too."""
    script = """import re, sys
from pathlib import Path
from tools.push_model import main
assert main(sys.argv[1:]) == 0
print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])"""

    def peak_bytes(size_bytes: int) -> int:
        bundle = make_model(desk.folder, f"{size_bytes}", size_bytes)
        options = [str(bundle), "--key", str(desk.key), "--broker", f"mqtt://127.0.0.1:{broker.port}"]
        done = subprocess.run([sys.executable, "-c", script, *options], cwd=ROOT, capture_output=True, check=True)
        return int(done.stdout.split()[-1]) << 10

    assert peak_bytes(50_000_000) - peak_bytes(3_000_000) < 8 << 20


# --- release numbers


def test_numbers_go_on_from_what_lies_on_the_broker(broker: Broker, desk: Desk) -> None:
    for expected in (1, 2):
        assert desk.push(broker.port) == 0
        assert release_on(broker)["release"] == expected


def test_numbers_go_on_from_what_devices_have_accepted(broker: Broker, desk: Desk) -> None:
    with desk.device(broker, "cam-1", floor=41):
        listener = broker.listen("edge/devices/cam-1/models/digits")
        listener.wait_for(lambda messages: messages)
        assert desk.push(broker.port, "--release", "41") == 2
        assert "--release 41: device cam-1 has release 41 of digits already: take 42 or higher" in desk.err
        assert lying_on(broker) == set()
        assert desk.push(broker.port, "--release", "41", "--exclude", "cam-1") == 0
        assert desk.push(broker.port) == 0
    assert release_on(broker)["release"] == 42


def test_the_trust_document_sets_the_lowest_number(broker: Broker, desk: Desk) -> None:
    desk.authority.advance(min_release={"digits": 7})
    desk.write_trust()
    assert desk.push(broker.port) == 0
    assert release_on(broker)["release"] == 7


def test_a_release_that_nobody_signed_does_not_count(broker: Broker, desk: Desk) -> None:
    forged = Authority(release=keys("stranger")).release("digits", 2**31 - 1)
    broker.listen().publish("edge/releases/digits", forged, retain=True)
    assert desk.push(broker.port) == 0
    assert "note: what lies on edge/releases/digits does not count: signature" in desk.out
    assert release_on(broker)["release"] == 1


# --- trouble with the broker


@pytest.mark.parametrize("topic", ["blobs", "releases"])
def test_a_refused_topic_is_told_with_the_rule_that_is_missing(tmp_path: Path, desk: Desk, topic: str) -> None:
    others = "".join(f"topic readwrite edge/{each}/#\n" for each in ("blobs", "releases") if each != topic)
    with Broker(tmp_path / "broker", acl=others + "topic readwrite mark\ntopic read edge/#\n") as broker:
        assert desk.push(broker.port) == 1
        assert f"push_model: the broker refuses edge/{topic}/" in desk.err
        assert f"its access list needs, for anonymous users: topic readwrite edge/{topic}/#" in desk.err
        assert len(desk.err.splitlines()) == 1
        assert "edge/releases/digits" not in lying_on(broker)


def test_a_broker_that_restarts_in_the_upload_gets_the_rest(broker: Broker, desk: Desk) -> None:
    bundle = make_model(desk.folder, "2.0", 6_000_000)
    with FaultProxy(broker.port) as proxy:
        proxy.slow(4e6)
        codes: list[int] = []
        upload = threading.Thread(target=lambda: codes.append(desk.push(proxy.port, bundle=bundle)))
        upload.start()
        wait_until(lambda: proxy.bytes["up"] > 1_500_000, what="a part is sent")
        broker.restart()
        upload.join(60)
        assert codes == [0]
    assert "connection lost, trying again" in desk.out
    with desk.device(broker, "cam-1") as device:
        wait_until(lambda: len(device.archive) > 6_000_000, what="it has the archive")


def test_a_broker_that_stays_away_ends_the_upload(broker: Broker, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_link, "OUTAGE_S", 0.5)
    bundle = make_model(desk.folder, "2.0", 6_000_000)
    with FaultProxy(broker.port) as proxy:
        proxy.slow(4e6)
        codes: list[int] = []
        upload = threading.Thread(target=lambda: codes.append(desk.push(proxy.port, bundle=bundle)))
        upload.start()
        wait_until(lambda: proxy.bytes["up"] > 1_500_000, what="a part is sent")
        broker.kill()
        upload.join(60)
    assert codes == [1]
    assert "was away for 0.5 s" in desk.err


def test_a_broker_that_takes_only_small_messages_is_told(tmp_path: Path, desk: Desk) -> None:
    bundle = make_model(desk.folder, "2.0", 300_000)
    with Broker(tmp_path / "broker", "max_packet_size 60000") as broker:
        assert desk.push(broker.port, bundle=bundle) == 1
    assert "takes 60000: raise its limit (mosquitto: max_packet_size)" in desk.err


def test_a_broker_that_keeps_nothing_is_told(tmp_path: Path, desk: Desk) -> None:
    with Broker(tmp_path / "broker", "retain_available false") as broker:
        assert desk.push(broker.port) == 1
    assert "keeps no messages (mosquitto: retain_available)" in desk.err


def test_a_broker_that_ends_every_connection_ends_the_tool(desk: Desk) -> None:
    with FakeBroker(Script(hang_up=True)) as broker:
        assert desk.push(broker.port) == 1
    assert "ends every connection" in desk.err


def test_without_a_broker_the_error_is_one_line(desk: Desk) -> None:
    port = free_port()
    assert desk.push(port) == 1
    assert desk.err == f"push_model: 127.0.0.1:{port}: nobody listens there; see --broker\n"


def test_a_broker_without_mqtt_5_is_told(desk: Desk) -> None:
    with FakeBroker(Script(connack=connack(0x84))) as broker:
        assert desk.push(broker.port) == 1
    assert "speaks no MQTT 5" in desk.err


def test_tls_and_a_password(tmp_path: Path, desk: Desk) -> None:
    certificates = make_certificates(tmp_path / "tls", "127.0.0.1")
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "wrong").write_text("guess\n")
    tls = ["--ca-file", str(certificates / "ca.crt")]
    with Broker(tmp_path / "broker", users={"me": "secret"}, tls=certificates) as broker:
        url = f"mqtts://me@127.0.0.1:{broker.port}"
        assert desk.push(broker.port, "--broker", url, *tls, "--password-file", str(tmp_path / "password")) == 0
        assert desk.push(broker.port, "--broker", url, *tls, "--password-file", str(tmp_path / "wrong")) == 1
        assert "refuses the login: not authorized; see the user in --broker" in desk.err
        assert desk.push(broker.port, "--broker", url, "--password-file", str(tmp_path / "password")) == 1
        assert "its certificate does not pass" in desk.err
        assert desk.push(broker.port) == 1
        assert "does not answer CONNECT: is that an MQTT 5 broker, without TLS?" in desk.err


def test_a_release_that_somebody_else_pushed_during_the_upload_is_not_replaced(
    broker: Broker, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, others = push_model.upload, [make_model(desk.folder, "2.0")]

    def meanwhile(*arguments: Any) -> dict[str, Any]:
        if others:
            assert desk.push(broker.port, bundle=others.pop()) == 0
        return upload(*arguments)

    monkeypatch.setattr(push_model, "upload", meanwhile)
    assert desk.push(broker.port) == 1
    assert "somebody else pushed release 1 of digits during the upload: nothing was released" in desk.err
    assert release_on(broker)["version"] == "2.0"


def test_chunks_that_somebody_took_away_during_the_upload_are_told(
    broker: Broker, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = push_model.upload

    def meanwhile(*arguments: Any) -> dict[str, Any]:
        told = upload(*arguments)
        assert desk.retire(broker.port, "--yes") == 0
        return told

    monkeypatch.setattr(push_model, "upload", meanwhile)
    assert desk.push(broker.port) == 1
    assert "somebody took away the chunks during the upload" in desk.err
    assert lying_on(broker) == set()
