"""What a device believes and takes: each attack, with the reason that it is refused for."""

import base64
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner

from agent.errors import UpdateRefused
from agent.updates import verify
from agent.updates.envelope import MAX_LINKS, chain_of, enclose_chain
from agent.updates.verify import DeviceFacts, Known, Trust, advance, judge, key_id, open_release, open_trust
from agent.wire.releases import MAX_ENVELOPE_BYTES, REASONS, RELEASE_TYPE, TRUST_TYPE, PublicKey
from tests.sim.keys import Authority, an_archive, id_of, key, keys, public, release_statement, sign

NOW = "2026-11-24T12:00:00Z"
DEVICE = DeviceFacts("cam-7", ("lobby",), ("aarch64", "raspberrypi,5-model-b"), "1.4.0")
FRESH = Known(0, "", frozenset(), "2026-11-01T00:00:00Z")
AT_5 = replace(FRESH, floor=5, floor_sha256="a" * 64)


@pytest.fixture(scope="module")
def acme() -> Authority:
    """Not to be advanced: tests share it."""
    return Authority(root=keys("r1", "r2", "r3"), release=keys("l1", "l2"), root_threshold=2)


def refused(call: Any, *arguments: Any) -> str:
    """The reason code that a call ends with."""
    with pytest.raises(UpdateRefused) as caught:
        call(*arguments)
    assert caught.value.reason_code in REASONS
    assert len(str(caught.value)) < 500
    return caught.value.reason_code


def opening(raw: bytes, trust: Trust, model: str = "face") -> str:
    return refused(open_release, raw, trust, model)


def judged(
    authority: Authority, known: Known = FRESH, now: str | None = NOW, device: DeviceFacts = DEVICE, **fields: Any
):
    """Verdict or reason code of a release that was signed as it must."""
    number = fields.pop("release", 6)
    opened = open_release(authority.release("face", number, **fields), authority.trust, "face")
    try:
        return judge(opened.release, opened.trust, device, known, now)
    except UpdateRefused as exc:
        return exc.reason_code


def test_a_signed_release_is_opened(acme: Authority) -> None:
    opened = open_release(acme.release("face", 7, version="2026.11.1"), acme.trust, "face")
    assert (opened.release.release, opened.release.version, opened.links) == (7, "2026.11.1", [])
    assert opened.trust.document.version == 1


# --- bytes


def test_more_than_64_kib_are_not_even_parsed(acme: Authority) -> None:
    assert opening(b" " * (MAX_ENVELOPE_BYTES + 1), acme.trust) == "too_large"
    assert refused(open_trust, b"[" * (MAX_ENVELOPE_BYTES + 1), acme.trust) == "too_large"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[" * 60_000,
        b'{"x":' * 10_000,
        b'{"payload":"","payload":""}',
        b'{"trust_chain":[{"a":1,"a":2}]}',
        b'{"x":NaN}',
        b'{"x":-Infinity}',
        b'{"x":' + b"9" * 5000 + b"}",
        b'{"x":"\xff"}',
        b'{"x":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"payload":""}',
        json.dumps({"payload": ""}).encode("utf-16"),
        b'{"payload":"\\ud800"}',
        b'{"payload":""} {}',
    ],
)
def test_what_is_not_strict_json(acme: Authority, raw: bytes) -> None:
    assert opening(raw, acme.trust) == "bad_json"


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": [{"keyid": "x", "sig": "eA=="}] * 9},
        {"signatures": {}},
        {"signatures": [None]},
        {"signatures": [{"keyid": 5, "sig": "eA=="}]},
        {"payload": "not base64!"},
        {"payload": "\u00e4"},
        {"payload": 5},
        {"payloadType": None},
        {"trust_chain": [{}] * (MAX_LINKS + 1)},
        {"trust_chain": "x"},
    ],
)
def test_what_is_not_an_envelope(acme: Authority, change: dict[str, Any]) -> None:
    assert opening(json.dumps(json.loads(acme.release()) | change).encode(), acme.trust) == "bad_envelope"


