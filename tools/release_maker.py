"""From a bundle's folder to a signed release and its chunks. Looks at what a device would look at, before it does."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from securesystemslib.signer import Signer

from agent.errors import ModelError, UpdateRefused
from agent.manifest import Manifest, load_manifest
from agent.updates.envelope import MAX_TRUST_FILE_BYTES, chain_of, enclose_chain
from agent.updates.verify import Trust, key_id, make_envelope, open_release, parse_trust_file, public_key, thin_chain
from agent.wire.archive import ArchiveError, write_archive
from agent.wire.releases import CHUNK_BYTES, RELEASE_TYPE, Archive, Release
from tools.operator_login import OperatorError, UsageError

_IDENTIFIER = slice(4, 8)  # of a flatbuffer file, after the offset of its root table


@dataclass(frozen=True)
class Cargo:
    """A bundle, packed and cut up."""

    manifest: Manifest
    archive: Archive
    chunk_list: bytes
    file: BinaryIO
    """The archive; it is read chunk by chunk."""

    @property
    def total_bytes(self) -> int:
        """All that `chunks` gives."""
        return len(self.chunk_list) + self.archive.size_bytes

    def chunks(self) -> Iterator[tuple[str, int, bytes]]:
        """Blob, index and bytes of each message; the chunk list first, since devices begin with it."""
        for at in range(0, len(self.chunk_list), CHUNK_BYTES):
            yield self.archive.chunk_list_sha256, at // CHUNK_BYTES, self.chunk_list[at : at + CHUNK_BYTES]
        self.file.seek(0)
        for index in range(self.archive.chunks):
            yield self.archive.sha256, index, self.file.read(CHUNK_BYTES)


@dataclass(frozen=True)
class Authority:
    """Who signs, and what devices know of them."""

    trust: Trust
    chain: Sequence[bytes]
    """Newer trust documents than the first, for devices that missed them; oldest first."""
    signers: Sequence[Signer]


def find_bundle(folder: Path) -> Path:
    """The folder itself, or the version in it that its `current` names.

    Raises:
        UsageError: neither is a bundle.
    """
    if (folder / "manifest.yaml").exists():
        return folder
    try:
        version = (folder / "current").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{folder}: expected a bundle, such as models/face/2026.11.1 or models/face") from exc
    if not version or "/" in version or not (folder / version / "manifest.yaml").exists():
        raise UsageError(f"{folder / 'current'}: names version {version[:60]!r}, and there is no such bundle beside it")
    return folder / version


def check_bundle(folder: Path) -> Manifest:
    """What can be seen of a bundle without running it.

    Raises:
        UsageError: names the file, what was expected and what is there.
    """
    try:
        manifest = load_manifest(folder / "manifest.yaml")
        with (folder / "model.tflite").open("rb") as file:
            head = file.read(8)
    except ModelError as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:
        raise UsageError(f"{folder / 'model.tflite'}: {exc.strerror}") from exc
    if head[_IDENTIFIER] != b"TFL3":
        raise UsageError(f"{folder / 'model.tflite'}: expected a TensorFlow Lite model, with TFL3 as its bytes 4 to 7")
    if manifest.labels not in (None, "labels.txt"):
        raise UsageError(f"{folder / 'manifest.yaml'}: labels: in a release the file is called labels.txt")
    if manifest.labels and not (folder / "labels.txt").is_file():
        raise UsageError(f"{folder / 'labels.txt'}: the manifest names this file, and it is missing")
    if manifest.golden and manifest.golden.dir != "golden":
        raise UsageError(f"{folder / 'manifest.yaml'}: golden.dir: in a release the folder is called golden")
    if manifest.golden and not (folder / "golden").is_dir():
        raise UsageError(f"{folder / 'golden'}: the manifest names this folder, and it is missing")
    return manifest


def pack(folder: Path, file: BinaryIO) -> Cargo:
    """Check a bundle, write its archive to `file`, and compute what a release says of it.

    Raises:
        UsageError: a device would not take it, or a file can't be read.
    """
    manifest = check_bundle(folder)
    try:
        info = write_archive(folder, file)
        file.seek(0)
        chunk_list = b"".join(hashlib.sha256(chunk).digest() for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))
    except ArchiveError as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:
        raise UsageError(f"{exc.filename or folder}: {exc.strerror}") from exc
    list_sha256 = hashlib.sha256(chunk_list).hexdigest()
    archive = Archive(sha256=info.sha256, size_bytes=info.size_bytes, chunk_list_sha256=list_sha256)
    return Cargo(manifest, archive, chunk_list, file)


def load_authority(path: Path, signers: Sequence[Signer]) -> Authority:
    """Read the trust file, and see whether these keys are enough.

    Raises:
        UsageError: it can't be used, or says that devices would not believe these keys; names the key.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TRUST_FILE_BYTES + 1)
        trust = parse_trust_file(raw)
        older = chain_of(raw)
        chain = thin_chain([*older, trust.envelope])[1:] if older else []
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}; name the trust document with --trust") from exc
    except UpdateRefused as exc:
        raise UsageError(f"{path}: expected a trust document of tools/trust.py: {exc}") from exc
    role, where = (
        trust.document.roles.release,
        f"{path} (fleet {trust.document.fleet}, version {trust.document.version})",
    )
    by_id = {key_id(public_key(signer.public_key)): signer for signer in signers}
    for each in by_id:
        if each not in role.key_ids:
            raise UsageError(f"key {each[:12]}… is no release key of {where}; tools/trust.py show lists them")
    if len(by_id) < role.threshold:
        raise UsageError(f"{where} wants {role.threshold} signatures on a release, got {len(by_id)}: add --key KEY")
    return Authority(trust, chain, list(by_id.values()))


def seal(release: Release, authority: Authority) -> bytes:
    """Sign a release, and open it as a device would.

    Raises:
        UsageError: a device would refuse it; says why.
        OperatorError: a key did not sign.
    """
    if release.archive.sha256 in authority.trust.document.revoked:
        raise UsageError(f"the trust document has revoked these bytes ({release.archive.sha256[:12]}…)")
    try:
        payload = msgspec.json.encode(release)
        bare = json.dumps(make_envelope(payload, RELEASE_TYPE, authority.signers)).encode()
        envelope = enclose_chain(bare, authority.chain)
        open_release(envelope, authority.trust, release.model)
    except UpdateRefused as exc:
        mend = ": name groups instead of devices, or write shorter notes" if exc.reason_code == "too_large" else ""
        raise UsageError(f"devices would refuse this release: {exc}{mend}") from exc
    except Exception as exc:
        raise OperatorError(f"a key did not sign: {' '.join(str(exc).split()) or type(exc).__name__}") from exc
    return envelope
