"""One try to connect: what a device says first, and what is said when it does not work."""

import contextlib
import os
import resource
import socket
import threading
from pathlib import Path

import pytest

from agent.config import Mqtt, Tls
from agent.errors import LinkDown
from agent.mqtt.client import Connection
from agent.mqtt.inbox import Inbox
from agent.mqtt.link import Link
from agent.values import OutboundMessage
from tests.broker.rig import (
    BRANCH,
    COMMANDS,
    DEVICE,
    STATUS,
    Stored,
    drive,
    linked,
    make_link,
    numbered,
    send_all,
    status,
)
from tests.sim import free_port, wait_until
from tests.sim.broker import Broker, make_certificates
from tests.sim.fakebroker import FakeBroker, Script, connack
from tests.sim.proxy import FaultProxy


def failure(link: Link, timeout_s: float = 5.0) -> str:
    """The reason that `connect` gives; nothing may stay open."""
    with pytest.raises(LinkDown) as caught:
        link.connect(timeout_s)
    assert not link.connected
    assert link.last_error == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def silent_server():
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# --- the good case ----------------------------------------------------------------------------------------------------


def test_the_first_message_is_the_birth_and_it_is_retained(broker: Broker):
    listener = broker.listen("edge/#")
    with linked(broker.port) as link:
        assert link.connected
        assert link.connects == 1
        send_all(link, numbered(1, 3))
        topics = [message.topic for message in listener.wait_for(lambda messages: len(messages) == 4)]
        assert topics == [STATUS, *[f"{BRANCH}/results/door"] * 3]
        assert broker.listen(STATUS).wait_for(len)[0].retain
        link.close(status(b"offline"), 5.0)


def test_a_message_carries_its_properties(broker: Broker):
    listener = broker.listen(f"{BRANCH}/results/#")
    with linked(broker.port) as link:
        picture = Stored(1, payload=b"\xff\xd8", content_type="image/jpeg", user_properties=(("width_px", "640"),))
        send_all(link, [picture])
        (received,) = listener.wait_for(len)
        assert received.payload == b"\xff\xd8"
        assert received.properties.ContentType == "image/jpeg"
        assert received.properties.UserProperty == [("width_px", "640")]


def test_connect_says_what_the_agent_takes():
    """Clean start off, so that commands wait for a device; limits as shields (sections 3.1.2.11.3 and 3.1.2.11.4)."""
    with FakeBroker() as fake, linked(fake.port, keepalive_s=30):
        pass
    (connect,) = fake.connects
    assert connect.protocol_version == 5
    assert not connect.clean_start
    assert connect.keepalive_s == 30
    assert b"\x11" + (7 * 86400).to_bytes(4) in connect.body  # Session Expiry Interval
    assert b"\x21" + (10).to_bytes(2) in connect.body  # Receive Maximum
    assert b"\x27" + (72 << 10).to_bytes(4) in connect.body  # Maximum Packet Size


def test_the_will_is_published_when_the_line_is_cut(broker: Broker, proxy: FaultProxy):
    listener = broker.listen(STATUS)
    with linked(proxy.port) as link:
        drive(link, lambda: len(listener.messages) == 1)
        proxy.cut()
        listener.wait_for(lambda messages: len(messages) == 2)
        assert listener.payloads() == [b"online", b"offline"]
        with pytest.raises(LinkDown, match=r"connection lost"):
            drive(link, lambda: False)


def test_leaving_after_trouble_publishes_the_will(broker: Broker):
    listener = broker.listen(STATUS)
    with linked(broker.port) as link:
        drive(link, lambda: len(listener.messages) == 1)
        link.close(None, 5.0)
        listener.wait_for(lambda messages: len(messages) == 2)
        assert listener.payloads() == [b"online", b"offline"]


def test_last_words_replace_the_will(broker: Broker):
    listener = broker.listen("edge/#")
    with linked(broker.port) as link:
        link.close(status(b"offline, as asked"), 5.0)
        assert not link.connected
        broker.stop()  # it would publish a will now
        broker.start()
        listener.wait_for(lambda _: listener.payloads(STATUS)[-1:] == [b"offline, as asked"])
        assert listener.payloads(STATUS) == [b"online", b"offline, as asked"]


