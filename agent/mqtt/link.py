"""The link to the broker, connection after connection: what goes out, in which order, and what came of it."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog

from agent.config import Mqtt
from agent.errors import LinkDown
from agent.mqtt import reasons
from agent.mqtt.client import Connection, Sendable
from agent.mqtt.inbox import Receiver
from agent.mqtt.ledger import NO_SUBSCRIBERS, Ledger
from agent.mqtt.urgent import Qos, Urgent, UrgentQueue
from agent.mqtt.wants import Wants
from agent.values import OutboundMessage

BATCH_BYTES = 64 << 10
"""What to take from the outbox at once. With what the kernel holds, some 240 kB may be ahead of a ping or of what is
posted: an uplink under 8 kB/s needs a longer keepalive than the default of 30 s."""
WITHOUT_RETAINED_S = 600.0
"""How long nothing retained is asked for after a packet that paho can't read: that packet may lie on the broker, and
would end each connection anew. Updates wait then, results don't."""
_MAX_LOGGED = 256
_MAX_SHOWN = 128

_log = structlog.get_logger()


class Stored(Sendable, Protocol):
    """A message of the outbox. Ids rise."""

    @property
    def id(self) -> int: ...


class Link:
    """One connection at a time. `post`, `want`, `unwant`, `wake` may be called from any thread, the rest from one."""

    def __init__(
        self,
        config: Mqtt,
        client_id: str,
        *,
        will: OutboundMessage,
        birth: Callable[[], OutboundMessage],
        topic_filters: Sequence[str],
        inbox: Receiver,
        retained_filters: Sequence[str] = (),
        broker_keeps: bool = True,
    ) -> None:
        """`birth` makes the message that each connection begins with; its topic is the will's.

        What lies on the broker is wanted of `retained_filters`, at each connection; not of `topic_filters`: a command
        that lies there is a mistake. `broker_keeps`: what a broker has acknowledged need not be sent over the next
        connection.
        """
        self._config, self._client_id = config, client_id
        self._will, self._birth = will, birth
        self._filters, self._retained_filters, self._inbox = topic_filters, retained_filters, inbox
        self._broker_keeps = broker_keeps
        self._retained_asked = False
        self._retained_from_s = 0.0
        self._wants = Wants()
        self._ledger = Ledger()
        self._urgent = UrgentQueue()
        self._urgent_open: dict[int, Urgent] = {}
        self._connection: Connection | None = None
        self._clean_start = False
        self._logged: set[str] = set()
        self.connects = 0
        self.last_error: str | None = None
        self.refused = 0
        """Messages that were given up because the broker does not take them."""
        self.no_subscribers = 0
        """Messages that the broker took, but nobody subscribes to."""
        self.denied: dict[str, str] = {}
        """Topics that were wanted on this connection and that can't be had, with the reason."""

    @property
    def connected(self) -> bool:
        """The broker accepted the connection, and it has not ended as far as we know."""
        return self._connection is not None and self._connection.ended is None

    # --- from any thread ------------------------------------------------------------------------------------------

    def post(self, message: OutboundMessage, *, qos: Qos, correlation_data: bytes | None = None) -> bool:
        """Hand over a message that goes beside the outbox. True says that it waits, not that it arrives.

        False: there is no connection and it is of QoS 0, or too many wait. What is retained or of QoS 0 is a state: the
        newest of its topic wins. An answer to a command carries `correlation_data`.
        """
        if qos == 0 and not self.connected:
            return False
        taken = self._urgent.put(Urgent(message, qos, correlation_data))
        self.wake()
        return taken

    def want(self, topics: Iterable[str]) -> None:
        """Subscribe to single topics with QoS 0; what is retained there comes, again at each call.

        Holds for this connection only: when `connects` has changed, whoever still wants them asks again. Each
        subscription must be ended with `unwant`. Topics that can't be had are in `denied` then.
        """
        for topic in topics:
            self.denied.pop(topic, None)
            if time.monotonic() < self._retained_from_s:
                self.denied[topic] = "the broker sent a packet that can't be read; nothing is fetched for ten minutes"
            elif self.connected:
                self._wants.want([topic])
        self.wake()

    def unwant(self, topics: Iterable[str]) -> None:
        """End subscriptions that `want` began, in the next round, which this does not hurry; others are left alone."""
        topics = list(topics)
        for topic in topics:
            self.denied.pop(topic, None)
        self._wants.unwant(topics)

    def wake(self) -> None:
        """End a `wait`, now or the next."""
        connection = self._connection
        if connection is not None:
            connection.wake()

    # --- from the publish thread ----------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> None:
        """Try once to connect, log in, say that we are there, and subscribe.

        A message that paho can't read would be sent again by the broker and end every connection; so after one, the
        session is started anew, and what waits in it (commands) is lost. If it is a retained one, that is not enough:
        see WITHOUT_RETAINED_S.

        Raises:
            LinkDown: one line that says why, and how to mend it.
        """
        self.close(None, 0.0)
        connection = Connection(self._config, self._client_id, self._will, self._inbox)
        try:
            connection.open(timeout_s, clean_start=self._clean_start)
        except LinkDown as exc:
            self.last_error = str(exc)
            raise
        self._clean_start = False
        self._ledger.begin()
        if not self._broker_keeps:
            self._ledger.forget()
        self._wants.begin()  # before `connects` tells whoever wants something to ask again
        self.denied.clear()
        self._retained_asked = False
        self._connection = connection
        self.connects += 1
        self._urgent.drop_state_of(self._will.topic)  # before the birth is made: what is posted from now on is newer
        self._publish_urgent(connection, Urgent(self._birth(), 1))
        connection.subscribe(self._filters)

    def room(self) -> int:
        """How many messages may be sent now."""
        connection = self._connection
        if connection is None or connection.ended or self._ledger.refused or not connection.idle:
            return 0
        return max(0, connection.window - self._ledger.open)

    def send(self, message: Stored) -> None:
        """Send a message of the outbox; its id comes back from `take_acks` once it is done with.

        One that can never be sent over this connection is done with at once: counted and logged as refused.

        Raises:
            LinkDown: the connection has ended.
        """
        connection = self._live()
        if not self._ledger.offer(message.id, message.topic):
            return
        if fault := connection.fault_of(message):
            self._ledger.park()
            self._give_up(message.topic, fault)
            return
        self._ledger.sent(self._publish(connection, message, 1), time.monotonic())

    def pump(self) -> None:
        """Send what was posted, subscribe to what is wanted, and see that the connection does its work.

        A broker that lets the oldest publish wait for twice the keepalive is given up; so long may silence last for
        paho as well. It counts from when the publish became the oldest, so that a slow link with much in flight is not
        mistaken for a stuck one; but a single message has to get through in that time.

        Raises:
            LinkDown: the connection has ended, or acknowledgements don't come any more.
        """
        connection = self._live()
        if self._ledger.stalled_s(time.monotonic()) > 2 * connection.keepalive_s:
            raise self._down("the broker acknowledges nothing any more")
        while urgent := self._urgent.take(qos0_only=self._ledger.open >= connection.window):
            self._publish_urgent(connection, urgent)
        if time.monotonic() >= self._retained_from_s:
            self._ask_retained(connection)

    def take_acks(self) -> list[int]:
        """Ids of messages that are done with, in the order sent, up to the first that is not; each once.

        After a refusal nothing more is sent, the answers to the rest are waited for, and LinkDown is raised, so that
        the caller backs off and sends again. A message that was refused five times by a broker that takes others is
        given up (see `agent.mqtt.ledger`).

        Raises:
            LinkDown: the broker refuses a message.
        """
        for parked in self._ledger.settle():
            self._give_up(parked.topic, parked.reason)
        done = self._ledger.take()
        if not done and (refusal := self._ledger.refusal()):
            raise self._down(reasons.refused(*refusal))
        return done

    def wait(self, timeout_s: float) -> None:
        """Wait until something happened: an answer, an inbound message, the end, `post`, `wake`. May return early."""
        if self._connection is not None:
            self._connection.serve(timeout_s)
            self._account(self._connection)

    def close(self, last_words: OutboundMessage | None, timeout_s: float) -> None:
        """End the connection within the time.

        With last words (the status `offline`): publish them, wait for the answer, and leave; the broker forgets the
        will. What is posted on their topic from then on, by threads that are still ending, does not follow them.
        Without: the broker publishes the will, which is the truth until the next connection.
        """
        connection, deadline_s = self._connection, time.monotonic() + timeout_s
        if connection is None:
            return
        said = last_words is not None and self._say(last_words, deadline_s)
        connection.close(deadline_s - time.monotonic(), with_will=not said)
        self._account(connection)
        self._clean_start = connection.unreadable
        if connection.unreadable:
            self._retained_from_s = time.monotonic() + WITHOUT_RETAINED_S
        self._connection = None
        self._ledger.end()
        self._urgent.put_back(self._urgent_open.values())
        self._urgent_open.clear()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _say(self, last_words: OutboundMessage, deadline_s: float) -> bool:
        """Send the last words and what was posted, and wait for the answers; False when they did not come in time."""
        self._urgent.put_last(Urgent(last_words, 1))
        with contextlib.suppress(LinkDown):
            while (left_s := deadline_s - time.monotonic()) > 0:
                self.pump()
                if not self._urgent and not self._urgent_open:
                    return True
                self.wait(left_s)
        return False

    def _ask_retained(self, connection: Connection) -> None:
        if not self._retained_asked:
            self._retained_asked = True
            connection.subscribe(self._retained_filters, retained=True)
        leave, enter = self._wants.take()
        connection.unsubscribe(leave)
        connection.subscribe(enter, qos=0, retained=True)

    def _publish_urgent(self, connection: Connection, urgent: Urgent) -> None:
        """Raises LinkDown when the connection has ended; the message is kept then."""
        if fault := connection.fault_of(urgent.message, urgent.correlation_data):
            self._give_up(urgent.topic, fault)
            return
        try:
            packet_id = self._publish(connection, urgent.message, urgent.qos, urgent.correlation_data)
        except LinkDown:
            self._urgent.put_back([urgent])
            raise
        if urgent.qos == 1:
            self._urgent_open[packet_id] = urgent
            self._ledger.sent(packet_id, time.monotonic(), beside_stream=urgent.topic)

    def _publish(self, connection: Connection, message: Sendable, qos: Qos, correlation: bytes | None = None) -> int:
        try:
            return connection.publish(message, qos, correlation)
        except LinkDown as exc:
            self.last_error = str(exc)
            raise

    def _account(self, connection: Connection) -> None:
        """Book what the broker answered."""
        now_s = time.monotonic()
        for answer in connection.answers:
            if not self._ledger.answered(answer.packet_id, answer.code, answer.reason, now_s):
                continue
            self.no_subscribers += answer.code == NO_SUBSCRIBERS
            urgent = self._urgent_open.pop(answer.packet_id, None)
            if urgent is not None and answer.failed:
                self._give_up(urgent.topic, answer.reason)
        connection.answers.clear()
        for topic_filter, reason in connection.refused_filters:
            error = f"the broker refuses the subscription to {topic_filter}: {reason.lower()}"
            if topic_filter in self._wants:
                self.denied[topic_filter] = error  # whoever wants it tells it
                continue
            self.last_error = error
            if self._is_news(topic_filter):
                _log.error("mqtt.subscription_refused", topic_filter=topic_filter, reason=reason)
        connection.refused_filters.clear()

    def _give_up(self, topic: str, reason: str) -> None:
        topic = ascii(topic)[1:-1][:_MAX_SHOWN]  # a command may ask for an answer on anything
        self.refused += 1
        self.last_error = f"a message on {topic} was given up: {reason.lower()}"
        if self._is_news(topic):
            _log.error("mqtt.message_refused", topic=topic, reason=reason, refused=self.refused)

    def _is_news(self, topic: str) -> bool:
        """Whether this is the first trouble with a topic. Bounded, as those who send commands choose topics too."""
        if topic in self._logged or len(self._logged) >= _MAX_LOGGED:
            return False
        self._logged.add(topic)
        return True

    def _live(self) -> Connection:
        if self._connection is None:
            raise self._down("not connected")
        if self._connection.ended is not None:
            raise self._down(self._connection.ended)
        return self._connection

    def _down(self, reason: str) -> LinkDown:
        self.last_error = reason
        return LinkDown(reason)