@pytest.mark.parametrize("value", [None, [], "x", 5, True])
def test_json_that_is_no_object(acme: Authority, value: object) -> None:
    assert opening(json.dumps(value).encode(), acme.trust) == "bad_envelope"
    assert opening(sign(json.dumps(value).encode(), RELEASE_TYPE, key("l1")), acme.trust) == "schema"


@pytest.mark.parametrize("payload", [b"", b"{", b"[" * 40_000, b'{"a":1,"a":1}', b'{"x":NaN}', b"\xff\xfe"])
def test_a_signed_payload_is_strict_json_too(acme: Authority, payload: bytes) -> None:
    assert opening(sign(payload, RELEASE_TYPE, key("l1")), acme.trust) == "bad_json"


# --- signatures


def test_nobody_signed(acme: Authority) -> None:
    envelope = json.loads(acme.release())
    for signature in ("", "eA==", "not base64", base64.b64encode(bytes(64)).decode()):
        envelope["signatures"][0]["sig"] = signature
        assert opening(json.dumps(envelope).encode(), acme.trust) == "signature"


def test_an_unknown_key_and_the_wrong_role(acme: Authority) -> None:
    assert opening(acme.release(signers=keys("stranger")), acme.trust) == "signature"
    assert opening(acme.release(signers=keys("r1", "r2", "r3")), acme.trust) == "signature"
    newer = Authority(root=keys("r1", "r2", "r3"), root_threshold=2)
    assert refused(advance, acme.trust, [newer.advance(signers=keys("l1", "l2"))]) == "trust_chain"


def test_changed_payload(acme: Authority) -> None:
    envelope = json.loads(acme.release("face", 5))
    envelope["payload"] = base64.b64encode(json.dumps(release_statement("face", 6)).encode()).decode()
    assert opening(json.dumps(envelope).encode(), acme.trust) == "signature"


def test_one_kind_of_document_is_not_taken_for_another(acme: Authority) -> None:
    as_trust = sign(acme.statement(), TRUST_TYPE, key("l1"))
    assert opening(as_trust, acme.trust) == "payload_type"
    relabelled = json.dumps(json.loads(as_trust) | {"payloadType": RELEASE_TYPE}).encode()
    assert opening(relabelled, acme.trust) == "signature", "the type is under the signature"
    assert opening(sign(acme.statement(), RELEASE_TYPE, key("l1")), acme.trust) == "schema"
    assert refused(open_trust, acme.release(signers=keys("r1", "r2")), acme.trust) == "payload_type"
    statement = release_statement("face", 5, version="5")
    assert refused(open_trust, sign(statement, TRUST_TYPE, *keys("r1", "r2")), acme.trust) == "schema"


def test_one_key_does_not_make_a_threshold() -> None:
    two = Authority(release=keys("l1", "l2"), release_threshold=2)
    assert open_release(two.release(), two.trust, "face").release.release == 1
    once = json.loads(two.release(signers=keys("l1")))
    assert opening(json.dumps(once).encode(), two.trust) == "signature"
    (signature,) = once["signatures"]
    for other in (signature, signature | {"keyid": id_of(key("l2"))}, signature | {"keyid": "elsewhere"}):
        twice = once | {"signatures": [signature, other]}
        assert opening(json.dumps(twice).encode(), two.trust) == "signature"


def test_bad_signatures_beside_good_ones_do_no_harm(acme: Authority) -> None:
    envelope = json.loads(acme.release(signers=keys("l1")))
    good = envelope["signatures"][0]
    envelope["signatures"] = [good | {"sig": "eA=="}, {"keyid": id_of(key("l2")), "sig": "?"}, good, good]
    assert open_release(json.dumps(envelope).encode(), acme.trust, "face")


def pkcs1(signer: CryptoSigner) -> PublicKey:
    """The same RSA key, written down in the older way."""
    pem = signer._private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    return replace_public(public(signer), pem)


def replace_public(entry: PublicKey, text: str) -> PublicKey:
    return PublicKey(keytype=entry.keytype, scheme=entry.scheme, public=text)


@pytest.fixture(scope="module")
def rsa() -> CryptoSigner:
    return CryptoSigner.generate_rsa(size=2048)


