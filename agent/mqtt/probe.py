"""One connection to see whether the broker takes us, for `edge-agent check`."""

import time

from agent.config import Mqtt
from agent.mqtt.client import Connection
from agent.mqtt.inbox import Inbox


def probe(config: Mqtt, client_id: str, timeout_s: float) -> float:
    """Connect, log in and leave; gives the seconds that it took.

    It comes as the device, as brokers may know no other name for its password or certificate: a daemon that is
    connected would lose its place. Nothing is said, and what waits on the broker stays there: DISCONNECT goes out
    before anything that comes is read and acknowledged.

    Raises:
        LinkDown: one line that says why not, and how to mend it.
    """
    connection = Connection(config, client_id, None, Inbox())
    started = time.monotonic()
    try:
        connection.open(timeout_s, clean_start=False)
        return time.monotonic() - started
    finally:
        connection.close(1.0, with_will=False)
