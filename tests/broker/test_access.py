"""systemd/mosquitto.example.conf and .acl as they stand: what is forbidden is refused and reported, the rest works.

Device A is cam-1 with a certificate, device B cam-2; cam-3 has a password. Mosquitto 2.0 grants every subscription and
then delivers nothing that may not be read, so forbidden reading shows in what does not come, and in the broker's log.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Mqtt, Tls
from agent.mqtt.probe import probe
from agent.values import OutboundMessage
from agent.wire.topics import Topics
from tests.broker.desk import Desk, make_desk
from tests.broker.rig import Stored, drive, send_all
from tests.broker.site import Site, linked
from tests.sim import require_program
from tests.sim.broker import Broker
from tests.sim.bundles import ROOT
from tests.sim.certificates import CertificateAuthority
from tests.sim.collectors import Collector
from tools import push_model

A, B = "edge/devices/cam-1", "edge/devices/cam-2"
NOT_AUTHORIZED = 0x87
NOT_TAKEN = (  # the alert, unless the connection was reset before it could be read
    r"localhost:\d+ ended the connection before it began: ({}|Connection reset by peer|Broken pipe); "
    r"see mqtt.tls.cert_file"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.broker:
        yield site


@pytest.fixture
def site(place: Site) -> Iterator[Site]:
    yield place
    place.leave()


# --- who may come in --------------------------------------------------------------------------------------------------


def test_nobody_comes_in_without_a_name(site: Site):
    login = r"refuses the login: not authorized; check mqtt.username and mqtt.password_file"
    assert re.search(login, site.refused(site.without_certificate(site.broker.password_port), "cam-3"))
    wanted = NOT_TAKEN.format("TLSV13_ALERT_CERTIFICATE_REQUIRED")
    assert re.fullmatch(wanted, site.refused(site.without_certificate(site.broker.port), "cam-1"))


@pytest.mark.parametrize(
    ("user", "password"), [("cam-3", "wrong"), ("cam-3", "four"), ("cam-9", "three"), (None, "wrong")]
)
def test_a_wrong_password_is_refused(site: Site, user: str | None, password: str):
    said = site.refused(site.with_password(user, password), "cam-3")
    assert re.fullmatch(r"localhost:\d+ refuses the login: not authorized; check mqtt.username and .*", said)


def test_a_certificate_of_another_authority_is_refused(site: Site):
    other = CertificateAuthority(site.folder / "other", "clients")
    said = site.refused(site.with_certificate("cam-1", other), "cam-1")
    assert re.fullmatch(NOT_TAKEN.format("TLSV1_ALERT_(UNKNOWN_CA|DECRYPT_ERROR)"), said)


@pytest.mark.parametrize(("days", "alert"), [((-9, -1), "EXPIRED"), ((1, 9), "(BAD_CERTIFICATE|EXPIRED|UNKNOWN)")])
def test_a_certificate_out_of_its_time_is_refused(site: Site, days: tuple[float, float], alert: str):
    said = site.refused(site.with_certificate("cam-1", first_day=days[0], days=days[1], file="untimely"), "cam-1")
    assert re.fullmatch(NOT_TAKEN.format(rf"\w+_ALERT_(CERTIFICATE_)?{alert}"), said)


def test_a_servers_certificate_is_none_of_a_client(site: Site):
    tls = Tls(enabled=True, ca_file=site.ca_file, **site.broker.clients.server("cam-1", file="as-server"))
    said = site.refused(Mqtt(host="localhost", port=site.broker.port, tls=tls), "cam-1")
    assert re.fullmatch(NOT_TAKEN.format("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"), said)


def test_there_is_no_way_in_without_tls(site: Site):
    path = site.folder / "cam-3.password"
    path.write_text("three")
    for port in (site.broker.port, site.broker.password_port):
        said = site.refused(Mqtt(host="localhost", port=port, password_file=str(path)), "cam-3")
        assert "and without TLS? see mqtt.port, mqtt.tls" in said


def test_another_brokers_name_is_refused_by_the_device(site: Site):
    mqtt = site.with_certificate("cam-1")
    said = site.refused(Mqtt(host="127.0.0.1", port=mqtt.port, tls=mqtt.tls), "cam-1")
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in said


@pytest.mark.parametrize("how", ["certificate", "password"])
def test_nobody_takes_the_client_id_of_another(site: Site, how: str):
    """Nor its session: who asks for it gets what belongs to his own name."""
    b = site.certified("cam-2")
    by = site.with_certificate("cam-1") if how == "certificate" else site.with_password("cam-3", "three")
    thief = site.come(by, "cam-2")
    assert thief.publish(f"{B}/status").code == NOT_AUTHORIZED, "its own name holds"
    assert not b.publish(f"{B}/status").failed
    assert b.ended is None


# --- what a device may not write --------------------------------------------------------------------------------------

FORBIDDEN_TO_WRITE = [
    f"{B}/results/door",
    f"{B}/status",
    f"{B}/telemetry",
    f"{B}/models/face",
    f"{B}/ack",
    f"{B}/commands/restart",
    "edge/groups/yard/commands/restart",
    "edge/releases/face",
    "edge/releases/_trust",
    f"edge/blobs/{'0' * 64}/0",
    "edge/devices/cam-10/status",
    "edge/devices",
    "edge/replies/me",
    "$SYS/broker/version",
    "other/devices/cam-1/status",
]


@pytest.mark.parametrize("topic", FORBIDDEN_TO_WRITE)
def test_what_a_device_may_not_write_is_refused_and_nobody_hears_it(site: Site, topic: str):
    operator, a = site.certified("operator"), site.certified("cam-1")
    operator.subscribe("#", "$SYS/broker/version")
    for payload in (b"forged", b""):  # an empty one would clear what lies there
        answer = a.publish(topic, payload, retain=True)
        assert (answer.code, answer.reason) == (NOT_AUTHORIZED, "Not authorized")
    assert not a.publish(f"{A}/results/door", b"mine").failed
    assert [] == [message for message in operator.hear_until(f"{A}/results/door") if message.payload == b"forged"]


def test_the_link_reports_what_was_refused(site: Site):
    """An agent whose `device.id` is not the name that it logs in with: the first message says so."""
    topics = Topics("edge", "cam-2")
    with linked(site.with_certificate("cam-1"), topics) as link:
        drive(link, lambda: link.refused, timeout_s=20.0)
        assert link.last_error == f"a message on {B}/status was given up: not authorized"


def test_a_will_for_another_device_is_not_published(site: Site):
    operator = site.certified("operator")
    operator.subscribe("edge/devices/#")
    forged = OutboundMessage(f"{B}/status", b"offline", in_chain=False, retain=True)
    site.come(site.with_certificate("cam-1"), "cam-1", forged).lose()
    assert not site.certified("cam-1").publish(f"{A}/results/door").failed  # the will is over when it comes back
    assert [] == [message for message in operator.hear_until(f"{A}/results/door") if message.payload == b"offline"]


@pytest.mark.parametrize("name", ["+", "#"])
def test_a_certificate_for_a_wildcard_may_do_nothing(site: Site, name: str):
    wildcard = site.come(site.with_certificate(name, file="wildcard"), "cam-1")
    for topic in (f"{A}/status", f"{B}/status"):
        assert wildcard.publish(topic).code == NOT_AUTHORIZED


# --- what a device may not read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "edge/#",
        "edge/devices/#",
        f"{B}/#",
        f"{B}/commands/+",
        f"{B}/ack",
        f"{B}/status",
        "edge/devices/+/results/#",
        "$share/group/edge/devices/+/commands/#",
        "$SYS/#",
    ],
)
def test_what_a_device_may_not_read_does_not_come(site: Site, topic_filter: str):
    """Neither what lies there nor what is sent, and what is for it does, in the order it was sent. The log tells."""
    b, operator, collector = site.certified("cam-2"), site.certified("operator"), site.certified("collector")
    b.publish(f"{B}/status", b"private", retain=True)
    collector.publish(f"{B}/ack", b"private", retain=True)
    a = site.certified("cam-1")
    a.subscribe(topic_filter, f"{A}/commands/mark")
    b.publish(f"{B}/results/door", b"private")
    collector.publish(f"{B}/ack", b"private")
    operator.publish(f"{B}/commands/set", b"private")
    operator.publish(f"{A}/commands/mark", b"own")
    heard = a.hear_until(f"{A}/commands/mark")
    assert {message.payload for message in heard if message.topic.startswith(("edge/devices/", "$SYS"))} == {b"own"}
    assert re.search(rf"^\d+: cam-1 [0-2] {re.escape(topic_filter)}$", site.broker.log, re.MULTILINE)


def test_the_command_of_the_page_shows_who_asked_for_more_than_a_device_does(site: Site):
    page = (ROOT / "docs" / "broker.md").read_text().split("journalctl -u mosquitto -o cat |")[1].split("\n\n")[0]
    topics = Topics("edge", "cam-4")
    with linked(site.with_password("cam-4", "four"), topics, [topics.release("face"), topics.ack()]) as link:
        link.want([f"edge/blobs/{'a' * 64}/0"])
        drive(link, lambda: link._ledger.open == 0, 20.0)
    thief = site.certified("cam-1")
    thief.subscribe(f"{B}/#")
    thief.publish(f"{A}/results/door")  # the answer to this one comes after the log has the other
    shown = subprocess.run(["sh", "-c", page], input=site.broker.log, check=True, capture_output=True, text=True).stdout
    assert re.search(rf": cam-1 [0-2] {B}/#$", shown, re.MULTILINE)
    assert ": cam-4 " in site.broker.log
    assert ": cam-4 " not in shown


# --- what operators and collectors may not do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic",
    [f"{A}/results/door", f"{A}/status", f"{A}/commands/set", "edge/groups/x/commands/set", "edge/releases/face"],
)
def test_a_collector_only_acknowledges(site: Site, topic: str):
    assert site.certified("collector").publish(topic).code == NOT_AUTHORIZED


@pytest.mark.parametrize("topic", [f"{A}/results/door", f"{A}/status", f"{A}/models/face", f"{A}/ack"])
def test_an_operator_does_not_speak_for_devices(site: Site, topic: str):
    assert site.certified("operator").publish(topic).code == NOT_AUTHORIZED


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_device_sends_hears_answers_and_fetches(site: Site):
    """With the agent's own link: results, commands to it and its group, replies, acks, releases, chunks."""
    topics, chunk = Topics("edge", "cam-1"), f"edge/blobs/{'a' * 64}/0"
    operator, collector = site.certified("operator"), site.certified("collector")
    operator.publish(topics.release("face"), b"release", retain=True)
    operator.publish(chunk, b"chunk", retain=True)
    collector.publish(topics.ack(), b"ack", retain=True)
    operator.subscribe(f"{A}/replies/#")
    with linked(site.with_certificate("cam-1"), topics, [topics.release("face"), topics.ack()]) as link:
        link.want([chunk])
        assert send_all(link, [Stored(1), Stored(2, f"{A}/events/door"), Stored(3, f"{A}/gap")], 20.0) == [1, 2, 3]
        operator.publish(f"{A}/commands/ping", b"to it")
        operator.publish("edge/groups/yard/commands/ping", b"to all")
        heard: set[bytes] = set()

        def all_came() -> bool:
            while (message := link.came.take(0.0)) is not None:  # type: ignore[attr-defined]
                heard.add(message.payload)
            return len(heard) == 5

        drive(link, all_came, 20.0)
        assert heard == {b"release", b"chunk", b"ack", b"to it", b"to all"}
        link.post(OutboundMessage(f"{A}/replies/operator", b"pong", in_chain=False), qos=1)
        drive(link, lambda: not link._urgent_open, 20.0)
        assert operator.hear_until(f"{A}/replies/operator")[-1].payload == b"pong"
        assert (link.refused, link.last_error) == (0, None)
    for topic in (topics.release("face"), chunk):
        operator.publish(topic, b"", retain=True)