def test_however_it_is_written_a_key_is_one_key(rsa: CryptoSigner) -> None:
    ed25519 = public(key("l1"))
    assert key_id(replace_public(ed25519, ed25519.public.upper())) == key_id(ed25519)
    assert pkcs1(rsa) != public(rsa)
    assert key_id(pkcs1(rsa)) == key_id(public(rsa))


def test_a_key_that_comes_twice_is_refused(rsa: CryptoSigner) -> None:
    upper = replace_public(public(key("l1")), public(key("l1")).public.upper())
    for signer, second in ((key("l1"), public(key("l1"))), (key("l1"), upper), (rsa, pkcs1(rsa))):
        once = Authority(release=[signer])
        assert verify.parse_trust_file(once.trust_file)
        entry = {"keytype": second.keytype, "scheme": second.scheme, "public": second.public}
        twice = Authority(release=[signer], keys=[*once.statement()["keys"], entry])
        with pytest.raises(UpdateRefused, match="schema: a public key comes twice"):
            verify.parse_trust_file(twice.trust_file)


@pytest.mark.parametrize("kind", ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa"])
def test_other_kinds_of_keys_sign_as_well(kind: str, rsa: CryptoSigner) -> None:
    signer = rsa if kind == "rsa" else CryptoSigner.generate_ecdsa(scheme=kind)
    authority = Authority(root=[signer], release=[signer, key("l1")], release_threshold=2)
    assert open_release(authority.release(), authority.trust, "face")
    assert opening(authority.release(signers=[signer]), authority.trust) == "signature"


@pytest.mark.parametrize(
    "change",
    [
        {"keytype": "rsa"},
        {"scheme": "rsassa-pss-sha256"},
        {"keytype": "dsa", "scheme": "dsa"},
        {"public": ""},
        {"public": "zz"},
        {"public": "00" * 31},
        {"public": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "keytype": "rsa"},
    ],
)
def test_keys_that_are_none(change: dict[str, str]) -> None:
    authority = Authority()
    entries = authority.statement()["keys"]
    raw = Authority(keys=[entries[0], entries[1] | change]).trust_file
    assert refused(verify.parse_trust_file, raw) == "schema"


def test_keys_of_unusual_strength_are_refused() -> None:
    for signer in (CryptoSigner.generate_ecdsa(scheme="ecdsa-sha2-nistp521"), CryptoSigner.generate_rsa(size=1024)):
        assert refused(key_id, public(signer)) == "schema"


# --- schema


@pytest.mark.parametrize(
    "fields",
    [
        {"release": True},
        {"release": 2**31},
        {"release": 0},
        {"release": 5.0},
        {"release": "5"},
        {"release": 10**300},
        {"schema": 2},
        {"type": "trust"},
        {"critical": ["sandbox"]},
        {"critical": "x"},
        {"archive": []},
        {"archive": an_archive("A" * 64)},
        {"archive": an_archive(size_bytes=0)},
        {"archive": an_archive() | {"chunk_bytes": 1}},
        {"targets": {"percent": 0}},
        {"targets": {"percent": 10**400}},
        {"targets": {"devices": "cam-7"}},
        {"requires": {"agent_min": "new"}},
        {"expires": "tomorrow"},
        {"model": "../../etc"},
        {"version": ".."},
        {"notes": None},
        {"retry": 1},
    ],
)
def test_signed_but_wrong(acme: Authority, fields: dict[str, Any]) -> None:
    statement = release_statement("face", 5) | fields
    assert opening(sign(statement, RELEASE_TYPE, key("l1")), acme.trust) == "schema"


@pytest.mark.parametrize("field", ["fleet", "model", "release", "version", "created", "archive"])
def test_signed_but_not_all(acme: Authority, field: str) -> None:
    statement = release_statement("face", 5)
    del statement[field]
    assert opening(sign(statement, RELEASE_TYPE, key("l1")), acme.trust) == "schema"


def test_unknown_fields_are_ignored_and_known_ones_may_be_critical(acme: Authority) -> None:
    raw = acme.release("face", 5, critical=["targets"], mood="good")
    assert open_release(raw, acme.trust, "face").release.release == 5


def test_a_release_of_another_model(acme: Authority) -> None:
    assert opening(acme.release("gate"), acme.trust, "face") == "model"


# --- the trust chain


def test_three_missed_rotations() -> None:
    authority = Authority()
    old, old_release = authority.trust, authority.release()
    for n in range(3):
        authority.advance(root=keys(f"root{n}"), release=keys(f"release{n}"))
    newest, links = open_trust(authority.trust_file, old)
    assert (newest.document.version, len(links)) == (4, 3)
    opened = open_release(authority.release(chain=[*authority.chain, authority.envelope]), old, "face")
    assert (opened.trust.document.version, opened.links) == (4, links)
    assert opening(old_release, newest) == "signature", "a key that was rotated out signs no more"
    assert opening(authority.release(), old) == "signature", "without the chain"
    hole = [authority.chain[0], authority.chain[2], authority.envelope]
    assert opening(authority.release(chain=hole), old) == "trust_chain"
    assert open_trust(authority.trust_file, newest) == (newest, []), "known"


def test_numbers_may_be_left_out_while_root_keys_stay() -> None:
    authority = Authority()
    old = authority.trust
    for n in range(3):
        authority.advance(release=keys(f"release{n}"))
    newest, links = advance(old, [authority.envelope])
    assert (newest.document.version, len(links)) == (4, 1)


@pytest.mark.parametrize(
    ("signers", "root"),
    [
        (("r1",), ("r1", "n2")),
        (("r1", "n2"), ("r1", "n2")),
        (("n1", "n2"), ("n1", "n2")),
        (("r1", "r2"), ("n1", "n2")),
    ],
)
def test_old_and_new_roots_both_have_to_sign(signers: tuple[str, ...], root: tuple[str, ...]) -> None:
    authority = Authority(root=keys("r1", "r2"), root_threshold=2)
    trust = authority.trust
    raw = authority.advance(root=keys(*root), signers=keys(*signers))
    assert refused(open_trust, raw, trust) == "trust_chain"


def test_older_trust_and_another_one_of_the_same_number() -> None:
    authority, twin = Authority(), Authority()
    first = authority.trust_file
    old = authority.trust
    newest, _ = open_trust(authority.advance(release=keys("l2")), old)
    assert refused(open_trust, first, newest) == "trust_rollback"
    assert refused(open_trust, twin.advance(release=keys("thief")), newest) == "conflict"
    forged = Authority(root=keys("stranger"))
    forged.advance()
    assert refused(open_trust, forged.trust_file, newest) == "trust_chain", "no alarm without a key"


def test_trust_of_another_fleet() -> None:
    authority, other = Authority(), Authority("other")
    assert refused(open_trust, other.advance(), authority.trust) == "fleet"
    assert judged_fleet(authority) == "fleet"


def judged_fleet(authority: Authority) -> str:
    opened = open_release(authority.release("face", 5, fleet="other"), authority.trust, "face")
    return refused(judge, opened.release, opened.trust, DEVICE, FRESH, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"version": True},
        {"version": 2**31},
        {"critical": ["quorum"]},
        {"schema": 2},
        {"fleet": "Acme!"},
        {"revoked": ["x"]},
        {"min_release": {"face": 0}},
        {"keys": []},
        {"roles": {}},
    ],
)
def test_trust_with_a_wrong_field(change: dict[str, Any]) -> None:
    trust = Authority().trust
    assert refused(open_trust, Authority(**change).envelope, trust) == "schema"


