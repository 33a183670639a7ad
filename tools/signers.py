"""Keys that sign: files, and whatever securesystemslib has a signer for (PKCS#11 tokens, cloud KMS, Vault)."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from agent.errors import UpdateRefused
from agent.runtime.files import write_atomic
from agent.updates.verify import key_id, public_key
from tools.operator_login import OperatorError

Passphrase = Callable[[], bytes]

EXTRAS = {"hsm": "hsm", "awskms": "awskms", "gcpkms": "gcpkms", "azurekms": "azurekms", "hv": "vault"}
"""Schemes of keys that are not files, and the extra of securesystemslib that each needs."""

KEY_HELP = """private key that signs; may be given again. A PEM file, or URI@PUBLIC.pem for a key that never leaves its
device: hsm:..., awskms:..., gcpkms:..., azurekms:..., hv:... as in securesystemslib's manual, and its public key."""


class KeyFileError(OperatorError):
    """A key can't be had or used; one line that says why and how to mend it."""


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """Add --key and what it takes to open an encrypted key file."""
    parser.add_argument("--key", action="append", required=True, metavar="KEY", help=KEY_HELP)
    add_passphrase_option(parser)


def add_passphrase_option(parser: argparse.ArgumentParser) -> None:
    """Add --passphrase-file."""
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="its first line opens and encrypts key files; default: ask"
    )


def passphrase_reader(path: Path | None, new: bool = False) -> Passphrase:
    """What gives the passphrase when it is needed: out of a file, or asked on the terminal.

    Args:
        path: file; None: ask.
        new: it is for a new key, and asked twice.
    """

    def read() -> bytes:
        if path is not None:
            found = path.read_bytes().split(b"\n")[0].rstrip(b"\r")
        elif not sys.stdin.isatty():
            mend = "--passphrase-file, or --no-passphrase" if new else "--passphrase-file"
            raise KeyFileError(f"no terminal to ask for a passphrase: use {mend}")
        else:
            found = getpass.getpass("New passphrase: " if new else "Passphrase: ").encode()
            if new and getpass.getpass("Again: ").encode() != found:
                raise KeyFileError("the two passphrases differ")
        if not found:
            raise KeyFileError("the passphrase is empty")
        return found

    return read


def load_signer(key: str, passphrase: Passphrase) -> Signer:
    """Open a key for signing.

    Args:
        key: path of a PEM file, or `URI@PUBLIC.pem`.
        passphrase: asked only for an encrypted file.

    Raises:
        KeyFileError: it can't be opened, or is of a kind that devices do not take.
    """
    scheme = key.partition(":")[0]
    try:
        signer = _load_remote(key, scheme) if scheme in {*EXTRAS, "file2"} else _load_file(Path(key), passphrase)
        key_id(public_key(signer.public_key))
    except KeyFileError:
        raise
    except UnsupportedLibraryError as exc:
        mend = f"pip install 'securesystemslib[{EXTRAS[scheme]}]'"
        raise KeyFileError(f"{key}: a package for {scheme}: keys is missing: {mend}") from exc
    except UpdateRefused as exc:
        raise KeyFileError(
            f"{key}: no device takes such a key: {exc.detail}: use Ed25519, or see docs/updates.md"
        ) from exc
    except Exception as exc:
        raise KeyFileError(f"{key}: {_one_line(exc)}") from exc
    return signer


def _one_line(exc: Exception) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return " ".join(text.split()) or type(exc).__name__


def _load_file(path: Path, passphrase: Passphrase) -> Signer:
    data = path.read_bytes()
    try:
        private = load_pem_private_key(data, None)
    except TypeError:  # encrypted
        if sys.stdin.isatty():
            print(f"{path} is encrypted.", file=sys.stderr)
        try:
            private = load_pem_private_key(data, passphrase())
        except ValueError as exc:
            raise KeyFileError(f"{path}: the passphrase does not open it") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise KeyFileError(f"{path}: expected a private key as PEM file, such as tools/trust.py makes") from exc
    return CryptoSigner(private)


def _load_remote(key: str, scheme: str) -> Signer:
    uri, _, public = key.rpartition("@")
    if not uri:
        raise KeyFileError(f"{key}: expected {scheme}:...@PUBLIC.pem, with the file of its public key")
    return Signer.from_priv_key_uri(uri, load_public(Path(public)), lambda name: getpass.getpass(f"{name}: "))


def load_public(path: Path) -> SSlibKey:
    """A public key out of a PEM file.

    Raises:
        KeyFileError: there is none in it, or of a kind that devices do not take.
    """
    try:
        found: PublicKeyTypes = load_pem_public_key(path.read_bytes())
        key = SSlibKey.from_crypto(found)
        key_id(public_key(key))
    except OSError as exc:
        raise KeyFileError(f"{path}: {exc.strerror}") from exc
    except UpdateRefused as exc:
        raise KeyFileError(f"{path}: no device takes such a key: {exc.detail}") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise KeyFileError(f"{path}: expected a public key as PEM file") from exc
    return key


def save_key(signer: CryptoSigner, path: Path, passphrase: bytes | None) -> None:
    """Write a private key that did not exist before, readable by its owner only.

    Raises:
        KeyFileError: the file exists, or can't be written.
    """
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    private = load_pem_private_key(signer.private_bytes, None)
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    check_new(path)
    try:
        write_atomic(path, data)
    except OSError as exc:
        raise KeyFileError(f"{path}: {exc.strerror}") from exc


def check_new(path: Path) -> None:
    """Refuse to replace a file: a lost key can't be had again.

    Raises:
        KeyFileError: it exists.
    """
    if os.path.lexists(path):
        raise KeyFileError(f"{path} exists: move it away, or choose another name")