def test_nothing_that_is_posted_meanwhile_follows_the_last_words(broker: Broker):
    """Threads that still end have something to say of their state; the broker would keep it for good."""
    link = make_link(broker.port)
    link.connect(5.0)
    drive(link, lambda: link._ledger.open == 0)
    wait = link.wait

    def wait_and_post(timeout_s: float) -> None:
        wait(timeout_s)
        assert not link.post(status(b"degraded"), qos=1)

    assert link.post(status(b"before"), qos=1)
    link.wait = wait_and_post  # type: ignore[method-assign]
    link.close(status(b"offline"), 5.0)
    listener = broker.listen(STATUS)
    listener.wait_for(lambda _: listener.payloads(STATUS) == [b"offline"])
    link.wait = wait  # type: ignore[method-assign]
    link.connect(5.0)
    assert link.post(status(b"degraded"), qos=1)
    drive(link, lambda: listener.payloads(STATUS) == [b"offline", b"online", b"degraded"])
    link.close(None, 1.0)


def test_answers_that_were_posted_go_out_before_the_last_words_are_over(broker: Broker):
    listener = broker.listen("replies/#")
    with linked(broker.port) as link:
        for number in range(30):
            assert link.post(OutboundMessage(f"replies/{number}", b"", in_chain=False), qos=1)
        link.close(status(b"offline"), 5.0)
        listener.wait_for(lambda messages: len(messages) == 30)