def test_a_device_with_a_password_has_its_name_from_the_device(site: Site):
    with linked(site.with_password(None, "three"), Topics("edge", "cam-3")) as link:
        assert send_all(link, [Stored(1, "edge/devices/cam-3/results/door")], 20.0) == [1]


def test_what_waits_for_a_device_survives_a_check(site: Site):
    """`edge-agent check` comes by the same name: it can't by another."""
    mqtt, topics = site.with_certificate("cam-1"), Topics("edge", "cam-1")
    with linked(mqtt, topics) as link:
        drive(link, lambda: link._ledger.open == 0, 20.0)
        link.close(OutboundMessage(topics.status(), b"offline", in_chain=False, retain=True), 20.0)
    site.certified("operator").publish(f"{A}/commands/ping", b"while away")
    assert probe(mqtt, "cam-1", 20.0) > 0
    with linked(mqtt, topics) as link:
        came = link.came  # type: ignore[attr-defined]
        drive(link, came._waiting.qsize, 20.0)
        assert came.take(0.0).payload == b"while away"


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(tmp_path, capsys, monkeypatch)


def test_the_operators_tool_pushes_with_a_password(site: Site, desk: Desk):
    path = desk.folder / "operator.password"
    path.write_text("pushed")
    where = f"mqtts://operator@localhost:{site.broker.password_port}"
    login = ["--broker", where, "--password-file", str(path), "--ca-file", site.ca_file]
    assert push_model.main([str(desk.bundle), "--key", str(desk.key), *login]) == 0
    device = site.certified("cam-1")
    device.subscribe("edge/releases/#")
    assert device.hear_until("edge/releases/digits")


