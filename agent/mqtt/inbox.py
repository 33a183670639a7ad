"""Messages that came in, waiting for the part that handles them. Bounded: a flood costs messages, never memory."""

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MAX_WAITING = 64
MAX_PAYLOAD_BYTES = 64 << 10
"""As large as a chunk of a model or the envelope of a release; commands are far smaller."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message from the broker. Everything in it was chosen by whoever may publish there."""

    topic: str
    payload: bytes
    retain: bool = False
    """It lay on the broker, and would come again at every new subscription."""
    response_topic: str | None = None
    """Where the sender wants the answer; not checked."""
    correlation_data: bytes | None = None
    """To be sent back with the answer, as it is."""


class Receiver(Protocol):
    """Takes what comes in, in the publish thread: never blocks, never raises."""

    def put(self, message: Inbound) -> None: ...


class Inbox:
    """A queue between the publish thread and the one that handles commands. The drop policy is "first come"."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Inbound] = queue.Queue(MAX_WAITING)
        self.dropped = 0
        """Messages that were too large, or came while 64 others waited."""

    def put(self, message: Inbound) -> None:
        """Put a message in, or count it as dropped. Never blocks, never raises. One thread may put."""
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            self.dropped += 1
            return
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self.dropped += 1

    def take(self, timeout_s: float) -> Inbound | None:
        """The message that waits longest; None when none came in time."""
        try:
            return self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Router:
    """Commands into their inbox, everything else to `other`; a flood of the one takes no place from the other."""

    def __init__(
        self, commands: Receiver, is_command: Callable[[str], object], other: Callable[[Inbound], None]
    ) -> None:
        """`is_command` says of a topic whether it is one; `other` is called in the publish thread."""
        self._commands, self._is_command, self._other = commands, is_command, other
        self.dropped = 0
        """Messages for `other` that were too large."""

    def put(self, message: Inbound) -> None:
        """Pass a message on."""
        if self._is_command(message.topic):
            self._commands.put(message)
        elif len(message.payload) > MAX_PAYLOAD_BYTES:
            self.dropped += 1
        else:
            self._other(message)
