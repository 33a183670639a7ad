"""Why there is no connection, as one line that says how to mend it. No I/O."""

import socket
import ssl

UNSUPPORTED_PROTOCOL = 0x84
_LOGIN = {0x86, 0x87}
_CLIENT_ID = 0x85
_SERVER_SHUTTING_DOWN = 0x8B
_KEEP_ALIVE_TIMEOUT = 0x8D
_SESSION_TAKEN_OVER = 0x8E


def dial_failed(error: Exception, where: str) -> str:
    """Why there is not even a socket: what `connect` or the TLS handshake raised."""
    match error:
        case socket.gaierror():
            what = f"{where}: host name not found: {error.strerror}; see mqtt.host"
        case UnicodeError():
            what = f"{where}: that can't be a host name; see mqtt.host"
        case ssl.SSLCertVerificationError():
            what = f"{where}: its certificate does not pass: {error.verify_message}; see mqtt.host, mqtt.tls.ca_file"
        case ssl.SSLError():
            what = f"{where}: TLS failed: {tls_reason(error)}; does this port speak TLS? see mqtt.port, mqtt.tls"
        case ConnectionRefusedError():
            what = f"{where} refuses connections: no broker listens there; see mqtt.host, mqtt.port"
        case TimeoutError():
            what = f"{where} does not answer; see mqtt.host, mqtt.port"
        case OSError():
            what = f"{where}: {error.strerror or error}"
        case _:
            what = f"{where}: {error}"
    return what


def tls_reason(error: OSError) -> str:
    """OpenSSL's word for it, such as WRONG_VERSION_NUMBER; errors of Python or of the system have none."""
    return getattr(error, "reason", None) or str(error.strerror or error)


def login_failed(code: int, reason: str, where: str, client_id: str) -> str:
    """Why the broker answered CONNECT with a reason code over 0x80 (MQTT 5, section 3.2.2.2)."""
    if code == UNSUPPORTED_PROTOCOL:
        return f"the broker at {where} speaks no MQTT 5"
    if code in _LOGIN:
        return f"{where} refuses the login: {reason.lower()}; check mqtt.username and mqtt.password_file"
    if code == _CLIENT_ID:
        return f"{where} refuses the client id {client_id!r}; see device.id"
    return f"{where} refuses the connection: {reason.lower()}"


def no_connack(where: str, trouble: str, *, tls: bool) -> str:
    """Why a connection ended before the broker answered CONNECT."""
    mend = "see mqtt.tls.cert_file" if tls else "is that an MQTT 5 broker, and without TLS? see mqtt.port, mqtt.tls"
    return f"{where} ended the connection before it began{_because(trouble)}; {mend}"


def disconnected(code: int, reason: str, where: str, client_id: str) -> str:
    """Why the broker sent DISCONNECT (MQTT 5, section 3.14.2.1)."""
    if code == _SESSION_TAKEN_OVER:
        return f"another client came to {where} with the client id {client_id!r}; is device.id there twice?"
    if code == _SERVER_SHUTTING_DOWN:
        return f"the broker at {where} shuts down"
    return f"{where} ended the connection: {reason.lower()}"


def lost(code: int, where: str, trouble: str) -> str:
    """Why a connection broke without a DISCONNECT; `code` as paho says it."""
    if code == _KEEP_ALIVE_TIMEOUT:
        return f"{where} says nothing any more"
    return f"{where}: connection lost: {trouble}" if trouble else f"{where} closed the connection"


def refused(topic: str, reason: str) -> str:
    """Why a message of the stream is stuck."""
    return f"the broker refuses messages on {topic}: {reason.lower()}; check the broker's access list and limits"


def _because(trouble: str) -> str:
    return f": {trouble}" if trouble else ""