def test_the_collector_collects_and_acknowledges_with_a_certificate(site: Site, tmp_path: Path):
    where = f"mqtts://localhost:{site.broker.port}"
    files = site.broker.clients.client("collector")
    login = ["--broker", where, "--ca-file", site.ca_file]
    login += ["--cert-file", files["cert_file"], "--key-file", files["key_file"]]
    device = site.certified("cam-2")
    device.subscribe(f"{B}/ack")
    with Collector(tmp_path / "c", site.broker.port, *login) as collector:
        result = b'{"schema":"edge.result/1","device":"cam-2","time":"","seq":1,"prev":0}'
        assert device.publish(f"{B}/results/door", result).code == 0, "somebody is there for it"
        device.hear_until(f"{B}/ack", b'"seq":1')
        assert collector.stored("cam-2") == {1}


def test_the_commands_of_the_page_make_certificates_that_work(tmp_path: Path):
    require_program("openssl", "apt-get install openssl")
    page = (ROOT / "docs" / "broker.md").read_text().split("## Certificates")[1].split("```")[0]
    commands = "\n".join(line for line in page.splitlines() if line.startswith("    "))
    commands = commands.replace("broker.example", "localhost")
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (tmp_path / "clients-ca.crt").rename(tmp_path / "ca.crt")
    files = {"ca_file": "server-ca.crt", "cert_file": "hall-cam.crt", "key_file": "hall-cam.key"}
    tls = Tls(enabled=True, **{key: str(tmp_path / name) for key, name in files.items()})
    conf = "use_identity_as_username true"
    with Broker(tmp_path / "broker", conf, tls=tmp_path, client_certificates=True) as broker:
        mqtt = Mqtt(host="localhost", port=broker.port, tls=tls)
        with linked(mqtt, Topics("edge", "hall-cam")) as link:
            assert send_all(link, [Stored(1)], 20.0) == [1]
        assert "u'hall-cam'" in broker.log
