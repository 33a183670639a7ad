"""tools/trust.py: what it makes, a device believes; what it can't do, it says in one line."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner

from agent.errors import UpdateRefused
from agent.updates.envelope import chain_of
from agent.updates.verify import Trust, advance, open_release, open_trust, parse_trust_file
from agent.wire.releases import RELEASE_TYPE
from tests.sim import free_port
from tests.sim.broker import Broker
from tests.sim.bundles import ROOT
from tests.sim.keys import id_of, release_statement, sign
from tools import signers, trust
from tools.signers import KeyFileError, load_signer, passphrase_reader

NO_PASSPHRASE = passphrase_reader(Path("/nonexistent"))


class Desk:
    """An operator in a folder with keys."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.file, self.draft = folder / "trust.json", folder / "trust.draft.json"

    def run(self, command: str, *options: str, code: int = 0) -> str:
        """One call of the tool; returns what it said."""
        assert trust.main([command, *options]) == code
        said = self.capsys.readouterr()
        if code:
            assert said.err.startswith("error: ")
            assert said.err.count("\n") == 1
        return said.err if code else said.out

    def change(self, command: str, *options: str, keys: tuple[str, ...] = ("root-1", "root-2"), code: int = 0) -> str:
        opened = [part for key in keys for part in ("--key", str(self.folder / f"{key}.pem"))]
        return self.run(command, *options, "--trust", str(self.file), *opened, code=code)

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def id(self, name: str) -> str:
        return id_of(load_signer(self.path(name), NO_PASSPHRASE))

    @property
    def trust(self) -> Trust:
        return parse_trust_file(self.file.read_bytes())

    def release(self, *names: str, number: int = 9) -> bytes:
        keys = [load_signer(self.path(name), NO_PASSPHRASE) for name in names]
        return sign(release_statement("face", number), RELEASE_TYPE, *keys)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    """Three root keys, two of which have to sign; two release keys."""
    made = Desk(tmp_path / "keys", capsys)
    made.run("init", str(made.folder), "--fleet", "acme", "--no-passphrase")
    return made


def test_init_makes_keys_and_a_document(desk: Desk) -> None:
    document = desk.trust.document
    assert (document.fleet, document.version) == ("acme", 1)
    assert [(len(r.key_ids), r.threshold) for r in (document.roles.root, document.roles.release)] == [(3, 2), (2, 1)]
    assert sorted(path.name for path in desk.folder.iterdir()) == [
        "release-1.pem", "release-2.pem", "root-1.pem", "root-2.pem", "root-3.pem", "trust.json",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in desk.folder.glob("*.pem")} == {0o600}
    assert open_release(desk.release("release-2"), desk.trust, "face").release.release == 9


def test_keys_are_never_replaced(desk: Desk) -> None:
    before = {path: path.read_bytes() for path in desk.folder.iterdir()}
    assert "trust.json exists" in desk.run("init", str(desk.folder), "--fleet", "acme", "--no-passphrase", code=1)
    desk.file.unlink()
    assert "root-1.pem exists" in desk.run("init", str(desk.folder), "--fleet", "acme", "--no-passphrase", code=1)
    desk.file.write_bytes(before[desk.file])
    said = desk.change("add-key", "--role", "release", "--new", desk.path("root-3"), "--no-passphrase", code=1)
    assert "root-3.pem exists" in said
    assert before == {path: path.read_bytes() for path in desk.folder.iterdir()}


def test_a_passphrase_closes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk, secret, wrong = Desk(tmp_path / "keys", capsys), tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("correct horse\n")
    wrong.write_text("staple\n")
    desk.run("init", str(desk.folder), "--fleet", "acme", "--passphrase-file", str(secret))
    with pytest.raises(TypeError, match="encrypted"):
        load_pem_private_key(Path(desk.path("root-1")).read_bytes(), None)
    change = ("revoke", "--min-release", "face=3")
    assert "the passphrase does not open it" in desk.change(*change, "--passphrase-file", str(wrong), code=1)
    assert "use --passphrase-file" in desk.change(*change, code=1)
    desk.change(*change, "--passphrase-file", str(secret))
    assert desk.trust.document.min_release == {"face": 3}


