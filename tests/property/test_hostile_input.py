"""Whatever bytes come from outside: an answer, or the error that the reader promises. `make fuzz` goes on from here."""

import json
import random
import re
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.manifest import NAME_PATTERN, VERSION_PATTERN, Name
from agent.wire.topics import Topics
from tests.fuzz import commands
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, attempt, seeds

ANSWER = {"found": {}, "preprocess_ms": 0.1, "infer_ms": 1.0, "decode_ms": 0.1}


@pytest.fixture(autouse=True, scope="module")
def desk_ends() -> Iterator[None]:
    yield
    commands.close_all()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_taken(name: str) -> None:
    assert seeds(name)
    assert any(attempt(name, seed) for seed in seeds(name))


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.none() | st.binary(max_size=64))
def test_any_bytes(name: str, number: int, junk: bytes | None) -> None:
    rng = random.Random(number)
    attempt(name, mutate(rng.choice(seeds(name)), rng) if junk is None else junk)


FOUND = [
    ("command", b'\3\0{"pipeline": "\xff"}'),
    ("command", b'\6\0{"model": "' + b"A" * 60_000 + b'"}'),
    ("command", b"\0\1\n\0\n" + b"\x1b" * 60_000),
    ("local-request", b'{"command": "\xff"}'),
    ("ack", b'{"schema": "\xff"}'),
    ("config", b"mqtt: {port: " + b"1:" * 300 + b"1.5}"),
    ("config", b'"a\\nb": 1\npipelines: []'),
    ("config", b"A" * 5000 + b": 1\npipelines: []"),
    ("golden", b'{"samples": [{"input": "\xff", "found": {}}]}'),
    ("golden", b'{"samples": [], "a\\nb": 1}'),
    ("signed-trust", seeds("signed-trust")[0].replace(b'"ed25519"', b'"a\\nb"')),
    ("update-record", b'{"seen": "\xff"}'),
    ("update-record", b'{"x": ' + b"[" * 5000),
    ("worker-answer", b'E"two\\nlines"'),
    ("worker-answer", b'E""'),
    ("worker-answer", b"A" + json.dumps(ANSWER | {"infer_ms": -1}).encode()),
    (
        "worker-answer",  # the confidence of its event was a division by zero
        b"A" + json.dumps(ANSWER | {"found": {"anomaly": {"score": -1, "threshold": 1, "is_anomaly": True}}}).encode(),
    ),
    ("worker-ready", seeds("worker-ready")[0].replace(b'"stride":4', b'"stride":0')),
    ("worker-ready", seeds("worker-ready")[0].replace(b'"samples":8', b'"samples":9000000000000')),
    ("worker-ready", seeds("worker-ready")[1].replace(b'"rate_hz":8000.0', b'"rate_hz":0.2')),
    ("device-message", b"results/" + b"x" * 5000 + b"\n{}"),
    ("device-message", b"results/a\x0db\n{}"),
    ("device-state", b'models\n{"model": "\xff"}'),
    ("device-state", seeds("device-state")[0].replace(b'"reason":null', b'"reason":"\\u001b[2J"')),
]
"""What was a finding once: another exception, a line of many lines or of any length, a loop without end."""


@pytest.mark.parametrize(("name", "data"), FOUND, ids=[f"{n}-{name}" for n, (name, _) in enumerate(FOUND)])
def test_what_was_found_once(name: str, data: bytes) -> None:
    attempt(name, data)


class TestNames:
    """Names become levels of topics and folders."""

    @pytest.mark.parametrize("text", ["face\n", "../x", "a/b", "a+", "#", "", "A", "a" * 64, "é"])
    def test_what_is_no_name(self, text: str) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text, Name)

    def test_a_last_newline_is_none_of_it(self) -> None:
        assert not re.search(NAME_PATTERN, "face\n")
        assert not re.search(VERSION_PATTERN, "1.0\n")


@pytest.mark.parametrize(
    ("topic", "may"),
    [
        ("answers/me", True),
        ("edge/replies/me", True),
        ("edge/devices/cam-1/replies/me", True),
        ("edgeless/devices/cam-2/commands/restart", True),
        ("edge/devices/cam-2/commands/restart", False),
        ("edge/devices/cam-2/replies/me", False),
        ("edge/groups/yard/commands/restart", False),
        ("edge/releases/face", False),
        ("edge/releases", False),
        ("edge/blobs/aa/0", False),
        ("edge/devices/cam-1/commands/restart", False),
        ("edge/devices/cam-1/ack", False),
        ("edge/devices/cam-1/results/door", False),
        ("edge/devices/cam-1/status", False),
        ("$SYS/x", False),
    ],
)
def test_an_answer_can_not_pass_for_something_else(topic: str, may: bool) -> None:
    """Whoever may send commands to one device does not speak through it: to others, or as itself."""
    assert may == Topics("edge", "cam-1").may_answer_on(topic)