@pytest.mark.parametrize(
    "role", [{"threshold": 2}, {"threshold": 0}, {"threshold": True}, {"key_ids": []}, {"key_ids": ["b" * 64]}]
)
def test_roles_that_nobody_can_fulfil(role: dict[str, Any]) -> None:
    roles = Authority().statement()["roles"]
    for name in ("root", "release"):
        wrong = roles | {name: roles[name] | role}
        assert refused(verify.parse_trust_file, Authority(roles=wrong).envelope) == "schema"
    doubled = roles | {"root": {"key_ids": roles["root"]["key_ids"] * 2, "threshold": 2}}
    assert refused(verify.parse_trust_file, Authority(roles=doubled).envelope) == "schema"


def test_a_trust_file_is_signed_by_its_own_roots() -> None:
    authority = Authority(root=keys("r1", "r2"), root_threshold=2)
    assert verify.parse_trust_file(authority.trust_file).document.version == 1
    raw = sign(authority.statement(), TRUST_TYPE, key("r1"))
    assert refused(verify.parse_trust_file, raw) == "signature"


def test_a_chain_keeps_what_somebody_needs() -> None:
    authority = Authority()
    versions = [authority.trust]
    for change in ({}, {"root": keys("n1")}, {}, {"release": keys("x")}, {"root": keys("n2")}, {}):
        authority.advance(**change)
        versions.append(authority.trust)
    thin = verify.thin_chain([*authority.chain, authority.envelope])
    assert len(thin) == 4  # the first, both changes of root keys, the last
    for trust in versions:
        assert advance(trust, thin)[0].document.version == 7