def test_more_than_1024_open_files_are_no_obstacle(broker: Broker):
    """paho's own loop uses select() and would never see the CONNACK."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 4096, hard))
    files = []
    try:
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        with linked(broker.port) as link:
            assert send_all(link, numbered(1, 10)) == list(range(1, 11))
            link.close(status(b"offline"), 5.0)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- no connection ----------------------------------------------------------------------------------------------------


def test_no_broker_there():
    port = free_port()
    assert failure(make_link(port)) == (
        f"127.0.0.1:{port} refuses connections: no broker listens there; see mqtt.host, mqtt.port"
    )


def test_no_such_host():
    assert "host name not found" in failure(make_link(1883, host="no-such-host.invalid"), 20.0)


def test_a_server_that_says_nothing_costs_no_more_than_the_time_allowed():
    with silent_server() as port:
        assert failure(make_link(port), 0.3) == f"127.0.0.1:{port} does not answer CONNECT; is that an MQTT broker?"


def test_a_server_that_says_nothing_to_a_tls_handshake():
    with silent_server() as port:
        message = failure(make_link(port, tls=Tls(enabled=True)), 0.3)
    assert message == f"127.0.0.1:{port} does not answer; see mqtt.host, mqtt.port"


def test_a_frozen_broker_is_given_up(broker: Broker):
    broker.freeze()
    assert "does not answer CONNECT" in failure(make_link(broker.port), 0.3)
    broker.thaw()


def test_a_proxy_that_refuses(proxy: FaultProxy):
    proxy.refuse()
    message = failure(make_link(proxy.port))
    assert "Connection reset by peer" in message or "before it began" in message


@pytest.mark.parametrize("password", [None, "wrong"])
def test_login_refused(tmp_path: Path, password: str | None):
    path = tmp_path / "password"
    path.write_text("wrong")
    login = {"username": DEVICE, "password_file": str(path)} if password else {}
    with Broker(tmp_path / "broker", users={DEVICE: "right"}) as broker:
        assert failure(make_link(broker.port, **login)) == (
            f"127.0.0.1:{broker.port} refuses the login: not authorized; check mqtt.username and mqtt.password_file"
        )


@pytest.mark.parametrize("username", [DEVICE, None])
def test_the_password_is_read_at_each_connection_and_the_user_defaults_to_the_device(
    tmp_path: Path, username: str | None
):
    path = tmp_path / "password"
    path.write_text("wrong\n")
    with Broker(tmp_path / "broker", users={DEVICE: "right"}) as broker:
        link = make_link(broker.port, username=username, password_file=str(path))
        assert "refuses the login" in failure(link)
        path.write_text("right\n")
        link.connect(5.0)
        link.close(status(b"offline"), 5.0)


def test_no_password_file(tmp_path: Path):
    link = make_link(1883, username=DEVICE, password_file=str(tmp_path / "none"))
    assert failure(link) == f"mqtt.password_file: {tmp_path}/none: No such file or directory"


@pytest.mark.parametrize(
    "answer", [connack(0x84), bytes([0x20, 2, 0, 1])], ids=["MQTT 5 refusal", "refusal of a 3.1.1 broker"]
)
def test_a_broker_without_mqtt_5_is_named_as_such(answer: bytes):
    with FakeBroker(Script(connack=answer, hang_up=True)) as fake:
        assert failure(make_link(fake.port)) == f"the broker at 127.0.0.1:{fake.port} speaks no MQTT 5"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (Script(connack=b"", hang_up=True), "ended the connection before it began"),
        (Script(connack=b"HTTP/1.1 400 Bad Request\r\n\r\n", hang_up=True), "ended the connection before it began"),
        (Script(connack=b"\x15\x03\x03\x00\x02\x02\x28", hang_up=True), "is that an MQTT 5 broker, and without TLS?"),
        (Script(connack=connack(0x85)), "refuses the client id 'cam-1'; see device.id"),
        (Script(connack=connack(0x89)), "refuses the connection: server busy"),
    ],
)
def test_a_server_that_wants_something_else(script: Script, text: str):
    with FakeBroker(script) as fake:
        assert text in failure(make_link(fake.port))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0x8E, "another client came to .* with the client id 'cam-1'; is device.id there twice?"),
        (0x8B, "the broker at .* shuts down"),
        (0x97, "ended the connection: quota exceeded"),
    ],
)
def test_a_disconnect_by_the_broker_says_why(code: int, text: str):
    """mosquitto 2.0.11 just closes the socket in the first two cases; later ones and other brokers say it."""
    with FakeBroker() as fake, linked(fake.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        fake.disconnect(code)
        with pytest.raises(LinkDown, match=text):
            drive(link, lambda: False)


def test_a_broker_that_closes_the_connection(broker: Broker):
    with linked(broker.port) as link:
        broker.stop()
        with pytest.raises(LinkDown, match=r"closed the connection|reset by peer"):
            drive(link, lambda: False)


def test_a_refused_subscription_is_reported_and_the_link_lives_on():
    with FakeBroker(Script(suback=0x87)) as fake, linked(fake.port) as link:
        drive(link, lambda: link.last_error)
        assert link.last_error == f"the broker refuses the subscription to {COMMANDS}: not authorized"
        assert send_all(link, numbered(1, 3)) == [1, 2, 3]


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_tls_with_a_private_authority(tmp_path: Path, name: str):
    folder = make_certificates(tmp_path / "tls", name)
    tls = Tls(enabled=True, ca_file=str(folder / "ca.crt"))
    with Broker(tmp_path / "broker", tls=folder) as broker, linked(broker.port, host=name, tls=tls) as link:
        assert send_all(link, numbered(1, 200)) == list(range(1, 201))


def test_tls_with_a_certificate_of_an_unknown_authority(tmp_path: Path):
    with Broker(tmp_path / "broker", tls=make_certificates(tmp_path / "tls")) as broker:
        message = failure(make_link(broker.port, host="localhost", tls=Tls(enabled=True)))
    assert "its certificate does not pass: " in message
    assert "mqtt.tls.ca_file" in message


def test_tls_with_a_certificate_for_another_name(tmp_path: Path):
    folder = make_certificates(tmp_path / "tls", "hub.example")
    with Broker(tmp_path / "broker", tls=folder) as broker:
        message = failure(
            make_link(broker.port, host="localhost", tls=Tls(enabled=True, ca_file=str(folder / "ca.crt")))
        )
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in message


def test_tls_with_a_client_certificate(tmp_path: Path):
    folder = make_certificates(tmp_path / "tls")
    files = {"ca_file": "ca.crt", "cert_file": "client.crt", "key_file": "client.key"}
    with Broker(tmp_path / "broker", tls=folder, client_certificates=True) as broker:
        without = make_link(broker.port, host="localhost", tls=Tls(enabled=True, ca_file=str(folder / "ca.crt")))
        assert failure(without).endswith("; see mqtt.tls.cert_file")
        own = Tls(enabled=True, **{key: str(folder / file) for key, file in files.items()})
        with linked(broker.port, host="localhost", tls=own) as link:
            link.close(status(b"offline"), 5.0)


def test_tls_to_a_port_without_it(broker: Broker):
    message = failure(make_link(broker.port, tls=Tls(enabled=True)))
    assert message.startswith(f"127.0.0.1:{broker.port}")


def test_no_tls_to_a_port_with_it(tmp_path: Path):
    with Broker(tmp_path / "broker", tls=make_certificates(tmp_path / "tls")) as broker:
        assert "without TLS?" in failure(make_link(broker.port))


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_closing_is_bounded_when_the_broker_is_frozen(broker: Broker):
    with linked(broker.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        broker.freeze()
        closed = threading.Event()

        def close() -> None:
            link.close(status(b"offline"), 0.5)
            closed.set()

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        assert closed.wait(5.0)
        assert not link.connected
        broker.thaw()


def test_closing_is_bounded_when_the_socket_is_full(broker: Broker):
    with linked(broker.port, max_in_flight=1000) as link:
        drive(link, lambda: link._ledger.open == 0)
        broker.freeze()
        big = [Stored(message.id, payload=bytes(100_000)) for message in numbered(1, 100)]
        for message in big:
            link.send(message)
        assert link.room() == 0, "nothing more is taken while the socket is full"
        closed = threading.Event()
        thread = threading.Thread(target=lambda: (link.close(status(b"offline"), 0.5), closed.set()), daemon=True)
        thread.start()
        assert closed.wait(5.0)
        broker.thaw()


def test_closing_twice_and_closing_what_was_never_open_is_nothing(broker: Broker):
    link = make_link(broker.port)
    link.close(status(b"offline"), 1.0)
    link.connect(5.0)
    link.close(None, 1.0)
    link.close(None, 1.0)
    link.wait(0.0)
    link.wake()
    assert link.room() == 0
    with pytest.raises(LinkDown, match=r"not connected"):
        link.pump()


def test_a_connection_that_did_not_open_can_be_closed():
    connection = Connection(Mqtt(host="127.0.0.1", port=free_port()), DEVICE, status(b"offline"), Inbox())
    with pytest.raises(LinkDown):
        connection.open(5.0, clean_start=False)
    connection.close(60.0, with_will=False)
    connection.serve(60.0)
    assert connection.ended


def test_post_and_wake_end_a_wait(broker: Broker):
    with linked(broker.port, keepalive_s=60) as link:
        drive(link, lambda: link._ledger.open == 0)
        waited = threading.Event()
        for rouse in (link.wake, lambda: link.post(status(b"degraded"), qos=1)):
            waited.clear()
            thread = threading.Thread(target=lambda: (link.wait(30.0), waited.set()), daemon=True)
            thread.start()
            rouse()
            assert waited.wait(5.0)
            thread.join(5.0)


def test_telemetry_is_dropped_without_a_connection_and_states_wait(broker: Broker):
    listener = broker.listen("edge/#")
    link = make_link(broker.port)
    telemetry = OutboundMessage(f"{BRANCH}/telemetry", b"t", in_chain=False)
    assert not link.post(telemetry, qos=0)
    assert link.post(OutboundMessage("edge/replies", b"r", in_chain=False), qos=1, correlation_data=b"\x00\x01")
    assert link.post(status(b"stale"), qos=1)
    link.connect(5.0)
    assert link.post(telemetry, qos=0)
    drive(link, lambda: len(listener.messages) >= 3)
    wait_until(lambda: len(listener.messages) == 3)
    assert listener.payloads() == [b"online", b"r", b"t"], "the birth makes a status that waited worthless"
    assert listener.messages[1].properties.CorrelationData == b"\x00\x01"
    link.close(None, 5.0)
