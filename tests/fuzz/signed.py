"""Releases and trust documents, from anybody and from somebody with the keys."""

import json

from agent.errors import UpdateRefused
from agent.updates.verify import DeviceFacts, Known, judge, open_release, open_trust, parse_trust_file
from agent.wire.releases import RELEASE_TYPE, TRUST_TYPE
from tests.fuzz.bench import Target
from tests.sim.keys import Authority, key, keys, release_statement, sign

_OLD = Authority(root=keys("r1", "r2"), release=keys("l1"), root_threshold=2)
_TRUST, _TRUST_FILE = _OLD.trust, _OLD.trust_file
_OLD.advance(release=keys("l2"))
_DEVICE = DeviceFacts("cam-7", ("lobby",), ("aarch64",), "1.4.0")
_KNOWN = Known(5, "b" * 64, {"d" * 64}, "2026-11-01T00:00:00Z")


def release(data: bytes) -> None:
    """The envelope: nothing that was not signed is ever taken."""
    opened = open_release(data, _TRUST, "face")
    assert opened.release.archive.sha256 == "a" * 64


def signed_release(data: bytes) -> None:
    """Somebody has the release key."""
    opened = open_release(sign(data, RELEASE_TYPE, key("l1")), _TRUST, "face")
    judge(opened.release, opened.trust, _DEVICE, _KNOWN, "2026-11-24T12:00:00Z")


def trust(data: bytes) -> None:
    open_trust(data, _TRUST)


def trust_file(data: bytes) -> None:
    parse_trust_file(data)


def signed_trust(data: bytes) -> None:
    """Somebody has all keys."""
    open_trust(sign(data, TRUST_TYPE, *keys("r1", "r2")), _TRUST)


_REFUSED = (UpdateRefused,)

TARGETS = {
    "release": Target(release, _REFUSED, lambda: [_OLD.release("face", 6, signers=keys("l2"), chain=[_OLD.envelope])]),
    "signed-release": Target(signed_release, _REFUSED, lambda: [json.dumps(release_statement("face", 6)).encode()]),
    "trust": Target(trust, _REFUSED, lambda: [_OLD.trust_file]),
    "trust-file": Target(trust_file, _REFUSED, lambda: [_TRUST_FILE]),
    "signed-trust": Target(signed_trust, _REFUSED, lambda: [json.dumps(_OLD.statement() | {"version": 3}).encode()]),
}
