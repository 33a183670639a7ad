"""Make and change the trust document: which keys a fleet's devices believe.

Root keys sign trust documents, and nothing else: keep them offline, apart from each other. Release keys sign models.
A stolen release key is undone by one change that root keys sign; a lost threshold of root keys only by a visit to each
device. Begin with

    tools/trust.py init keys --fleet acme          keys/root-1.pem ... and keys/trust.json

and install trust.json on the devices as `models.trust`. Later changes reach them over the broker:

    tools/trust.py add-key --role release --new ci.pem --trust keys/trust.json --key root-1.pem --key root-2.pem
    tools/trust.py publish --trust keys/trust.json --broker mqtts://broker.example

When the holders of root keys sit apart, a change lies as trust.draft.json beside trust.json until enough have signed:
hand both files on, and each runs `tools/trust.py sign --trust trust.json --key root-N.pem`.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
from securesystemslib.signer import CryptoSigner, Signer  # noqa: E402

from agent.errors import UpdateRefused  # noqa: E402
from agent.manifest import NAME_PATTERN  # noqa: E402
from agent.updates.envelope import enclose_chain  # noqa: E402
from agent.updates.verify import key_id, public_key  # noqa: E402
from agent.wire.releases import PublicKey, Role, Roles, TrustDocument  # noqa: E402
from agent.wire.topics import Topics  # noqa: E402
from tools.operator_link import OperatorError, add_broker_options, connect  # noqa: E402
from tools.operator_login import a_name  # noqa: E402
from tools.signers import (  # noqa: E402
    add_key_options,
    add_passphrase_option,
    check_new,
    load_public,
    load_signer,
    passphrase_reader,
    save_key,
)
from tools.trust_file import TrustError, TrustFile, load_trust_file  # noqa: E402

RoleName = Literal["root", "release"]


def id_of(signer: Signer) -> str:
    """The key id that devices compute."""
    return key_id(public_key(signer.public_key))


def now() -> str:
    """RFC 3339 UTC in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def signers_of(args: argparse.Namespace) -> list[Signer]:
    """The keys of --key, each opened once."""
    passphrase = passphrase_reader(args.passphrase_file)
    return list({id_of(s): s for s in (load_signer(key, passphrase) for key in args.key)}.values())


def new_passphrase(args: argparse.Namespace) -> bytes | None:
    """For new key files; None: not encrypted."""
    return None if args.no_passphrase else passphrase_reader(args.passphrase_file, new=True)()


def find_key(document: TrustDocument, start: str) -> str:
    """The one key id that begins so."""
    found = [each for each in map(key_id, document.keys) if each.startswith(start)]
    if len(found) != 1:
        raise TrustError(f"key id {start}: {len(found)} keys begin so, expected one; `tools/trust.py show` lists them")
    return found[0]


def with_role(document: TrustDocument, name: RoleName, key_ids: Sequence[str], threshold: int) -> TrustDocument:
    """The document with another role, without the keys that no role names any more."""
    if threshold > len(key_ids):
        raise TrustError(f"role {name} would have {len(key_ids)} keys for a threshold of {threshold}: add one first")
    role = Role(key_ids=tuple(key_ids), threshold=threshold)
    roles: Roles = msgspec.structs.replace(document.roles, **{name: role})
    named = {*roles.root.key_ids, *roles.release.key_ids}
    return msgspec.structs.replace(document, roles=roles, keys=tuple(k for k in document.keys if key_id(k) in named))


def with_key(document: TrustDocument, key: PublicKey) -> TrustDocument:
    """The document with one more key, which no role names yet."""
    if key_id(key) in map(key_id, document.keys):
        raise TrustError(f"key {key_id(key)} is in the trust document already: each key has one role")
    return msgspec.structs.replace(document, keys=(*document.keys, key))


