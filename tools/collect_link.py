"""The collector's connection: a session that outlives it, and messages that the broker keeps until they are stored."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tools.operator_link import OperatorLink
from tools.operator_login import Login

_OWN = re.compile(r"[^/]+/ack")
"""Acknowledgements, below devices/. A pipeline or a model may be called ack, too."""
SESSION_S = 7 * 86400
"""So long the broker keeps what comes while the collector is away."""
SHARED_SESSION_S = 300
"""And of one that shares the load: until then it queues its share for it, although others of the group are there."""
_SHARED = re.compile(r"\$share/[^/]+/")


@dataclass(frozen=True)
class Arrived:
    """A message of a device, as it came. Everything in it was chosen by whoever may publish there."""

    topic: str
    payload: bytes
    repeated: bool
    """The broker sends it again, or it lay there: the device may have sent it once."""
    properties: dict[str, str]
    """User properties."""
    client: Client
    mid: int


class CollectorLink(OperatorLink):
    """Messages wait in `arrived` until `done` tells the broker that they are stored. It waits for a broker forever."""

    def __init__(
        self, login: Login, prefix: str, say: Callable[[str], object], client_id: str, filters: Sequence[str]
    ) -> None:
        """Connects; `filters` are subscribed to on each connection.

        Raises:
            OperatorError: there is no way to the broker; one line that says why.
        """
        self.arrived: list[Arrived] = []
        self._asked: dict[int | None, Sequence[str]] = {}  # by packet id
        is_shared = any(map(_SHARED.match, filters))
        super().__init__(login, prefix, say, (client_id, SHARED_SESSION_S if is_shared else SESSION_S))
        self.outage_s = math.inf
        self._streams = filters
        self._ask_streams()

    def done(self, messages: Sequence[Arrived]) -> None:
        """They are stored. The broker sends those of an earlier connection again."""
        for message in messages:
            if message.client is self._client and message.mid:
                message.client.ack(message.mid, 1)

    def acks(self, topic_filter: str) -> dict[str, bytes]:
        """What collectors have acknowledged so far: what lies on the broker, by topic.

        Raises:
            OperatorError: the broker refuses it.
        """
        return dict(self.retained([topic_filter]))

    def _come_back(self) -> None:
        super()._come_back()
        self._ask_streams()

    def _ask_streams(self) -> None:
        """What lies on the broker is not wanted: the devices' own streams have it, in its place."""
        if any(map(_SHARED.match, self._streams)):  # the session may be of a time without --group
            self._client.unsubscribe([_SHARED.sub("", topic_filter) for topic_filter in self._streams])
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        _, mid = self._client.subscribe([(topic_filter, options) for topic_filter in self._streams])
        self._asked = {mid: self._streams}

    def _on_subscribe(
        self, client: Client, userdata: Any, mid: int, codes: list[ReasonCode], properties: Properties | None
    ) -> None:
        filters = self._asked.pop(mid, None)
        if filters is None:
            super()._on_subscribe(client, userdata, mid, codes, properties)
            return
        self._fruitless = 0
        for topic_filter, code in zip(filters, codes, strict=False):
            if code.is_failure:
                self._refused = self._refused or (topic_filter, str(code))

    def _refusal(self, topic: str, reason: str) -> str:
        if not topic.endswith("/ack"):
            return super()._refusal(topic, reason)
        user = f"user {self._login.username}" if self._login.username else "anonymous users"
        rule = f"topic readwrite {self._prefix}/devices/+/ack"
        return f"the broker refuses {topic}: {reason.lower()}; its access list needs, for {user}: {rule}"

    def _make_client(self) -> Client:
        client = super()._make_client()
        client.manual_ack_set(True)
        return client

    def _hand_over(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        if _OWN.fullmatch(message.topic.removeprefix(f"{self._prefix}/devices/")):
            super()._hand_over(client, userdata, message)
            if message.qos:
                client.ack(message.mid, message.qos)
            return
        pairs = getattr(message.properties, "UserProperty", [])
        repeated = message.dup or message.retain
        mid = message.mid if message.qos else 0
        self.arrived.append(Arrived(message.topic, bytes(message.payload), repeated, dict(pairs), client, mid))
