"""Messages of single topics for whoever reads them: sensors of other devices, over the one connection."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from agent.errors import SourceError
from agent.mqtt.inbox import Inbound
from agent.mqtt.link import Link

MAX_WAITING = 64
"""Messages of one feed; with more the oldest is dropped, and counted."""


class Feeds:
    """All feeds of a connection. `put` is for the publish thread, `subscribe` for any."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._feeds: list[Feed] = []

    def subscribe(self, topics: Sequence[str]) -> "Feed":
        """Messages of these topics from now on; they are asked for as soon as there is a connection, and at each.

        With QoS 0: what came while there was no connection is not delivered late. Nor is what lies on the broker: it is
        a reading of nobody knows when.
        """
        feed = Feed(self, self._link, topics)
        with self._lock:
            self._feeds = [*self._feeds, feed]
        return feed

    def put(self, message: Inbound) -> bool:
        """Hand a message to the feeds of its topic; False when there is none. Never blocks, never raises."""
        taken = False
        for feed in self._feeds:  # the list is never changed, but replaced
            if message.topic in feed.topics:
                taken = True
                if not message.retain:
                    feed.put(message)
        return taken

    def leave(self, feed: "Feed") -> None:
        """End a feed, and the subscriptions that no other one needs."""
        with self._lock:
            if feed not in self._feeds:
                return
            self._feeds = [other for other in self._feeds if other is not feed]
            needed = {topic for other in self._feeds for topic in other.topics}
            self._link.unwant([topic for topic in feed.topics if topic not in needed])


class Feed:
    """Messages of some topics. `take` belongs to one thread."""

    def __init__(self, feeds: Feeds, link: Link, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self.dropped = 0
        self._feeds, self._link = feeds, link
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._asked_at_connect = 0
        self._closed = False

    def put(self, message: Inbound) -> None:
        """From the publish thread."""
        with self._changed:
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((message.topic, message.payload))
            self._changed.notify()

    def take(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next message, topic and payload, in the order they came; None when none came in time.

        Raises:
            SourceError: the broker refuses one of the topics, or the feed was closed.
        """
        self._ask()
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while not self._waiting and not self._closed:
                if not self._changed.wait(deadline_s - time.monotonic()):
                    return None
            if self._closed:
                raise SourceError("closed")
            return self._waiting.popleft()

    def close(self) -> None:
        """End it, from any thread; again it does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._feeds.leave(self)

    def _ask(self) -> None:
        """Subscribe anew on each connection, which forgets what the one before was asked for."""
        connects = self._link.connects
        if connects != self._asked_at_connect and self._link.connected:
            self._asked_at_connect = connects
            self._link.want(self.topics)
        for topic in self.topics:
            if reason := self._link.denied.get(topic):
                raise SourceError(reason)
