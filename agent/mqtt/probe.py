"""One connection to see whether the broker takes us, for `edge-agent check`."""

import time

from agent.config import Mqtt
from agent.mqtt.client import Connection
from agent.mqtt.inbox import Inbox
from agent.values import OutboundMessage


def probe(config: Mqtt, client_id: str, timeout_s: float) -> float:
    """Connect, log in and leave; gives the seconds that it took.

    Raises:
        LinkDown: one line that says why not, and how to mend it.
    """
    nothing = OutboundMessage(f"{config.prefix}/devices/{client_id}/status", b"", in_chain=False, retain=True)
    connection = Connection(config, client_id, nothing, Inbox())
    started = time.monotonic()
    try:
        connection.open(timeout_s, clean_start=True)
        return time.monotonic() - started
    finally:
        connection.close(1.0, with_will=False)