def test_a_message_takes_the_newest_links_that_fit() -> None:
    authority = Authority()
    for n in range(30):
        authority.advance(root=keys(f"root{n}"), revoked=[f"{i:064x}" for i in range(60)])
    raw = enclose_chain(authority.envelope, authority.chain)
    assert len(raw) <= MAX_ENVELOPE_BYTES < sum(map(len, authority.chain))
    links = chain_of(raw)
    assert len(links) > 5
    assert links == authority.chain[-len(links) :]
    base = verify.parse_trust_file(authority.chain[-6])
    assert open_trust(raw, base)[0].document.version == 31


# --- what a signed release asks for


@pytest.mark.parametrize(
    ("targets", "verdict"),
    [
        ({}, "new"),
        ({"devices": ["cam-7"]}, "new"),
        ({"devices": ["cam-8"]}, "target"),
        ({"groups": ["lobby", "yard"]}, "new"),
        ({"groups": ["yard"]}, "target"),
        ({"devices": ["cam-8"], "groups": ["lobby"]}, "new"),
        ({"devices": ["cam-7"], "exclude": ["cam-7"]}, "target"),
        ({"exclude": ["cam-8"]}, "new"),
        ({"hardware": ["aarch64"]}, "new"),
        ({"hardware": ["x86_64"]}, "target"),
        ({"devices": ["cam-7"], "hardware": ["x86_64"]}, "target"),
        ({"percent": 0.000001, "salt": "x"}, "target"),
    ],
)
def test_targets(acme: Authority, targets: dict[str, Any], verdict: str) -> None:
    assert judged(acme, targets=targets) == verdict


def test_a_share_of_the_devices(acme: Authority) -> None:
    def chosen(percent: float, salt: str) -> set[str]:
        opened = open_release(acme.release(targets={"percent": percent, "salt": salt}), acme.trust, "face")
        names = [f"cam-{n}" for n in range(1000)]
        return {name for name in names if not verdict_is_target(opened, name)}

    def verdict_is_target(opened: verify.Opened, name: str) -> bool:
        try:
            return judge(opened.release, opened.trust, replace(DEVICE, id=name), FRESH, NOW) != "new"
        except UpdateRefused as exc:
            return exc.reason_code == "target"

    ten, thirty = chosen(10, "a"), chosen(30, "a")
    assert 60 < len(ten) < 140
    assert ten < thirty, "more percent take more devices, and leave none out"
    assert ten != chosen(10, "b")


def test_replay_rollback_and_two_releases_under_one_number(acme: Authority) -> None:
    assert judged(acme, AT_5, release=6) == "new"
    assert judged(acme, AT_5, release=2**31 - 1) == "new"
    assert judged(acme, AT_5, release=5) == "repeat"
    assert judged(acme, AT_5, release=4) == "rollback"
    assert judged(acme, AT_5, release=5, archive=an_archive("b" * 64)) == "conflict"
    assert judged(acme, AT_5, release=4, archive=an_archive("b" * 64)) == "rollback"
    assert judged(acme, AT_5, release=6, archive=an_archive("a" * 64)) == "new", "back to old bytes takes a new number"


