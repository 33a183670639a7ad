"""Whatever bytes come: never a wrong accept, never another exception than UpdateRefused."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UpdateRefused
from agent.updates.verify import DeviceFacts, Known, judge, open_release, open_trust
from agent.wire.releases import REASONS, RELEASE_TYPE, TRUST_TYPE
from tests.sim.keys import Authority, key, keys, release_statement, sign

DEVICE = DeviceFacts("cam-7", ("lobby",), ("aarch64",), "1.4.0")
KNOWN = Known(5, "b" * 64, {"d" * 64}, "2026-11-01T00:00:00Z")

OLD = Authority(root=keys("r1", "r2"), release=keys("l1", "l2"), root_threshold=2)
TRUST = OLD.trust
OLD.advance(release=keys("l2", "l3"))
NEW_TRUST = open_trust(OLD.trust_file, TRUST)[0]
RELEASE = OLD.release("face", 6, signers=keys("l2"), chain=[OLD.envelope])
NEWER_TRUST = OLD.trust_file
STRANGE = ["", "\u0000", "\ud83d\ude00", "../../x", "A" * 5000, "-----BEGIN PUBLIC KEY-----", "NaN", "1e999"]
TOKENS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"NaN",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"true",
    b"null",
    b"-1",
]
VALUES: list[Any] = [None, True, -1, 0, 2**31, 2**64, 1e308, [], {}, *STRANGE]


def payload_of(raw: bytes) -> bytes:
    return base64.b64decode(json.loads(raw)["payload"])


SIGNED = {payload_of(RELEASE)}
DOCUMENTS = (TRUST.document, NEW_TRUST.document)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in items:
        yield from paths(part, (*here, name))


def change_json(value: Any, rng: random.Random) -> Any:
    """Another value, or none, or twice, at a random place of a document."""
    *way, last = rng.choice([p for p in paths(value) if p])
    part = value
    for name in way:
        part = part[name]
    match rng.randrange(4):
        case 0:
            part[last] = rng.choice(VALUES)
        case 1:
            del part[last]
        case 2 if isinstance(part, list):
            part.append(part[last])
        case _ if isinstance(part[last], str) and part[last]:
            at = rng.randrange(len(part[last]))
            part[last] = part[last][:at] + rng.choice("0aZ/=") + part[last][at + 1 :]
    return value


def change_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double or insert."""
    at, to = sorted(rng.randrange(len(raw)) for _ in range(2))
    match rng.randrange(5):
        case 0:
            return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
        case 1:
            return raw[:at] + raw[to:]
        case 2:
            return raw[:to] + raw[at:]
        case 3:
            return raw[:at] + rng.choice(TOKENS) + raw[at:]
        case _:
            return raw[:at]


def mutant(raw: bytes, rng: random.Random) -> bytes:
    """One to three changes, of bytes or of values."""
    for _ in range(rng.randint(1, 3)):
        try:
            whole = json.loads(raw)
            raw = json.dumps(change_json(whole, rng)).encode() if rng.random() < 0.6 else change_bytes(raw, rng)
        except (ValueError, IndexError, TypeError, AttributeError, KeyError, UnicodeError):
            raw = change_bytes(raw + b" ", rng)  # it is no document any more
    return raw


def refused_or(call: Callable[[], Any]) -> Any:
    """The result, or None for a refusal with a known reason."""
    try:
        return call()
    except UpdateRefused as exc:
        refusal = exc
    assert refusal.reason_code in REASONS
    assert len(str(refusal).encode()) < 1000
    return None


def check_release(raw: bytes) -> bool:
    """Whether it was accepted; then it says what was signed, and nothing else."""
    opened = refused_or(lambda: open_release(raw, TRUST, "face"))
    if opened is not None:
        assert payload_of(raw) in SIGNED
        assert opened.trust.document in DOCUMENTS
    return opened is not None


def check_trust(raw: bytes) -> bool:
    found = refused_or(lambda: open_trust(raw, TRUST))
    if found is not None:
        assert found[0].document in DOCUMENTS
    return found is not None


def soak(mutants: int, seed: int) -> None:
    rng = random.Random(seed)
    assert check_release(RELEASE)
    assert check_trust(NEWER_TRUST)
    accepted = 0
    for _ in range(mutants // 2):
        accepted += check_release(mutant(RELEASE, rng))
        accepted += check_trust(mutant(NEWER_TRUST, rng))
    assert 0 < accepted < mutants / 2, "some changes touch nothing that counts, most do"


def test_two_thousand_mutants() -> None:
    soak(2_000, seed=1)


@pytest.mark.slow
def test_twenty_thousand_mutants() -> None:
    soak(20_000, seed=2)


def judge_signed(payload: bytes) -> None:
    """A key holder may sign anything, by mistake or stolen: also then only a verdict or a refusal."""
    opened = refused_or(lambda: open_release(sign(payload, RELEASE_TYPE, key("l1")), TRUST, "face"))
    if opened is not None:
        refused_or(lambda: judge(opened.release, opened.trust, DEVICE, KNOWN, "2026-11-24T12:00:00Z"))


def test_mutants_that_are_signed() -> None:
    full = release_statement(
        "face",
        6,
        expires="2027-01-01T00:00:00Z",
        notes="x",
        retry=False,
        targets={"devices": ["cam-7"], "groups": ["lobby"], "hardware": ["aarch64"], "percent": 50, "salt": "x"},
        requires={"agent_min": "1.2"},
        acceptance={"max_infer_ms": 200, "min_agreement": 0.9},
        activation={"health_window_s": 60, "min_frames": 5},
    )
    rng = random.Random(3)
    release, trust = json.dumps(full).encode(), json.dumps(OLD.statement() | {"version": 3}).encode()
    for _ in range(500):
        judge_signed(mutant(release, rng))
        raw = sign(mutant(trust, rng), TRUST_TYPE, *keys("r1", "r2"))
        refused_or(lambda raw=raw: open_trust(raw, TRUST))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["payload", "payloadType", "signatures", "trust_chain", "x"])


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300) | st.dictionaries(FIELDS, JSON).map(lambda value: json.dumps(value).encode()))
def test_any_bytes(raw: bytes) -> None:
    assert not check_release(raw)
    assert not check_trust(raw)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([*release_statement("face", 6), "targets", "notes", "expires", "critical"]), JSON)
def test_any_value_in_a_signed_field(field: str, value: Any) -> None:
    judge_signed(json.dumps(release_statement("face", 6) | {field: value}).encode())
