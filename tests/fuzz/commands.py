"""Commands over the broker and from the same host, as the daemon has them done."""

import functools
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec

from agent.commands import Commands
from agent.config import Config
from agent.daemon import Daemon
from agent.mqtt.inbox import Inbound
from agent.wire.messages import Reply
from tests.fuzz.bench import TOPICS, Target, scratch
from tests.sim.agent import make_config, make_pipeline
from tests.sim.bundles import make_bundle

BRANCH = TOPICS.branch
MAX_REPLY_BYTES = 16 << 10
"""Of what a command brings about; a status is the longest."""


class CommandDesk:
    """The commands as the daemon wires them, with those of its threads that do what commands ask for."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="desk-", dir=scratch())
        home = Path(self._home.name)
        fields = make_config(home, 1883, make_bundle("digits", home), pipelines=[make_pipeline("door", model="digits")])
        self.daemon = Daemon(msgspec.convert(fields, Config))
        self._threads: list[threading.Thread] = []
        loops = dict(self.daemon._threads())
        self.commands: Commands = loops["commands"].__self__  # type: ignore[attr-defined]
        self.commands._restart = self._restart
        for name in ("updates", "feedback"):  # who does what commands ask for
            if name in loops:
                self._threads.append(threading.Thread(target=loops[name], args=(self.daemon._stop,), daemon=True))
        for thread in self._threads:
            thread.start()
        self.restarts = 0

    @property
    def pipeline(self) -> Any:
        return self.daemon._pipelines["door"]

    def send(self, inbound: Inbound) -> Reply | None:
        """What is answered, and where: nowhere else, and nothing but one reply of some kilobytes."""
        self.commands.handle(inbound)
        sent = []
        while urgent := self.daemon._link._urgent.take(qos0_only=False):
            sent.append(urgent)
        assert len(sent) <= 1
        for urgent in sent:
            assert urgent.topic == inbound.response_topic
            assert urgent.correlation_data == inbound.correlation_data
            assert len(urgent.message.payload) <= MAX_REPLY_BYTES
            return msgspec.json.decode(urgent.message.payload, type=Reply)
        return None

    def tell_here(self, request: bytes) -> dict[str, Any]:
        """What a program on the same host is answered."""
        text = self.commands.answer_local(request)
        assert len(text) <= MAX_REPLY_BYTES
        return dict(json.loads(text))

    def close(self) -> None:
        self.daemon._stop.set()
        for thread in self._threads:
            thread.join(20.0)
        self.daemon._outbox.close()
        self._home.cleanup()

    def _restart(self) -> None:
        self.restarts += 1


@functools.cache
def desk() -> CommandDesk:
    return CommandDesk()


def close_all() -> None:
    """End the threads of the desk, if there is one."""
    if desk.cache_info().currsize:
        desk().close()
        desk.cache_clear()


def command(data: bytes) -> None:
    """First byte: which command; second: how it comes; then the payload, or behind a zero line the topic."""
    if len(data) < 2:
        return
    names = list(desk().commands._local_table)
    topic = f"{BRANCH}/commands/{names[data[0] % len(names)]}"
    payload, _, rest = data[2:].partition(b"\n\0\n")
    text = rest.decode("utf-8", "replace")
    if data[1] & 1 and rest:
        topic = f"{BRANCH}/commands/{text}"
    answer_on = text if data[1] & 2 else "answers/me"
    config, restarts = repr(desk().daemon.config), desk().restarts
    reply = desk().send(Inbound(topic, payload, bool(data[1] & 4), answer_on, rest if data[1] & 8 else None))
    assert 0.0 <= desk().pipeline.min_confidence <= 1.0
    assert config == repr(desk().daemon.config)
    assert isinstance(desk().pipeline.enabled, bool)
    if reply is not None and not reply.ok:
        assert restarts == desk().restarts
        assert reply.error
        assert len(reply.error) <= 1000


def local_request(data: bytes) -> None:
    desk().tell_here(data)


_COMMANDS = [
    b"\3\2" + b'{"pipeline":"door","enabled":false,"min_confidence":0.7}\n\0\nanswers/me',
    b"\2\0" + b'{"pipeline":"door"}',
    b"\1\x0a\n\0\nanswers/you",
    b"\6\0" + b'{"model":"face","pinned":true}',
    b"\0\1" + b"{}\n\0\nping",
]


TARGETS = {
    "command": Target(command, (), lambda: _COMMANDS),
    "local-request": Target(local_request, (), lambda: [b'{"command":"set","enabled":true}', b"", *_COMMANDS]),
}
