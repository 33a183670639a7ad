"""Single topics that somebody wants for a while: asked for from any thread, subscribed to in the publish thread."""

import threading
from collections.abc import Iterable


class Wants:
    """What to subscribe to and to leave in the next round, and what is subscribed to on this connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._enter: dict[str, None] = {}  # as ordered sets
        self._leave: dict[str, None] = {}
        self._held: dict[str, None] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._held

    def want(self, topics: Iterable[str]) -> None:
        """Subscribe in the next round, also anew: what lies on the broker comes again then."""
        with self._lock:
            for topic in topics:
                self._leave.pop(topic, None)
                self._enter[topic] = None

    def unwant(self, topics: Iterable[str]) -> None:
        with self._lock:
            for topic in topics:
                self._enter.pop(topic, None)
                if topic in self._held:
                    self._leave[topic] = None

    def take(self) -> tuple[list[str], list[str]]:
        """What to leave and what to subscribe to now."""
        if not self._leave and not self._enter:  # nearly always
            return [], []
        with self._lock:
            leave, enter = list(self._leave), list(self._enter)
            self._held = {**{topic: None for topic in self._held if topic not in self._leave}, **self._enter}
            self._enter, self._leave = {}, {}
            return leave, enter

    def begin(self) -> None:
        """A new connection: nothing is wanted yet. The session on the broker still has what the last one held."""
        with self._lock:
            self._leave |= self._held
            self._enter, self._held = {}, {}