def test_a_new_passphrase_is_asked_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([b"one", b"two", b"same", b"same"])
    monkeypatch.setattr(signers.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(signers.getpass, "getpass", lambda _prompt: next(answers).decode())
    with pytest.raises(KeyFileError, match="differ"):
        passphrase_reader(None, new=True)()
    assert passphrase_reader(None, new=True)() == b"same"


def test_a_stolen_release_key_is_undone(desk: Desk) -> None:
    old = desk.trust
    stolen = desk.release("release-1")
    rotate = ("rotate", "--role", "release", "--old", desk.id("release-1")[:8])
    desk.change(*rotate, "--new", desk.path("release-3"), "--no-passphrase")
    desk.change("revoke", "--min-release", "face=8")
    desk.change("revoke", "--digest", "d" * 64)
    newest, links = open_trust(desk.file.read_bytes(), old)
    assert newest.document.version == 4
    assert len(links) == 1, "the root keys stayed: nobody needs what lies between"
    assert open_release(stolen, old, "face")
    with pytest.raises(UpdateRefused, match="signature"):
        open_release(stolen, newest, "face")
    assert open_release(desk.release("release-3"), newest, "face")
    assert newest.document.min_release == {"face": 8}
    assert newest.document.revoked == ("d" * 64,)
    said = desk.run("show", "--trust", str(desk.file))
    for part in ("fleet acme, version 4", "root: 2 of 3", desk.id("release-3"), "face from 8 on", "d" * 64):
        assert part in said
    assert desk.id("release-1") not in said


def test_devices_follow_rotations_of_root_keys(desk: Desk) -> None:
    old = desk.trust
    holders = ["root-1", "root-2", "root-3"]
    for n in range(4, 8):  # in the end none of the first keys is left
        gone = holders.pop(0)
        change = ("rotate", "--role", "root", "--old", desk.id(gone), "--new", desk.path(f"root-{n}"))
        desk.change(*change, "--no-passphrase", keys=(holders[0], holders[1]))
        holders.append(f"root-{n}")
    newest, links = open_trust(desk.file.read_bytes(), old)
    assert (newest.document.version, len(links)) == (5, 4)
    assert not set(newest.keys) & {desk.id(f"root-{n}") for n in (1, 2, 3)}


def test_a_draft_goes_from_holder_to_holder(desk: Desk) -> None:
    before = desk.file.read_bytes()
    said = desk.change("revoke", "--digest", "d" * 64, keys=("root-2",))
    assert "trust.draft.json waits for signatures: 1 more of the root keys before" in said
    assert desk.id("root-3")[:8] in said
    assert desk.id("root-2")[:8] not in said
    assert desk.file.read_bytes() == before
    assert "waits for signatures" in desk.change("revoke", "--digest", "e" * 64, code=1)
    assert "waits for signatures" in desk.change("sign", keys=("root-2",)), "the same key again does not count"
    assert "is no root key" in desk.change("sign", keys=("release-1",), code=1)
    said = desk.change("sign", keys=("root-3",))
    assert "revoked archive " + "d" * 64 in said, "who signs sees what"
    assert "trust.json  version 2" in said
    assert not desk.draft.exists()
    assert desk.trust.document.revoked == ("d" * 64,)
    assert "no change waits" in desk.change("sign", keys=("root-1",), code=1)


def test_a_draft_that_was_meddled_with(desk: Desk) -> None:
    desk.change("revoke", "--digest", "d" * 64, keys=("root-1",))
    good = json.loads(desk.draft.read_bytes())
    signature = dict(good["signatures"][0])
    for value in ("AAAA", "?"):
        desk.draft.write_text(json.dumps(good | {"signatures": [signature | {"sig": value}]}))
        assert "a signature is not right" in desk.change("sign", keys=("root-2",), code=1)
    desk.draft.write_text("{")
    assert "get it again" in desk.change("sign", keys=("root-2",), code=1)
    desk.draft.unlink()
    desk.change("revoke", "--min-release", "face=2")
    desk.draft.write_text(json.dumps(good))
    assert "does not follow on version 2" in desk.change("sign", keys=("root-2",), code=1)


def test_keys_made_elsewhere(desk: Desk, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = tmp_path / "public.pem"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    old = desk.trust
    desk.change("add-key", "--role", "release", "--public", str(public), "--threshold", "2")
    newest = desk.trust
    assert newest.document.roles.release.threshold == 2
    ours = load_signer(desk.path("release-1"), NO_PASSPHRASE)
    both = sign(release_statement("face", 1), RELEASE_TYPE, CryptoSigner(private), ours)
    assert open_release(both, advance(old, [newest.envelope])[0], "face")
    again = ("add-key", "--role", "root", "--public", str(public))
    assert "each key has one role" in desk.change(*again, code=1)
    public.write_text("no key")
    assert "expected a public key as PEM file" in desk.change(*again, code=1)


def test_a_key_that_stays_in_its_device_is_named_by_uri(desk: Desk, tmp_path: Path) -> None:
    pem = load_pem_private_key(Path(desk.path("root-1")).read_bytes(), None).public_key()
    public = tmp_path / "public.pem"
    public.write_bytes(pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signer = load_signer(f"file2:{desk.path('root-1')}@{public}", NO_PASSPHRASE)
    assert id_of(signer) == desk.id("root-1")
    with pytest.raises(KeyFileError, match=r"hsm:2: expected hsm:\.\.\.@PUBLIC\.pem"):
        load_signer("hsm:2", NO_PASSPHRASE)


@pytest.mark.parametrize("scheme", ["awskms", "gcpkms", "azurekms", "hv", "hsm"])
def test_a_missing_package_is_named(desk: Desk, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from securesystemslib.exceptions import UnsupportedLibraryError
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME

    class Missing:
        @staticmethod
        def from_priv_key_uri(*_: object) -> None:
            raise UnsupportedLibraryError("not here")

    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, scheme, Missing)
    public = tmp_path / "public.pem"
    private = load_pem_private_key(Path(desk.path("root-1")).read_bytes(), None)
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match=rf"pip install 'securesystemslib\[{signers.EXTRAS[scheme]}\]'"):
        load_signer(f"{scheme}:key@{public}", NO_PASSPHRASE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("revoke", "--key-id", "ffffffffffff"), "0 keys begin so"),
        (("revoke", "--min-release", "face=3", "--key", "/nonexistent.pem"), "/nonexistent.pem: No such file"),
        (("revoke", "--min-release", "face=3", "--trust", "/nonexistent.json"), "`tools/trust.py init` makes it"),
        (("add-key", "--role", "root", "--public", "/nonexistent.pem"), "/nonexistent.pem: No such file"),
        (("add-key", "--role", "root", "--new", "new.pem", "--threshold", "5"), "4 keys for a threshold of 5"),
        (("rotate", "--role", "root", "--old", "ffffffff", "--new", "new.pem"), "0 keys begin so"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(desk: Desk, options: tuple[str, ...], message: str) -> None:
    trust_option = () if "--trust" in options else ("--trust", str(desk.file))
    assert message in desk.run(*options, *trust_option, "--key", desk.path("root-1"), code=1)
    assert desk.trust.document.version == 1


def test_a_role_keeps_enough_keys_and_floors_only_rise(desk: Desk) -> None:
    desk.change("revoke", "--key-id", desk.id("root-3"))
    assert "root would have 1 keys for a threshold of 2" in desk.change("revoke", "--key-id", desk.id("root-1"), code=1)
    desk.change("revoke", "--min-release", "face=5")
    assert "is 5 already" in desk.change("revoke", "--min-release", "face=5", code=1)
    desk.change("revoke", "--digest", "d" * 64)
    assert "revoked already" in desk.change("revoke", "--digest", "d" * 64, code=1)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("init",),
        ("revoke", "--key", "k"),
        ("revoke", "--key", "k", "--digest", "ab"),
        ("revoke", "--key", "k", "--min-release", "face"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        trust.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_it_runs_from_anywhere(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "tools" / "trust.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "init keys --fleet acme" in done.stdout


def test_publish_leaves_it_on_the_broker(desk: Desk, broker: Broker) -> None:
    old = desk.trust
    change = ("rotate", "--role", "root", "--old", desk.id("root-1"), "--new", desk.path("root-4"))
    desk.change(*change, "--no-passphrase", keys=("root-2", "root-3"))
    desk.change("revoke", "--min-release", "face=5", keys=("root-2", "root-4"))
    said = desk.run("publish", "--trust", str(desk.file), "--broker", f"mqtt://127.0.0.1:{broker.port}")
    assert "edge/releases/_trust  version 3" in said
    (message,) = broker.listen("edge/releases/_trust").wait_for(lambda messages: len(messages) == 1)
    assert message.retain
    raw = message.payload
    assert open_trust(raw, old)[0].document.version == 3
    assert len(chain_of(raw)) == 2


def test_publish_without_a_broker(desk: Desk) -> None:
    said = desk.run("publish", "--trust", str(desk.file), "--broker", f"mqtt://127.0.0.1:{free_port()}", code=1)
    assert "127.0.0.1" in said
