"""Every way to have no connection is one line with a mend."""

import errno
import socket
import ssl

import pytest

from agent.mqtt import reasons

WHERE = "hub:1883"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(), "hub:1883 refuses connections: no broker listens there; see mqtt.host, mqtt.port"),
        (TimeoutError("timed out"), "hub:1883 does not answer; see mqtt.host, mqtt.port"),
        (
            socket.gaierror(-2, "Name or service not known"),
            "hub:1883: host name not found: Name or service not known; see mqtt.host",
        ),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "hub:1883: No route to host"),
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"),
            "hub:1883: TLS failed: [SSL: WRONG_VERSION_NUMBER]; does this port speak TLS? see mqtt.port, mqtt.tls",
        ),
        (ValueError("odd"), "hub:1883: odd"),
    ],
)
def test_a_failed_dial_says_what_and_where(error: Exception, text: str):
    assert reasons.dial_failed(error, WHERE) == text


@pytest.mark.parametrize(
    ("code", "name", "text"),
    [
        (0x84, "Unsupported protocol version", "the broker at hub:1883 speaks no MQTT 5"),
        (
            0x86,
            "Bad user name or password",
            "hub:1883 refuses the login: bad user name or password; check mqtt.username and mqtt.password_file",
        ),
        (
            0x87,
            "Not authorized",
            "hub:1883 refuses the login: not authorized; check mqtt.username and mqtt.password_file",
        ),
        (0x85, "Client identifier not valid", "hub:1883 refuses the client id 'cam-1'; see device.id"),
        (0x89, "Server busy", "hub:1883 refuses the connection: server busy"),
    ],
)
def test_a_failed_login_says_why(code: int, name: str, text: str):
    assert reasons.login_failed(code, name, WHERE, "cam-1") == text


def test_a_disconnect_says_why():
    assert reasons.disconnected(0x8B, "Server shutting down", WHERE, "cam-1") == "the broker at hub:1883 shuts down"
    assert reasons.disconnected(0x8E, "Session taken over", WHERE, "cam-1") == (
        "another client came to hub:1883 with the client id 'cam-1'; is device.id there twice?"
    )
    assert (
        reasons.disconnected(0x97, "Quota exceeded", WHERE, "cam-1") == "hub:1883 ended the connection: quota exceeded"
    )


def test_a_lost_connection_says_why_when_it_is_known():
    assert (
        reasons.lost(0x80, WHERE, "Connection reset by peer") == "hub:1883: connection lost: Connection reset by peer"
    )
    assert reasons.lost(0x80, WHERE, "") == "hub:1883 closed the connection"
    assert reasons.lost(0x8D, WHERE, "") == "hub:1883 says nothing any more"
