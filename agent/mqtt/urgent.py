"""Messages that go beside the outbox: status, telemetry, answers to commands. They don't survive a restart."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agent.values import OutboundMessage

MAX_WAITING = 64

Qos: TypeAlias = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class Urgent:
    """One such message."""

    message: OutboundMessage
    qos: Qos
    correlation_data: bytes | None = None
    """What came with the command that it answers."""

    @property
    def topic(self) -> str:
        return self.message.topic

    @property
    def newest_wins(self) -> bool:
        """It describes a state, so a newer one of the same topic makes it worthless."""
        return self.message.retain or self.qos == 0


class UrgentQueue:
    """Bounded and thread-safe. A state replaces the older one of its topic; when full, newcomers are dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Urgent] = []
        self._last_of: str | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Urgent) -> bool:
        """Put a message at the end; False when there is no place, or when the last of its topic was put."""
        with self._lock:
            if message.newest_wins:
                if message.topic == self._last_of:
                    return False
                self._waiting = [other for other in self._waiting if not _outdated(other, message)]
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(message)
            return True

    def take(self, *, qos0_only: bool) -> Urgent | None:
        """Take the one that waits longest; `qos0_only` when no more acknowledgements may be open."""
        with self._lock:
            for index, message in enumerate(self._waiting):
                if message.qos == 0 or not qos0_only:
                    return self._waiting.pop(index)
            return None

    def put_back(self, messages: Iterable[Urgent]) -> None:
        """Put what was sent and not acknowledged back to the front, where nothing newer has come meanwhile."""
        with self._lock:
            back = [old for old in messages if not any(_outdated(old, new) for new in self._waiting)]
            self._waiting = [*back, *self._waiting][:MAX_WAITING]

    def put_last(self, message: Urgent) -> None:
        """Put a state to the front, in the place of one that waits; until `drop_state_of` it is the last of its topic,
        whatever others still have to say."""
        with self._lock:
            self._last_of = message.topic
            self._waiting = [message, *(other for other in self._waiting if not _outdated(other, message))]

    def drop_state_of(self, topic: str) -> None:
        """Forget a state that waits: a newer one of this topic goes out another way."""
        with self._lock:
            self._last_of = None
            self._waiting = [other for other in self._waiting if not (other.newest_wins and other.topic == topic)]


def _outdated(old: Urgent, new: Urgent) -> bool:
    return old.newest_wins and new.newest_wins and old.topic == new.topic