def init(args: argparse.Namespace) -> None:
    folder: Path = args.folder
    wanted: list[tuple[RoleName, int, int]] = [
        ("root", args.root_keys, args.root_threshold),
        ("release", args.release_keys, args.release_threshold),
    ]
    for name, count, threshold in wanted:
        if not 1 <= threshold <= min(count, 8):
            raise TrustError(f"--{name}-threshold {threshold}: expected 1 to {min(count, 8)}")
    paths = {n: [folder / f"{n}-{i}.pem" for i in range(1, count + 1)] for n, count, _ in wanted}
    file = TrustFile(folder / "trust.json")
    for path in (file.path, *paths["root"], *paths["release"]):
        check_new(path)
    passphrase = new_passphrase(args)
    made = {name: [CryptoSigner.generate_ed25519() for _ in paths[name]] for name, _, _ in wanted}
    roles = {name: Role(key_ids=tuple(map(id_of, made[name])), threshold=threshold) for name, _, threshold in wanted}
    document = TrustDocument(
        fleet=args.fleet,
        version=1,
        created=now(),
        keys=tuple(public_key(signer.public_key) for signers in made.values() for signer in signers),
        roles=Roles(**roles),
    )
    envelope = file.make(document, made["root"][: args.root_threshold])
    folder.mkdir(parents=True, exist_ok=True)
    for name, signers in made.items():
        for signer, path in zip(signers, paths[name], strict=True):
            save_key(signer, path, passphrase)
            print(f"{path}  {id_of(signer)}")
    print(f"{file.keep(envelope)}: install it on the devices as `models.trust`, and take the root keys offline")


def add_key(args: argparse.Namespace) -> None:
    file = TrustFile(args.trust)
    signer = CryptoSigner.generate_ed25519() if args.new else None
    key = public_key(load_public(args.public) if signer is None else signer.public_key)
    document = with_key(file.load_for_change(), key)
    role: Role = getattr(document.roles, args.role)
    changed = with_role(document, args.role, (*role.key_ids, key_id(key)), args.threshold or role.threshold)
    change(file, changed, args, signer)


def revoke(args: argparse.Namespace) -> None:
    file = TrustFile(args.trust)
    document = file.load_for_change()
    if args.digest:
        if args.digest in document.revoked:
            raise TrustError(f"{args.digest} is revoked already")
        document = msgspec.structs.replace(document, revoked=(*document.revoked, args.digest))
    elif args.min_release:
        model, number = args.min_release
        if number <= document.min_release.get(model, 0):
            raise TrustError(
                f"--min-release {model}: is {document.min_release.get(model, 0)} already, and only goes up"
            )
        document = msgspec.structs.replace(document, min_release={**document.min_release, model: number})
    else:
        gone = find_key(document, args.key_id)
        name: RoleName = "root" if gone in document.roles.root.key_ids else "release"
        role: Role = getattr(document.roles, name)
        document = with_role(document, name, [k for k in role.key_ids if k != gone], role.threshold)
    change(file, document, args)


def rotate(args: argparse.Namespace) -> None:
    file = TrustFile(args.trust)
    document = file.load_for_change()
    old, signer = find_key(document, args.old), CryptoSigner.generate_ed25519()
    role: Role = getattr(document.roles, args.role)
    if old not in role.key_ids:
        raise TrustError(f"key {old} is not of the role {args.role}")
    document = with_key(document, public_key(signer.public_key))
    ids = [id_of(signer) if each == old else each for each in role.key_ids]
    change(file, with_role(document, args.role, ids, role.threshold), args, signer)


def change(file: TrustFile, document: TrustDocument, args: argparse.Namespace, new: CryptoSigner | None = None) -> None:
    """Sign the next version, with a new root key too; keep the new key before the document that names it."""
    document = msgspec.structs.replace(document, version=document.version + 1, created=now())
    signers = signers_of(args)
    if new is not None and id_of(new) in document.roles.root.key_ids:
        signers.append(new)
    envelope = file.make(document, signers)
    if new is not None:
        save_key(new, args.new, new_passphrase(args))
        print(f"{args.new}  {id_of(new)}")
    print(file.keep(envelope))


def sign(args: argparse.Namespace) -> None:
    file = TrustFile(args.trust)
    envelope, document = file.load_draft()
    describe(document)
    more = file.make(document, signers_of(args))
    if more["payload"] != envelope["payload"]:
        raise TrustError(f"{file.draft} holds what this tool does not know: use the version that made it")
    signatures = {each["keyid"]: each for each in (*envelope["signatures"], *more["signatures"])}
    print(file.keep(envelope | {"signatures": list(signatures.values())}))


def show(args: argparse.Namespace) -> None:
    describe(load_trust_file(args.trust)[0].document)