def test_the_floor_of_the_trust_document() -> None:
    authority = Authority(min_release={"face": 9})
    assert judged(authority, release=8) == "rollback", "also on a device that never saw one"
    assert judged(authority, release=9) == "new"
    assert judged(authority, AT_5, release=5) == "rollback", "also what was accepted once"


def test_revoked_and_quarantined_bytes() -> None:
    authority = Authority(revoked=["d" * 64])
    failed = replace(FRESH, floor=5, floor_sha256="e" * 64, quarantine={"e" * 64, "d" * 64})
    bad, revoked = an_archive("e" * 64), an_archive("d" * 64)
    assert judged(authority, archive=revoked) == "revoked"
    assert judged(authority, failed, archive=revoked, retry=True) == "revoked"
    assert judged(authority, failed, archive=bad) == "quarantined"
    assert judged(authority, failed, archive=bad, retry=True) == "new"
    assert judged(authority, failed, release=5, archive=bad) == "repeat", "it is what failed, not a second try"
    at_revoked = replace(failed, floor_sha256="d" * 64)
    assert judged(authority, at_revoked, release=5, archive=revoked) == "revoked"


@pytest.mark.parametrize(
    ("now", "expires", "verdict"),
    [
        (NOW, None, "new"),
        (NOW, "2026-11-24T12:00:01Z", "new"),
        (NOW, NOW, "expired"),
        ("2036-11-24T12:00:00Z", "2026-12-24T00:00:00Z", "expired"),
        ("2036-11-24T12:00:00Z", None, "new"),
        ("1970-01-01T00:00:00Z", "2026-10-01T00:00:00Z", "expired"),  # the floor says that it is later
        ("1970-01-01T00:00:00Z", "2026-11-20T00:00:00Z", "new"),
        (None, "2026-11-20T00:00:00Z", "new"),  # not synced, and not provably too late
        (None, "2026-10-01T00:00:00Z", "expired"),
    ],
)
def test_time(acme: Authority, now: str | None, expires: str | None, verdict: str) -> None:
    assert judged(acme, now=now, expires=expires) == verdict


def test_expiry_never_touches_what_was_accepted(acme: Authority) -> None:
    assert judged(acme, AT_5, release=5, expires="2026-10-01T00:00:00Z") == "repeat"


@pytest.mark.parametrize(
    ("agent_min", "version", "verdict"),
    [
        ("1.4", "1.4.0", "new"),
        ("1.4.0", "1.4", "new"),
        ("1.10", "1.9.9", "requires"),
        ("1.4.0", "1.4.0.dev1", "new"),
        ("2", "1.99", "requires"),
        ("0", "unknown", "new"),
        ("0.1", "unknown", "requires"),
    ],
)
def test_the_oldest_agent(acme: Authority, agent_min: str, version: str, verdict: str) -> None:
    device = replace(DEVICE, agent_version=version)
    assert judged(acme, device=device, requires={"agent_min": agent_min}) == verdict


def test_the_order_of_checks() -> None:
    """Each statement is wrong in all that comes after, too."""
    authority = Authority(revoked=["d" * 64])
    known = replace(AT_5, quarantine={"b" * 64})
    late: dict[str, Any] = {"expires": "2026-01-01T00:00:00Z", "requires": {"agent_min": "9"}}
    elsewhere = late | {"targets": {"devices": ["cam-8"]}, "archive": an_archive("d" * 64), "release": 4}
    assert judged(authority, known, **elsewhere, fleet="other") == "fleet"
    assert judged(authority, known, **elsewhere) == "target"
    assert judged(authority, known, **late, archive=an_archive("d" * 64), release=4) == "revoked"
    assert judged(authority, known, **late, archive=an_archive("b" * 64), release=4) == "quarantined"
    assert judged(authority, known, **late, release=4) == "rollback"
    assert judged(authority, known, **late) == "expired"
    assert judged(authority, known, requires={"agent_min": "9"}) == "requires"


def test_nothing_heavy_is_imported_before_the_first_envelope() -> None:
    code = "import sys, agent.updates.verify; print({'securesystemslib', 'cryptography'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
