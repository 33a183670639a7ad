"""The operator's side of signing: keys, trust documents and releases, right or wrong as a test needs them.

authority = Authority()                              # one root key, one release key, version 1
trust = authority.trust                              # what a device believes: parse_trust_file(authority.trust_file)
raw = authority.release("face", 5, archive=archive)  # what comes on releases/face
raw = authority.advance(release=keys("other"))       # what comes on releases/_trust after a rotation
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer

from agent.updates.envelope import enclose_chain
from agent.updates.verify import Trust, key_id, make_envelope, parse_trust_file, public_key
from agent.wire.releases import RELEASE_TYPE, TRUST_TYPE, PublicKey

CREATED = "2026-11-20T00:00:00Z"


@functools.cache
def key(name: str) -> CryptoSigner:
    """An Ed25519 key; the same one for the same name."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def keys(*names: str) -> tuple[CryptoSigner, ...]:
    return tuple(map(key, names))


def public(signer: Signer) -> PublicKey:
    return public_key(signer.public_key)


def id_of(signer: Signer) -> str:
    return key_id(public(signer))


def sign(statement: dict[str, Any] | bytes, payload_type: str, *signers: Signer) -> bytes:
    """An envelope over a statement, or over any bytes."""
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    return json.dumps(make_envelope(payload, payload_type, signers)).encode()


def an_archive(sha256: str = "a" * 64, size_bytes: int = 100_000) -> dict[str, Any]:
    """An archive that does not exist, for checks that come before it is fetched."""
    return {"sha256": sha256, "size_bytes": size_bytes, "chunk_list_sha256": "c" * 64}


def release_statement(model: str, number: int, **fields: Any) -> dict[str, Any]:
    """What a release says; `fields` replace or add. Structs are taken for parts, such as `archive`."""
    statement = {
        "type": "release",
        "schema": 1,
        "fleet": "acme",
        "model": model,
        "release": number,
        "version": f"1.{number}",
        "created": CREATED,
        "archive": an_archive(),
    }
    plain: dict[str, Any] = msgspec.to_builtins(statement | fields)
    return plain


class Authority:
    """Who holds the keys of a fleet. Its trust document can be replaced; the old ones stay in the chain."""

    def __init__(
        self,
        fleet: str = "acme",
        root: Sequence[Signer] = keys("root"),
        release: Sequence[Signer] = keys("release"),
        root_threshold: int = 1,
        release_threshold: int = 1,
        **fields: Any,
    ) -> None:
        self.fleet, self.version = fleet, 1
        self.root, self.release_keys = tuple(root), tuple(release)
        self.root_threshold, self.release_threshold = root_threshold, release_threshold
        self.fields = fields
        self.chain: list[bytes] = []
        self.envelope = sign(self.statement(), TRUST_TYPE, *self.root[:8])

    def statement(self) -> dict[str, Any]:
        """What the trust document says."""
        signers = {id_of(signer): signer for signer in (*self.root, *self.release_keys)}
        return {
            "type": "trust",
            "schema": 1,
            "fleet": self.fleet,
            "version": self.version,
            "created": CREATED,
            "keys": [msgspec.to_builtins(public(signer)) for signer in signers.values()],
            "roles": {
                "root": {"key_ids": [id_of(s) for s in self.root], "threshold": self.root_threshold},
                "release": {"key_ids": [id_of(s) for s in self.release_keys], "threshold": self.release_threshold},
            },
        } | self.fields

    @property
    def trust_file(self) -> bytes:
        """The newest document with all older ones: a device's `models.trust`, and the message on `releases/_trust`."""
        return enclose_chain(self.envelope, self.chain)

    @property
    def trust(self) -> Trust:
        return parse_trust_file(self.trust_file)

    def advance(
        self,
        root: Sequence[Signer] | None = None,
        release: Sequence[Signer] | None = None,
        signers: Sequence[Signer] | None = None,
        **fields: Any,
    ) -> bytes:
        """Replace the document, signed by old and new root keys unless told otherwise; returns the trust file."""
        old_root = self.root
        self.chain.append(self.envelope)
        self.version += 1
        self.root = self.root if root is None else tuple(root)
        self.release_keys = self.release_keys if release is None else tuple(release)
        self.fields |= fields
        everybody = list(dict.fromkeys((*old_root, *self.root))) if signers is None else signers
        self.envelope = sign(self.statement(), TRUST_TYPE, *everybody)
        return self.trust_file

    def release(
        self,
        model: str = "face",
        number: int = 1,
        *,
        signers: Sequence[Signer] | None = None,
        chain: Sequence[bytes] = (),
        **fields: Any,
    ) -> bytes:
        """A signed release; see `release_statement`. `chain` travels with it, the newest envelope last."""
        statement = release_statement(model, number, **({"fleet": self.fleet} | fields))
        signers = self.release_keys[: self.release_threshold] if signers is None else signers
        return enclose_chain(sign(statement, RELEASE_TYPE, *signers), chain)
