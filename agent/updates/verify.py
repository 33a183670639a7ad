"""Whether signed bytes are to be believed, and whether a release is for this device. Rules only: no I/O, no clock.

`open_release` and `open_trust` look at bytes that anybody may have sent, in this order: size, strict JSON, DSSE, trust
chain, signatures, schema. Nobody vouches for what they refuse. `judge` then looks at what was signed.

All bytes end in an answer or in UpdateRefused with a code of `agent.wire.releases.REASONS`; nothing else leaves here.
securesystemslib and cryptography have their home here, and are imported when the first envelope comes.
"""

import base64
import hashlib
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from agent.errors import UpdateRefused
from agent.updates.envelope import MAX_TRUST_FILE_BYTES, Sealed, decode_strict, unseal
from agent.wire.releases import (
    RELEASE_TYPE,
    TRUST_TYPE,
    PublicKey,
    Release,
    Role,
    Targets,
    TrustDocument,
    chosen_by_percent,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

_SCHEMES = {"ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsassa-pss-sha256"}
_RSA_BITS = range(2048, 4097)


@dataclass(frozen=True)
class Trust:
    """A trust document that is believed."""

    document: TrustDocument
    envelope: bytes
    """It came in this, without a chain."""
    keys: "Mapping[str, Key]"
    """By key id."""


@dataclass(frozen=True)
class Opened:
    """A release that enough keys have signed."""

    release: Release
    trust: Trust
    """The newest, with `links` applied."""
    links: list[bytes]
    """Newer trust documents that it brought along, oldest first: to be kept before the release is acted on."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a release may ask of a device."""

    id: str
    groups: Sequence[str]
    hardware: Sequence[str]
    agent_version: str


@dataclass(frozen=True)
class Known:
    """What a device remembers of one model."""

    floor: int
    """The highest release number that it accepted; 0: none."""
    floor_sha256: str
    """The archive that came with it."""
    quarantine: Container[str]
    """Archives that failed here."""
    time_floor: str
    """It is at least this late, RFC 3339 UTC in whole seconds: all that counts as long as the clock is not synced."""


def _pae(payload: bytes, payload_type: str) -> bytes:
    """The bytes that are signed."""
    from securesystemslib import dsse

    return dsse.Envelope(payload, payload_type, {}).pae()


def _require_signatures(sealed: Sealed, keys: "Mapping[str, Key]", role: Role, code: str) -> None:
    """Count each key of the role once, however often it signed."""
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import Signature

    pae = _pae(sealed.payload, sealed.envelope.payload_type)
    valid: set[str] = set()
    for signature in sealed.envelope.signatures:
        if signature.keyid in role.key_ids and signature.keyid not in valid:
            try:
                value = base64.b64decode(signature.sig, validate=True).hex()
                keys[signature.keyid].verify_signature(Signature(signature.keyid, value), pae)
                valid.add(signature.keyid)
            except (ValueError, Error):
                continue
    if len(valid) < role.threshold:
        raise UpdateRefused(code, f"{len(valid)} valid signatures of {role.threshold}")


def _check_critical(statement: Release | TrustDocument) -> None:
    unknown = set(statement.critical) - set(statement.__struct_fields__)
    if unknown:
        raise UpdateRefused("schema", f"critical field not known to this agent: {min(unknown)[:64]!r}")


def _load_key(key: PublicKey) -> "tuple[str, Key]":
    """The key's id, and the key with it.

    Raises:
        UpdateRefused: `schema`; not a key, or of another kind than it says or than we take.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        if key.keytype == "ed25519":
            public: Any = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public))
        else:
            public = load_pem_public_key(key.public.encode())
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        key_id = hashlib.sha256(der).hexdigest()
        loaded = SSlibKey.from_crypto(public, key_id)  # finds out type and scheme by itself
    except Exception as exc:  # OpenSSL parses what others made; who knows what it trips over
        raise UpdateRefused("schema", f"a public key can't be read: {exc}") from exc
    if loaded.scheme not in _SCHEMES or (loaded.keytype, loaded.scheme) != (key.keytype, key.scheme):
        raise UpdateRefused("schema", f"a public key is not what it says: {key.keytype!r}, {key.scheme!r}")
    if isinstance(public, RSAPublicKey) and public.key_size not in _RSA_BITS:
        raise UpdateRefused("schema", f"RSA keys have 2048 to 4096 bits, this one {public.key_size}")
    return key_id, loaded


def key_id(key: PublicKey) -> str:
    """Sha256 (hex) of the key's DER SubjectPublicKeyInfo: however it is written down, it is one key.

    Raises:
        UpdateRefused: `schema`; see there.
    """
    return _load_key(key)[0]


def public_key(key: "Key") -> PublicKey:
    """A key of securesystemslib, as it stands in a trust document."""
    return PublicKey(keytype=key.keytype, scheme=key.scheme, public=key.keyval["public"])


def parse_document(payload: bytes) -> TrustDocument:
    """A trust document that nobody vouches for yet.

    Raises:
        UpdateRefused: `bad_json`, `schema`.
    """
    document = decode_strict(payload, TrustDocument, "schema")
    _check_critical(document)
    return document


def make_trust(document: TrustDocument, envelope: bytes = b"") -> Trust:
    """Load a document's keys, and check that its roles can be fulfilled.

    Raises:
        UpdateRefused: `schema`; also for a key that comes twice.
    """
    keys = dict(_load_key(key) for key in document.keys)
    if len(keys) < len(document.keys):
        raise UpdateRefused("schema", "a public key comes twice")
    for name in ("root", "release"):
        role: Role = getattr(document.roles, name)
        if len(set(role.key_ids)) < len(role.key_ids) or not keys.keys() >= set(role.key_ids):
            raise UpdateRefused("schema", f"role {name} names a key twice, or one that is not there")
        if role.threshold > len(role.key_ids):
            raise UpdateRefused("schema", f"role {name} wants more signatures than it has keys")
    return Trust(document, envelope, keys)


def parse_trust_file(raw: bytes) -> Trust:
    """A trust file, which is believed because it lies there. Its chain is for others.

    Raises:
        UpdateRefused: broken, or not signed by its own root keys.
    """
    sealed = unseal(raw, TRUST_TYPE, MAX_TRUST_FILE_BYTES)
    trust = make_trust(parse_document(sealed.payload), sealed.bare)
    _require_signatures(sealed, trust.keys, trust.document.roles.root, "signature")
    return trust


def thin_chain(links: Sequence[bytes]) -> list[bytes]:
    """Leave out links that nobody needs: those with the root role of the link before. The first and the last stay.

    The link after such a one is signed by the same root keys, so it also follows on the link before.

    Raises:
        UpdateRefused: a link can't be read.
    """
    roots = [parse_document(unseal(link, TRUST_TYPE).payload).roles.root for link in links]
    changed = [set(a.key_ids) != set(b.key_ids) or a.threshold != b.threshold for a, b in pairwise(roots)]
    return [link for i, link in enumerate(links) if i in (0, len(links) - 1) or changed[i - 1]]


def advance(trust: Trust, links: Sequence[bytes]) -> tuple[Trust, list[bytes]]:
    """Follow links to newer trust documents; what is not newer is passed over.

    Each has to be signed by the root threshold that is believed until then, and by its own. Numbers may be left out: a
    document is judged by who signed it.

    Returns:
        The newest, and the links that led there.

    Raises:
        UpdateRefused: `trust_chain`, `fleet`, `schema`, or the envelope is broken.
    """
    accepted: list[bytes] = []
    for link in links:
        sealed = unseal(link, TRUST_TYPE)
        document = parse_document(sealed.payload)
        if document.version <= trust.document.version:
            continue
        _require_signatures(sealed, trust.keys, trust.document.roles.root, "trust_chain")
        newer = make_trust(document, sealed.bare)
        _require_signatures(sealed, newer.keys, document.roles.root, "trust_chain")
        if document.fleet != trust.document.fleet:
            raise UpdateRefused("fleet", f"trust document of {document.fleet}")
        trust = newer
        accepted.append(newer.envelope)
    return trust, accepted


def open_trust(raw: bytes, trust: Trust) -> tuple[Trust, list[bytes]]:
    """What came on the trust topic.

    Returns:
        As `advance`; no links when it is the document that is known.

    Raises:
        UpdateRefused: as `advance`; `trust_rollback`; `conflict` when root keys signed another one of the same number.
    """
    sealed = unseal(raw, TRUST_TYPE)
    newest, links = advance(trust, [*map(bytes, sealed.envelope.chain), sealed.bare])
    document = parse_document(sealed.payload)
    if links or document == trust.document:
        return newest, links
    if document.version < trust.document.version:
        raise UpdateRefused("trust_rollback", f"version {document.version}, have {trust.document.version}")
    _require_signatures(sealed, trust.keys, trust.document.roles.root, "trust_chain")
    raise UpdateRefused("conflict", f"another trust document of version {document.version}")


def open_release(raw: bytes, trust: Trust, model: str) -> Opened:
    """What came on the topic of a model's releases.

    Raises:
        UpdateRefused: anything up to schema and `model`. Nobody vouches for such a message: it must not be remembered
            against a release number.
    """
    sealed = unseal(raw, RELEASE_TYPE)
    trust, links = advance(trust, [bytes(link) for link in sealed.envelope.chain])
    _require_signatures(sealed, trust.keys, trust.document.roles.release, "signature")
    release = decode_strict(sealed.payload, Release, "schema")
    _check_critical(release)
    if release.model != model:
        raise UpdateRefused("model", f"{release.model} on the topic of {model}")
    return Opened(release, trust, links)


def _check_targets(targets: Targets, device: DeviceFacts) -> None:
    named = device.id in targets.devices or not set(targets.groups).isdisjoint(device.groups)
    if device.id in targets.exclude or not (named or not (targets.devices or targets.groups)):
        raise UpdateRefused("target", "not for this device or its groups")
    if targets.hardware and set(targets.hardware).isdisjoint(device.hardware):
        wanted = ", ".join(map(repr, targets.hardware[:4]))
        raise UpdateRefused("target", f"for {wanted}; this is {', '.join(device.hardware)}")
    if not chosen_by_percent(targets, device.id):
        raise UpdateRefused("target", f"not among the {targets.percent:g} % of devices")


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version; 1.2 and 1.2.0 are the same."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_expiry(release: Release, time_floor: str, now: str | None) -> None:
    """Refuse to begin, or to begin again, what should have been installed before.

    Args:
        release: signed.
        time_floor: see Known.
        now: RFC 3339 UTC in whole seconds; None: the clock is not synced.

    Raises:
        UpdateRefused: `expired`.
    """
    if release.expires is not None and release.expires <= max(time_floor, now or ""):
        raise UpdateRefused("expired", f"at {release.expires}")


def judge(
    release: Release, trust: Trust, device: DeviceFacts, known: Known, now: str | None
) -> Literal["new", "repeat"]:
    """Whether a signed release is to be taken. Sizes and space are the caller's.

    Args:
        release: from `open_release`.
        trust: the newest.
        device: this one.
        known: what it remembers of the release's model.
        now: RFC 3339 UTC in whole seconds; None: the clock is not synced.

    Returns:
        `repeat` for the highest release that was accepted, whatever came of it.

    Raises:
        UpdateRefused: `fleet`, `target`, `revoked`, `quarantined`, `rollback`, `conflict`, `expired`, `requires`.
    """
    number, digest, document = release.release, release.archive.sha256, trust.document
    if release.fleet != document.fleet:
        raise UpdateRefused("fleet", f"for {release.fleet}, this is {document.fleet}")
    _check_targets(release.targets, device)
    if digest in document.revoked:
        raise UpdateRefused("revoked", f"archive {digest}")
    repeat = (number, digest) == (known.floor, known.floor_sha256)
    if digest in known.quarantine and not (release.retry or repeat):
        raise UpdateRefused("quarantined", f"archive {digest}")
    floor = max(known.floor, document.min_release.get(release.model, 0))
    if number < floor:
        raise UpdateRefused("rollback", f"release {number}, the floor is {floor}")
    if repeat:
        return "repeat"
    if number == known.floor:
        raise UpdateRefused("conflict", f"release {number} of archive {digest}, accepted {known.floor_sha256}")
    check_expiry(release, known.time_floor, now)
    wanted = release.requires.agent_min
    if wanted is not None and _numbers(device.agent_version) < _numbers(wanted):
        raise UpdateRefused("requires", f"agent {wanted}, this is {device.agent_version}")
    return "new"


def make_envelope(payload: bytes, payload_type: str, signers: "Sequence[Signer]") -> dict[str, Any]:
    """Sign bytes; for operators' tools.

    Raises:
        UpdateRefused: `schema`; a signer's key is of a kind that no device takes.
        Exception: whatever a signer raises.
    """
    pae = _pae(payload, payload_type)
    signatures = [
        {
            "keyid": key_id(public_key(signer.public_key)),
            "sig": base64.b64encode(bytes.fromhex(signer.sign(pae).signature)).decode(),
        }
        for signer in signers
    ]
    return {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": signatures}
