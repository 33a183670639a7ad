"""Commands from anybody who may publish: bounded in size, rate and depth, and no more than the contract names."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mqtt.inbox import MAX_WAITING, Inbound
from agent.wire.messages import Reply
from tests.fuzz import commands
from tests.fuzz.bench import check_line
from tests.fuzz.commands import BRANCH, CommandDesk


@pytest.fixture(scope="module")
def desk() -> Iterator[CommandDesk]:
    yield commands.desk()
    commands.close_all()


def ask(desk: CommandDesk, command: str, payload: bytes = b"", **more: Any) -> Reply:
    reply = desk.send(Inbound(f"{BRANCH}/commands/{command}", payload, response_topic="answers/me", **more))
    assert reply is not None
    return reply


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 60_000,
        b'{"x": ' * 10_000,
        b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"min_confidence": 1' + b"0" * 60_000 + b"}",
        b'{"min_confidence": 1e999}',
        b'{"min_confidence": NaN}',
        b'{"min_confidence": -0.1}',
        b'{"min_confidence": "0.5"}',
        b'{"enabled": 1}',
        b'{"enabled": true, "enabled": false}',
        b'{"pipeline": "\xff", "enabled": false}',
        b'{"pipeline": "\\ud800", "enabled": false}',
        b'{"pipeline": "door\\u0000", "enabled": false}',
        b'\xef\xbb\xbf{"enabled": false}',
        b'{"enabled": false}\0',
        b'{"enabled": false} {}',
        b"\xff\xfe{\0}\0",
        b"null",
        b"[]",
        b'"set"',
    ],
    ids=lambda payload: repr(payload[:32]),
)
def test_what_is_no_command_is_refused_in_one_line(desk: CommandDesk, payload: bytes) -> None:
    before = desk.pipeline.enabled, desk.pipeline.min_confidence
    reply = ask(desk, "set", payload)
    assert not reply.ok
    check_line(reply.error or "")
    assert before == (desk.pipeline.enabled, desk.pipeline.min_confidence)


FIELDS = st.sampled_from(
    ["enabled", "min_confidence", "pipeline", "password_file", "path", "source", "dir", "trust", "key_file", "url"]
)
VALUES = st.none() | st.booleans() | st.floats(0, 1) | st.sampled_from(["door", "/etc/passwd", "../x", "rtsp://u:p@h/"])


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(FIELDS, VALUES, max_size=5))
def test_set_writes_two_settings_and_nothing_else(fields: dict[str, Any]) -> None:
    """No secret, no path, no other part of the configuration, and not the file."""
    desk = commands.desk()
    config = repr(desk.daemon.config)
    reply = ask(desk, "set", json.dumps(fields).encode())
    assert config == repr(desk.daemon.config)
    if reply.ok:
        assert {"pipeline", "enabled", "min_confidence"} == set(reply.data)
        asked = {key: fields.get(key) for key in ("enabled", "min_confidence")}
        assert {key: value for key, value in asked.items() if value is not None}.items() <= reply.data.items()


def test_only_what_the_contract_names_is_done(desk: CommandDesk) -> None:
    for name in ("exec", "config", "model-activate", "SET", "set/", "__class__", "", "set\0", "../set"):
        reply = desk.send(Inbound(f"{BRANCH}/commands/{name}", b"{}", response_topic="answers/me"))
        assert reply is None or (not reply.ok and "command" in str(reply.error)), name


def test_a_command_that_lies_on_the_broker_is_not_done(desk: CommandDesk) -> None:
    before = desk.restarts
    inbound = Inbound(f"{BRANCH}/commands/restart", b"", retain=True, response_topic="answers/me")
    assert desk.send(inbound) is None
    assert before == desk.restarts


def test_an_answer_goes_nowhere_where_it_would_be_taken_for_a_command(desk: CommandDesk) -> None:
    for topic in (f"{BRANCH}/commands/restart", "edge/devices/cam-2/commands/restart", "edge/releases/face"):
        assert desk.send(Inbound(f"{BRANCH}/commands/ping", b"", response_topic=topic)) is None


def test_a_flood_costs_messages(desk: CommandDesk) -> None:
    """What waits is bounded, and after each command there is a pause."""

    class Stop(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            self.pauses_s: list[float] = []

        def is_set(self) -> bool:
            return len(self.pauses_s) >= MAX_WAITING

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses_s.append(timeout or 0.0)
            return False

    inbox = desk.daemon._inbox
    for _ in range(10 * MAX_WAITING):
        inbox.put(Inbound(f"{BRANCH}/commands/ping", b""))
    assert inbox.dropped == 9 * MAX_WAITING
    desk.commands.loop(stop := Stop())
    assert len(stop.pauses_s) == MAX_WAITING
    assert min(stop.pauses_s) >= 0.02


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200) | st.dictionaries(st.text(), VALUES).map(msgspec.json.encode))
def test_the_local_socket_bears_anything(request_: bytes) -> None:
    commands.desk().tell_here(request_)
