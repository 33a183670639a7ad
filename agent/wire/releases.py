"""What an operator signs: trust documents and releases, as structs, and the words for what came of them.

Both travel as DSSE envelopes (https://github.com/secure-systems-lab/dsse) of at most 64 KiB. `agent.updates.verify`
checks them; docs/updates.md explains them.
"""

import hashlib
import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agent.manifest import Name, Share, Version

RELEASE_TYPE = "application/vnd.edge-agent.release+json"
TRUST_TYPE = "application/vnd.edge-agent.trust+json"
"""DSSE payload types: what was signed as one can't be shown as the other."""

TRUST_CHAIN = "trust_chain"
"""Member of an envelope beside the DSSE ones: the envelopes of newer trust documents, oldest first."""

MAX_ENVELOPE_BYTES = 64 << 10
CHUNK_BYTES: Final = 64 << 10
"""One chunk is one retained message: small enough not to hold up results, large enough to be quick (docs/adr)."""
DIGEST_BYTES = 32
"""Of one chunk in the list: sha256, raw."""

State = Literal[
    "offered", "receiving", "verifying", "staged", "trial", "active", "rejected", "failed", "rolled_back"
]  # fmt: skip
"""Of a release on a device, in this order; the last three are ends. `failed` is tried again, `rejected` never."""

REASONS: dict[str, str] = {
    "too_large": "the message, the bundle or a part of it is larger than the device allows",
    "rate": "too many releases came in a short time; the newest is looked at later",
    "bad_json": "not strict JSON: broken, not UTF-8, duplicate keys, NaN, or nested too deeply",
    "bad_envelope": "not a DSSE envelope with one to eight signatures",
    "payload_type": "signed as another kind of document",
    "trust_chain": "a trust document in the chain is not signed by the roots before and after it, or a link is missing",
    "trust_rollback": "the trust document is older than the device's",
    "signature": "not signed by enough keys that the device's trust document names for this",
    "schema": "a field is missing or wrong, or a critical one is unknown",
    "fleet": "for another fleet",
    "model": "the statement is about another model than its topic",
    "target": "not addressed to this device, its groups, its hardware or its share",
    "revoked": "the trust document has revoked these bytes",
    "quarantined": "these bytes have failed on this device before",
    "rollback": "the release number is not higher than the highest that the device has accepted",
    "conflict": "the same release number came with other bytes: somebody signs two releases as one",
    "expired": "it should have been installed before",
    "requires": "the agent is too old for it",
    "no_space": "not enough free space for it",
    "pinned": "an operator holds this model at its version",
    "superseded": "a newer release came",
    "chunk_list": "the list of chunk digests is not the signed one",
    "missing_chunks": "the broker does not have all chunks, or does not hand them out",
    "digest": "the received bytes are not the signed ones",
    "archive": "the archive has unknown names, too large parts or another form than it must have",
    "bundle": "the bundle's manifest does not fit the release, or the model can't be loaded",
    "crashed": "the model's process crashed",
    "hung": "the model gave no answer in time",
    "error": "the model failed on an input",
    "golden": "the answers to the golden inputs are not the expected ones",
    "slow": "the model takes longer than it may",
    "memory": "the model takes more memory than it may",
    "shadow": "the answers to live frames differ too much from those of the model in use",
    "health": "too many frames failed after it went live",
    "crash_loop": "the agent was started three times without the model proving itself",
    "storage": "the files could not be read or written",
    "operator": "an operator went back to the version before",
}
"""Reason codes, with what they mean."""

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Meta(ge=1, lt=2**31)]
UtcSeconds = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
"""RFC 3339 UTC in whole seconds."""
Seconds = Annotated[float, Meta(ge=0.0, le=7 * 86400.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """Common to all parts: immutable; unknown fields are ignored, unless a statement calls them critical."""


class PublicKey(_Part, frozen=True, kw_only=True):
    """A key as securesystemslib knows it. Its id is not in the message: whoever reads it computes it from the key."""

    keytype: Annotated[str, Meta(max_length=32)]
    scheme: Annotated[str, Meta(max_length=64)]
    public: Annotated[str, Meta(max_length=4096)]
    """Ed25519: 64 hex digits; ECDSA and RSA: PEM."""


class Role(_Part, frozen=True, kw_only=True):
    """Which keys, and how many of them, have to sign."""

    key_ids: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=32)]
    threshold: Annotated[int, Meta(ge=1, le=32)]


class Roles(_Part, frozen=True, kw_only=True):
    """Root keys sign trust documents, release keys sign releases."""

    root: Role
    release: Role