def describe(document: TrustDocument) -> None:
    """Print what a trust document says."""
    print(f"fleet {document.fleet}, version {document.version}, made {document.created}")
    kinds = {key_id(key): key.scheme for key in document.keys}
    for name in ("root", "release"):
        role: Role = getattr(document.roles, name)
        print(f"{name}: {role.threshold} of {len(role.key_ids)}")
        for each in role.key_ids:
            print(f"  {each}  {kinds[each]}")
    for model, number in document.min_release.items():
        print(f"releases of {model} from {number} on")
    for digest in document.revoked:
        print(f"revoked archive {digest}")


def publish(args: argparse.Namespace) -> None:
    trust, chain = load_trust_file(args.trust)
    topic = Topics(args.prefix, "").trust()
    with connect(args, lambda line: print(line, file=sys.stderr)) as link:
        link.publish_retained(topic, enclose_chain(trust.envelope, chain))
        link.confirm()
    print(f"{topic}  version {trust.document.version}: devices take it now, or when they come back")


def a_digest(text: str) -> str:
    """A sha256 of the command line."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("expected a sha256: 64 digits of 0-9 a-f")
    return text


def a_min_release(text: str) -> tuple[str, int]:
    """MODEL=N of the command line."""
    model, _, number = text.partition("=")
    if not (re.fullmatch(NAME_PATTERN, model) and re.fullmatch("[1-9][0-9]{0,9}", number)):
        raise argparse.ArgumentTypeError("expected MODEL=N, such as face=12")
    return model, int(number)


def add_change_options(parser: argparse.ArgumentParser, makes_key: bool = False) -> None:
    """What all changes take; and what those take that may make a key."""
    parser.add_argument("--trust", type=Path, default=Path("trust.json"), metavar="FILE", help="default: trust.json")
    add_key_options(parser)
    if makes_key:
        add_new_key_options(parser)


def add_new_key_options(parser: argparse.ArgumentParser) -> None:
    """How new key files are encrypted."""
    parser.add_argument("--no-passphrase", action="store_true", help="do not encrypt new keys: for tests and demos")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    made = command("init", init, "make keys and the first trust document")
    made.add_argument("folder", type=Path, metavar="FOLDER")
    made.add_argument("--fleet", type=a_name, required=True, metavar="NAME")
    for name, keys, threshold in (("root", 3, 2), ("release", 2, 1)):
        made.add_argument(f"--{name}-keys", type=int, default=keys, metavar="N", help=f"default: {keys}")
        made.add_argument(f"--{name}-threshold", type=int, default=threshold, metavar="N", help=f"default: {threshold}")
    add_passphrase_option(made)
    add_new_key_options(made)
    made = command("add-key", add_key, "believe one more key")
    made.add_argument("--role", required=True, choices=["root", "release"])
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--new", type=Path, metavar="FILE", help="make the key, and write it there")
    source.add_argument("--public", type=Path, metavar="FILE", help="public key (PEM) of a key made elsewhere")
    made.add_argument("--threshold", type=int, metavar="N", help="from now on so many keys of the role have to sign")
    add_change_options(made, makes_key=True)
    made = command("revoke", revoke, "believe a key no more, or forbid a bundle or old releases")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--key-id", metavar="ID", help="or how it begins")
    what.add_argument("--digest", type=a_digest, metavar="SHA256", help="of a bundle's archive, as in its release")
    what.add_argument("--min-release", type=a_min_release, metavar="MODEL=N", help="older releases are refused")
    add_change_options(made)
    made = command("rotate", rotate, "put a new key in the place of an old one")
    made.add_argument("--role", required=True, choices=["root", "release"])
    made.add_argument("--old", required=True, metavar="ID", help="key id, or how it begins")
    made.add_argument("--new", required=True, type=Path, metavar="FILE", help="where the new key goes")
    add_change_options(made, makes_key=True)
    add_change_options(command("sign", sign, "add signatures to trust.draft.json"))
    made = command("publish", publish, "leave the trust document on the broker, for all devices")
    made.add_argument("--trust", type=Path, default=Path("trust.json"), metavar="FILE", help="default: trust.json")
    add_broker_options(made)
    made = command("show", show, "what the trust document says")
    made.add_argument("--trust", type=Path, default=Path("trust.json"), metavar="FILE", help="default: trust.json")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 it could not be done, 2 (argparse) it is no command."""
    args = make_parser().parse_args(arguments)
    try:
        args.run(args)
    except OperatorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except (UpdateRefused, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
