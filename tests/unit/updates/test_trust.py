"""The trust document on disk: installed file, chain, and what a power cut or an operator makes of them."""

import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.errors import ConfigError, UpdateFailed
from agent.updates import trust as trust_module
from agent.updates.trust import CHAIN_NAME, TrustStore
from agent.updates.verify import open_trust
from tests.sim.keys import Authority, keys


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return tmp_path / "trust.json"


def store_at(installed: Path) -> TrustStore:
    return TrustStore(installed, installed.parent / "state")


def take(store: TrustStore, raw: bytes) -> None:
    """What the updater does with a message on the trust topic."""
    store.accept(*open_trust(raw, store.current()))


def test_the_installed_file_is_believed(installed: Path) -> None:
    authority = Authority()
    authority.advance(root=keys("r2"))
    installed.write_bytes(authority.trust_file)
    assert store_at(installed).current().document.version == 2
    assert not (installed.parent / "state").exists(), "nothing to remember yet"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory: put the trust.json there that tools/trust.py made"),
        (b"", "bad_json"),
        (b"{" * 2_000_000, "too_large"),
        (Authority().release(), "payload_type"),
        (Authority(root=keys("r1", "r2"), root_threshold=3).envelope, "schema"),
    ],
)
def test_a_file_that_can_not_be_believed(installed: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        installed.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^models\.trust: .*trust\.json") as caught:
        store_at(installed).current()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_newer_documents_hold_over_a_restart(installed: Path) -> None:
    authority = Authority()
    installed.write_bytes(authority.trust_file)
    store = store_at(installed)
    for n in range(3):
        take(store, authority.advance(root=keys(f"r{n}"), revoked=[f"{n:064x}"]))
    take(store, authority.trust_file)  # again: nothing new
    for each in (store, store_at(installed)):
        assert each.current().document.version == 4
        assert each.current().document.revoked == (f"{2:064x}",)


def test_the_chain_is_durable_before_it_is_believed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    installed.write_bytes(authority.trust_file)
    store = store_at(installed)
    before = store.current()
    raw = authority.advance(root=keys("r2"))
    believed = []
    write = trust_module.write_atomic

    def power_cut(path: Path, data: bytes) -> None:
        believed.append((store.current(), store_at(installed).current().document.version))
        raise OSError(errno.EIO, "no power")

    monkeypatch.setattr(trust_module, "write_atomic", power_cut)
    with pytest.raises(UpdateFailed, match=r"storage: .*no power"):
        take(store, raw)
    assert believed == [(before, 1)]
    assert store.current() is before, "what is not kept is not used"

    def cut_after(path: Path, data: bytes) -> None:
        write(path, data)
        raise OSError(errno.EIO, "no power")

    monkeypatch.setattr(trust_module, "write_atomic", cut_after)
    with pytest.raises(UpdateFailed):
        take(store, raw)
    assert store_at(installed).current().document.version == 2, "it may be there already, whole"
    monkeypatch.setattr(trust_module, "write_atomic", write)
    take(store, raw)
    assert store.current().document.version == 2


def test_a_new_file_recovers_from_lost_root_keys(installed: Path) -> None:
    lost = Authority()
    installed.write_bytes(lost.trust_file)
    store = store_at(installed)
    take(store, lost.advance(root=keys("thief")))
    take(store, lost.advance(root=keys("thief2")))
    fresh = Authority(root=keys("new root"))
    installed.write_bytes(fresh.trust_file)
    store = store_at(installed)
    with capture_logs() as logs:
        assert store.current().document.version == 1
    assert [(line["event"], line["links"]) for line in logs] == [("update.trust_links_dropped", 2)]
    take(store, fresh.advance(root=keys("newer root")))
    with capture_logs() as logs:
        assert store_at(installed).current().envelope == store.current().envelope
    assert logs == [], "the dropped links are gone"


def test_a_newer_installed_file_overtakes_the_chain(installed: Path) -> None:
    authority = Authority()
    installed.write_bytes(authority.trust_file)
    take(store_at(installed), authority.advance(root=keys("r2")))
    installed.write_bytes(authority.advance(root=keys("r3")))
    with capture_logs() as logs:
        assert store_at(installed).current().document.version == 3
    assert logs == []


@pytest.mark.parametrize("damage", [b"", b"[", b"[{}]", b'["x"]', b"{}", b"[" * 100_000, b"\xff" * 100, b"[null]"])
def test_a_damaged_chain_falls_back_to_the_installed_file(installed: Path, damage: bytes) -> None:
    authority = Authority()
    installed.write_bytes(authority.trust_file)
    take(store_at(installed), authority.advance(release=keys("l2")))
    (installed.parent / "state" / CHAIN_NAME).write_bytes(damage)
    store = store_at(installed)
    with capture_logs() as logs:
        assert store.current().document.version == 1
    assert len(logs) == 1
    take(store, authority.trust_file)  # it lies at the broker
    assert store_at(installed).current().document.version == 2


def test_a_chain_that_can_not_be_read_is_waited_for(installed: Path) -> None:
    installed.write_bytes(Authority().trust_file)
    (installed.parent / "state" / CHAIN_NAME).mkdir(parents=True)  # reading it fails with EISDIR
    with pytest.raises(UpdateFailed, match="storage"):
        store_at(installed).current()


def test_hundreds_of_changes_stay_small(installed: Path) -> None:
    authority = Authority()
    installed.write_bytes(authority.trust_file)
    store = store_at(installed)
    for n in range(200):
        authority.advance(release=keys(f"l{n}"))
        authority.chain.clear()
        take(store, authority.trust_file)
    assert store_at(installed).current().document.version == 201
    assert (installed.parent / "state" / CHAIN_NAME).stat().st_size < 2000
