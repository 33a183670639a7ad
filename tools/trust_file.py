"""trust.json at the operator: the newest trust document with its chain; and the draft that waits for signatures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from securesystemslib.signer import Signer

from agent.errors import UpdateRefused
from agent.runtime.files import write_atomic
from agent.updates.envelope import MAX_TRUST_FILE_BYTES, chain_of, enclose_chain, unseal
from agent.updates.verify import Trust, advance, make_envelope, make_trust, parse_document, parse_trust_file, thin_chain
from agent.wire.releases import MAX_ENVELOPE_BYTES, TRUST_TYPE, Role, TrustDocument
from tools.operator_login import OperatorError

MAX_SIGNATURES = 8


class TrustError(OperatorError):
    """A change that can't be made; one line that says why."""


def load_trust_file(path: Path) -> tuple[Trust, list[bytes]]:
    """The newest document, and the older envelopes.

    Raises:
        TrustError: it can't be read, or is none.
    """
    try:
        raw = path.read_bytes()
        return parse_trust_file(raw), chain_of(raw)
    except OSError as exc:
        raise TrustError(f"{path}: {exc.strerror}: `tools/trust.py init` makes it, --trust FILE names it") from exc
    except UpdateRefused as exc:
        raise TrustError(f"{path}: {exc}: expected a trust.json that tools/trust.py made") from exc


class TrustFile:
    """A trust file and its draft."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.with_name(f"{path.stem}.draft{path.suffix}")

    def load_for_change(self) -> TrustDocument:
        """The document that is to be replaced.

        Raises:
            TrustError: as load_trust_file; or a draft waits.
        """
        if self.draft.exists():
            raise TrustError(f"{self.draft} waits for signatures: `tools/trust.py sign` adds one; or delete it")
        return load_trust_file(self.path)[0].document

    def make(self, document: TrustDocument, signers: Sequence[Signer]) -> dict[str, Any]:
        """Sign a document, in memory.

        Raises:
            TrustError: a key has no say in it.
            UpdateRefused: no device would take it.
        """
        payload = msgspec.json.format(msgspec.json.encode(document), indent=0)
        make_trust(parse_document(payload))
        envelope = make_envelope(payload, TRUST_TYPE, signers)
        roots = {key_id for _, role in self._asked(document) for key_id in role.key_ids}
        for signature in envelope["signatures"]:
            if signature["keyid"] not in roots:
                raise TrustError(f"key {signature['keyid']} is no root key: only those sign trust documents")
        return envelope

    def load_draft(self) -> tuple[dict[str, Any], TrustDocument]:
        """The draft's envelope, and what it says: to be shown to whoever is to sign it.

        Raises:
            TrustError: there is none, or it does not follow on trust.json.
        """
        try:
            raw = self.draft.read_bytes()
            document = parse_document(unseal(raw, TRUST_TYPE).payload)
        except OSError as exc:
            raise TrustError(f"{self.draft}: {exc.strerror}: no change waits for signatures") from exc
        except UpdateRefused as exc:
            raise TrustError(f"{self.draft}: {exc}: get it again from who made it") from exc
        old = load_trust_file(self.path)[0].document
        if (document.fleet, document.version) != (old.fleet, old.version + 1):
            raise TrustError(f"{self.draft} does not follow on version {old.version} of {self.path}: delete it")
        envelope: dict[str, Any] = json.loads(raw)
        return envelope, document

    def keep(self, envelope: dict[str, Any]) -> str:
        """Write the trust file, or the draft as long as signatures are missing; returns what came of it.

        Raises:
            TrustError: too many signatures, or one that is not right.
            OSError: it can't be written.
        """
        if len(envelope["signatures"]) > MAX_SIGNATURES:
            raise TrustError(f"more than {MAX_SIGNATURES} signatures: name fewer keys")
        raw = json.dumps(envelope).encode()
        if len(raw) > MAX_ENVELOPE_BYTES:
            raise TrustError(f"the trust document would have {len(raw)} bytes, devices take {MAX_ENVELOPE_BYTES}")
        document = parse_document(unseal(raw, TRUST_TYPE).payload)
        missing = self._missing(document, {signature["keyid"] for signature in envelope["signatures"]})
        if missing:
            write_atomic(self.draft, raw, 0o644)
            return f"{self.draft} waits for signatures: {'; '.join(missing)}"
        write_atomic(self.path, self._with_chain(raw), 0o644)
        self.draft.unlink(missing_ok=True)
        return f"{self.path}  version {document.version}"

    def _asked(self, document: TrustDocument) -> list[tuple[str, Role]]:
        """The root roles that have to sign a document."""
        before = (
            [] if not self.path.exists() else [("root keys before", load_trust_file(self.path)[0].document.roles.root)]
        )
        return [*before, ("root keys after", document.roles.root)]

    def _missing(self, document: TrustDocument, signed: set[str]) -> list[str]:
        return [
            f"{role.threshold - len(signed & set(role.key_ids))} more of the {name}"
            f" ({', '.join(key_id[:8] for key_id in role.key_ids if key_id not in signed)})"
            for name, role in self._asked(document)
            if len(signed & set(role.key_ids)) < role.threshold
        ]

    def _with_chain(self, raw: bytes) -> bytes:
        """The whole file, checked as a device will."""
        try:
            if not self.path.exists():
                parse_trust_file(raw)
                return raw
            old, chain = load_trust_file(self.path)
            advance(old, [raw])
            return enclose_chain(raw, thin_chain([*chain, old.envelope, raw])[:-1], MAX_TRUST_FILE_BYTES)
        except UpdateRefused as exc:
            raise TrustError(f"{self.draft}: a signature is not right: {exc}: delete it and begin again") from exc