class TrustDocument(_Part, frozen=True, kw_only=True):
    """Whom a device believes. Version n + 1 is signed by the root thresholds of n and of n + 1."""

    type: Literal["trust"] = "trust"
    schema: Literal[1] = 1
    critical: tuple[str, ...] = ()
    fleet: Name
    version: Number
    created: UtcSeconds
    keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1, max_length=32)]
    roles: Roles
    min_release: Annotated[dict[Name, Number], Meta(max_length=256)] = {}
    """By model: older release numbers are refused, also by a device that never saw one."""
    revoked: Annotated[tuple[Digest, ...], Meta(max_length=512)] = ()
    """Archives that must not be installed, whoever signed them."""


class Targets(_Part, frozen=True, kw_only=True):
    """Which devices of the fleet. Empty lists leave nobody out."""

    devices: Annotated[tuple[Name, ...], Meta(max_length=512)] = ()
    groups: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """A device has to be in `devices` or in one of `groups`, where either is given."""
    exclude: Annotated[tuple[Name, ...], Meta(max_length=512)] = ()
    hardware: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=64)] = ()
    """One of the device's hardware names, such as aarch64 or raspberrypi,5-model-b."""
    percent: Annotated[float, Meta(gt=0.0, le=100.0)] = 100.0
    """Only so many of them, chosen by `salt` and the device's id."""
    salt: Annotated[str, Meta(max_length=64)] = ""


class Requires(_Part, frozen=True, kw_only=True):
    """What the device has to have."""

    agent_min: Annotated[str, Meta(pattern=r"^\d{1,6}(\.\d{1,6}){0,3}$")] | None = None


class Archive(_Part, frozen=True, kw_only=True):
    """The bundle's one deterministic archive (`agent.wire.archive`), and how it is cut up."""

    sha256: Digest
    size_bytes: Annotated[int, Meta(ge=1, le=1 << 40)]
    chunk_bytes: Literal[65536] = CHUNK_BYTES
    chunk_list_sha256: Digest
    """Of the concatenated raw sha256 of all chunks; that list is a blob of its own."""

    @property
    def chunks(self) -> int:
        """How many chunks the archive has; the last may be shorter."""
        return math.ceil(self.size_bytes / self.chunk_bytes)

    @property
    def chunk_list_bytes(self) -> int:
        return self.chunks * DIGEST_BYTES


class Acceptance(_Part, frozen=True, kw_only=True):
    """What a model has to reach in its trial; where a value is missing, the manifest's holds."""

    max_infer_ms: Annotated[float, Meta(gt=0.0)] | None = None
    max_memory_bytes: Annotated[int, Meta(gt=0)] | None = None
    min_agreement: Share | None = None
    """With the golden outputs."""
    shadow_frames: Count = 20
    """Live frames that it also looks at, beside the model in use; 0: none."""
    shadow_s: Seconds = 20.0
    """How long at most; a source that is away does not hold up an update."""
    min_shadow_agreement: Share | None = None
    """With the model in use, over those frames. Default: it may differ."""


class Activation(_Part, frozen=True, kw_only=True):
    """What a model has to hold after it went live."""

    health_window_s: Seconds = 600.0
    min_frames: Count = 200
    """The window lasts until so many frames were answered, but at most ten times as long."""
    max_crashes: Count = 0
    max_error_rate: Share = 0.05
    """Frames without an answer."""
    max_latency_ratio: Annotated[float, Meta(gt=0.0)] | None = None
    """Median time of a frame, against the model before. Default: only `max_infer_ms` holds."""


class Release(_Part, frozen=True, kw_only=True):
    """The signed statement of which bytes make up which bundle, for whom, and under which number."""

    type: Literal["release"] = "release"
    schema: Literal[1] = 1
    critical: tuple[str, ...] = ()
    """Fields that a device has to know, or refuse the release."""
    fleet: Name
    model: Name
    release: Number
    """Only goes up. Going back to old bytes takes a new number."""
    version: Version
    notes: Annotated[str, Meta(max_length=4096)] = ""
    created: UtcSeconds
    expires: UtcSeconds | None = None
    """Limits installing, never running."""
    targets: Targets = Targets()
    requires: Requires = Requires()
    archive: Archive
    acceptance: Acceptance = Acceptance()
    activation: Activation = Activation()
    spread_s: Seconds = 0.0
    """Devices begin to receive at random within this time."""
    retry: bool = False
    """Take the bytes although they failed on the device before."""


def chosen_by_percent(targets: Targets, device: str) -> bool:
    """Whether a device is within the percentage; the same devices for the same salt, more of them for more percent."""
    drawn = int.from_bytes(hashlib.sha256(f"{targets.salt}:{device}".encode()).digest()[:8], "big")
    return drawn < targets.percent / 100 * 2**64
