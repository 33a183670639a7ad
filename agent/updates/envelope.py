"""The shape of signed bytes: strict JSON, and DSSE envelopes. Believing them is `agent.updates.verify`'s."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

from agent.errors import UpdateRefused
from agent.runtime.text import one_line
from agent.wire.releases import MAX_ENVELOPE_BYTES, TRUST_CHAIN, TRUST_TYPE

MAX_LINKS = 64
"""Of a trust chain, wherever it stands."""

MAX_TRUST_FILE_BYTES = 1 << 20
"""Of a trust file with its chain: 16 of the largest envelopes, or 64 of usual ones."""

T = TypeVar("T")


class EnvelopeSignature(msgspec.Struct, frozen=True):
    """One of an envelope's signatures, base64."""

    sig: Annotated[str, Meta(max_length=2048)]
    keyid: Annotated[str, Meta(max_length=256)] = ""
    """A hint where to look, no more: the key that it names is one of ours, and has to verify the signature."""


class Envelope(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """As it travels: DSSE, and a chain beside it."""

    payload: str
    payload_type: str
    signatures: Annotated[tuple[EnvelopeSignature, ...], Meta(min_length=1, max_length=8)]
    chain: Annotated[tuple[msgspec.Raw, ...], Meta(max_length=MAX_LINKS)] = msgspec.field(name=TRUST_CHAIN, default=())


@dataclass(frozen=True)
class Sealed:
    """An envelope with its payload, not yet believed."""

    envelope: Envelope
    payload: bytes

    @property
    def bare(self) -> bytes:
        """The envelope without its chain."""
        parts = self.envelope
        return msgspec.json.encode(Envelope(parts.payload, parts.payload_type, parts.signatures))


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("duplicate keys")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def decode_strict(raw: bytes, kind: type[T], code: str) -> T:
    """Strict JSON as a struct. msgspec alone would take the last of duplicate keys, json alone lone surrogates.

    Raises:
        UpdateRefused: `bad_json`; `code` when it is JSON of another form.
    """
    try:
        json.loads(raw.decode(), object_pairs_hook=_check_pairs, parse_constant=_refuse_constant)
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as exc:
        raise UpdateRefused(code, one_line(str(exc), 200)) from exc
    except (ValueError, RecursionError) as exc:  # also msgspec.DecodeError and UnicodeDecodeError
        raise UpdateRefused("bad_json", one_line(str(exc), 200)) from exc


def unseal(raw: bytes, payload_type: str, max_bytes: int = MAX_ENVELOPE_BYTES) -> Sealed:
    """Read an envelope.

    Raises:
        UpdateRefused: `too_large`, `bad_json`, `bad_envelope`, `payload_type`.
    """
    if len(raw) > max_bytes:
        raise UpdateRefused("too_large", f"{len(raw)} bytes, at most {max_bytes}")
    envelope = decode_strict(raw, Envelope, "bad_envelope")
    if envelope.payload_type != payload_type:
        raise UpdateRefused("payload_type", f"expected {payload_type}, got {envelope.payload_type[:100]!r}")
    try:
        return Sealed(envelope, base64.b64decode(envelope.payload, validate=True))
    except ValueError as exc:
        raise UpdateRefused("bad_envelope", f"payload: {exc}") from exc


def chain_of(raw: bytes) -> list[bytes]:
    """The older envelopes of a trust file, oldest first and not checked.

    Raises:
        UpdateRefused: not a trust file.
    """
    return [bytes(link) for link in unseal(raw, TRUST_TYPE, MAX_TRUST_FILE_BYTES).envelope.chain]


def enclose_chain(envelope: bytes, links: Sequence[bytes], max_bytes: int = MAX_ENVELOPE_BYTES) -> bytes:
    """An envelope with the newest links that fit beside it: most devices missed few.

    Args:
        envelope: without a chain.
        links: envelopes, oldest first.
        max_bytes: of the result.

    Raises:
        UpdateRefused: it is not an envelope.
    """
    parts = decode_strict(envelope, Envelope, "bad_envelope")
    for first in range(max(0, len(links) - MAX_LINKS), len(links) + 1):
        chain = tuple(msgspec.Raw(link) for link in links[first:])
        whole = msgspec.json.encode(Envelope(parts.payload, parts.payload_type, parts.signatures, chain))
        if len(whole) <= max_bytes:
            break
    return whole
