"""What lies on the device of one model: something whole to run, a floor that does not sink, nothing left over."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import ModelError, UpdateFailed, UpdateRefused
from agent.updates.record import Attempt, Record
from agent.updates.store import MAX_HISTORY, MAX_QUARANTINE, ModelStore
from agent.wire.archive import archive_digest
from agent.wire.releases import Release
from tests.power.outbox_disk import tmpfs
from tests.power.store_writer import MODEL, change, confirm, offer, pack, write_bundle


class Device:
    """A models folder, with releases that come in."""

    def __init__(self, folder: Path) -> None:
        self.models_dir, self.home = folder / "models", folder / "models" / MODEL
        self._scratch = folder / "operator"

    def store(self) -> ModelStore:
        """As a new daemon opens it."""
        return ModelStore(self.models_dir, MODEL)

    def by_hand(self, name: str, version: str, content: bytes = b"by hand", *, current: str = "current") -> Path:
        folder = write_bundle(self.home / name, version, content)
        if current:
            (self.home / current).write_text(f"{name}\n")
        return folder

    def receive(self, store: ModelStore, number: int, version: str, content: bytes = b"", more: str = "") -> Release:
        """Accepted, and all of its chunks are there."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        write_bundle(self._scratch / "bundle", version, content or b"release %d" % number, more=more)
        release = pack(self._scratch / "bundle", self._scratch / "a.part", number, version)
        offer(store, release)
        shutil.copy(self._scratch / "a.part", store.part_of(release.archive.sha256))
        return release

    def install(self, store: ModelStore, number: int, version: str, content: bytes = b"") -> Release:
        release = self.receive(store, number, version, content)
        slot = store.install(store.part_of(release.archive.sha256), release)
        change(store, state="staged", slot=slot)
        return release

    def go_live(self, store: ModelStore, number: int, version: str, content: bytes = b"") -> Release:
        release = self.install(store, number, version, content)
        change(store, state="active")
        confirm(store)
        return release

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.home.iterdir() if path.is_dir() and path.name[0] != ".")

    def spoil(self, name: str) -> None:
        with (self.home / name / "model.tflite").open("ab") as file:
            file.write(b"x")

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.models_dir)) for path in self.models_dir.rglob("*")}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def live(device: Device) -> tuple[Device, ModelStore]:
    """Two releases were confirmed, after a bundle made by hand."""
    device.by_hand("0.9", "0.9")
    store = device.store()
    store.start()
    device.go_live(store, 1, "1.0")
    device.go_live(store, 2, "2.0")
    return device, store


def name_of(slot: object) -> str | None:
    return getattr(slot, "folder", None)


def names(store: ModelStore) -> tuple[str | None, str | None]:
    return name_of(store.record.live), name_of(store.record.previous)


def state_of(store: ModelStore) -> str | None:
    return store.record.candidate and store.record.candidate.state


# --- the record ------------------------------------------------------------------------------------------------------


def test_a_bundle_that_came_with_a_release_is_not_taken_for_changed_by_hand(live: tuple[Device, ModelStore]) -> None:
    """`current` still had its name from before, and nobody has tried it."""
    device, store = live
    (device.home / "current").write_text("3.0\n")
    device.install(store, 3, "3.0")
    assert store.record.candidate
    store.save(candidate=msgspec.structs.replace(store.record.candidate, state="verifying", slot=None))
    store = device.store()
    store.start()
    assert ("2.0", "1.0") == names(store)


def test_a_record_is_there_again(device: Device) -> None:
    store = device.store()
    attempt = Attempt(release=3, version="1", sha256="a" * 64, state="active", ended_at="2026-01-01T00:00:00.000Z")
    store.save(floor=3, floor_sha256="a" * 64, pinned=True, seen="b", quarantine={"c": "golden"}, history=(attempt,))
    offer(store, device.receive(store, 4, "1"), envelope=bytes(range(256)))
    assert store.record == device.store().record
    assert 4 == store.record.floor


def test_nothing_is_written_before_there_is_something_to_remember(device: Device) -> None:
    store = device.store()
    assert [] == store.start()
    assert not device.models_dir.exists()
    device.by_hand("1.0", "1.0")
    before = device.tree()
    store = device.store()
    assert [] == store.start()
    store.mirror(store.record.live, store.record.previous)
    assert ("1.0", None) == names(store)
    assert before == device.tree()


def test_the_floor_can_not_sink(device: Device) -> None:
    store = device.store()
    store.save(floor=3)
    with pytest.raises(ValueError, match="sink from 3 to 2"):
        store.save(floor=2)
    assert 3 == store.record.floor == device.store().record.floor


def test_quarantine_and_history_are_bounded_and_the_newest_stay(device: Device) -> None:
    store = device.store()
    attempts = tuple(
        Attempt(release=n, version="1", sha256="a" * 64, state="failed", ended_at="2026-01-01T00:00:00.000Z")
        for n in range(30)
    )
    store.save(quarantine={str(n): "golden" for n in range(300)}, history=attempts)
    record = device.store().record
    assert (str(300 - MAX_QUARANTINE), "299") == (min(record.quarantine, key=int), max(record.quarantine, key=int))
    assert attempts[-MAX_HISTORY:] == record.history


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-1], lambda data: data.replace(b"9", b"8", 1)])
def test_a_damaged_record_gives_way_to_the_one_before(device: Device, spoil: Callable[[bytes], bytes]) -> None:
    store = device.store()
    store.save(time_floor="2029-01-01T00:00:00Z", floor=8)
    store.save(floor=9)
    newest = device.home / ".state.a"
    newest.write_bytes(spoil(newest.read_bytes()))
    store = device.store()
    assert [".state.a is damaged; the other one is used"] == store.start()
    assert (8, "2029-01-01T00:00:00Z") == (store.record.floor, store.record.time_floor)
    assert [] == device.store().start(), "it is mended"


def test_a_record_of_another_kind_is_a_damaged_one(device: Device) -> None:
    device.store().save(floor=3)
    data = (device.home / ".state.b").read_bytes()
    (device.home / ".state.b").write_bytes(data.replace(b'"floor":3', b'"floor":"3"'))
    assert Record() == device.store().record


def test_a_damaged_record_does_not_lower_the_floor_below_what_is_installed(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    newest = device.home / f".state.{'ab'[store.record.gen % 2]}"
    device.install(store, 7, "7.0")
    for file in (device.home / ".state.a", device.home / ".state.b"):
        if file != newest:
            file.write_bytes(b"")
    newest.write_bytes(b"")
    store = device.store()
    lines = store.start()
    assert "the record of its updates is lost" in lines[0]
    assert 7 == store.record.floor
    assert ("2.0", "1.0") == names(store)
    again = device.store()
    assert [] == again.start()
    assert (7, store.record.floor_sha256) == (again.record.floor, again.record.floor_sha256)
    assert ["0.9", "1.0", "2.0"] == device.folders(), "the release on its way is gone, its number is not"


def test_a_lost_record_is_made_anew_from_what_is_there(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    digest = store.record.floor_sha256
    for file in (".state.a", ".state.b"):
        (device.home / file).unlink()
    store = device.store()
    assert "nothing is quarantined now" in store.start()[0]
    assert (("2.0", "1.0"), 2, digest) == (names(store), store.record.floor, store.record.floor_sha256)
    assert store.record.live
    assert (2, "2.0") == (store.record.live.release, store.record.live.version)
    assert not store.wants_again(digest)


# --- installing ------------------------------------------------------------------------------------------------------


def test_a_release_becomes_a_bundle(device: Device) -> None:
    store = device.store()
    release = device.receive(store, 5, "1.0")
    slot = store.install(store.part_of(release.archive.sha256), release)
    assert ("1.0", "1.0", 5, release.archive.sha256) == (slot.folder, slot.version, slot.release, slot.sha256)
    assert store.is_whole(slot)
    assert b"release 5" == (store.folder(slot) / "model.tflite").read_bytes()
    mark = json.loads((store.folder(slot) / ".release").read_bytes())
    assert {"release": 5, "sha256": slot.sha256} == mark


def test_other_bytes_are_thrown_away(device: Device) -> None:
    store = device.store()
    release = device.receive(store, 5, "1.0")
    part = store.part_of(release.archive.sha256)
    with part.open("r+b") as file:
        file.seek(700)
        file.write(b"X")
    with pytest.raises(UpdateFailed, match="fetched anew") as caught:
        store.install(part, release)
    assert "digest" == caught.value.reason_code
    assert not part.exists()
    assert [] == device.folders()


def test_signed_bytes_that_are_no_archive_are_refused(device: Device) -> None:
    store = device.store()
    release = device.receive(store, 5, "1.0")
    part = store.part_of(release.archive.sha256)
    part.write_bytes(part.read_bytes() + bytes(512))
    sha256 = subprocess.run(["sha256sum", part], check=True, capture_output=True, text=True).stdout.split()[0]
    release = msgspec.structs.replace(release, archive=msgspec.structs.replace(release.archive, sha256=sha256))
    with pytest.raises(UpdateRefused, match="something follows") as caught:
        store.install(part, release)
    assert "archive" == caught.value.reason_code
    assert {".incoming", ".state.b"} == {path.name for path in device.home.iterdir()}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("labels: names.txt\n", "labels: expected labels.txt"),
        ("golden: {dir: samples}\n", "golden.dir: expected the folder golden"),
        ("golden: {}\n", "golden.dir: expected the folder golden"),
        ("surprise: 1\n", "manifest.yaml:6: surprise: unknown key"),
        ("name: door\n", "manifest.yaml:6: key 'name' is there twice"),
    ],
)
def test_a_bundle_has_to_fit_its_manifest(device: Device, more: str, said: str) -> None:
    store = device.store()
    release = device.receive(store, 5, "1.0", more=more)
    with pytest.raises(UpdateRefused) as caught:
        store.install(store.part_of(release.archive.sha256), release)
    assert "bundle" == caught.value.reason_code
    assert said in caught.value.detail
    assert str(device.home) not in caught.value.detail
    assert [] == device.folders()
    assert not list(device.home.glob(".new-*"))


@pytest.mark.parametrize("changes", [{"version": "1.1"}, {"model": "yard"}])
def test_a_bundle_has_to_fit_its_release(device: Device, changes: dict[str, str]) -> None:
    store = device.store()
    release = msgspec.structs.replace(device.receive(store, 5, "1.0"), **changes)
    with pytest.raises(UpdateRefused, match=r"bundle: manifest\.yaml: expected .*, got door 1\.0"):
        store.install(store.part_of(release.archive.sha256), release)


def test_a_part_that_is_gone_is_fetched_again(device: Device) -> None:
    store = device.store()
    release = device.receive(store, 5, "1.0")
    store.part_of(release.archive.sha256).unlink()
    with pytest.raises(UpdateFailed, match="storage: release 5: no such file"):
        store.install(store.part_of(release.archive.sha256), release)


def test_other_bytes_under_the_same_version_get_a_folder_of_their_own(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    release = device.install(store, 3, "2.0", b"other")
    assert store.record.candidate
    assert store.record.candidate.slot
    assert f"2.0+{release.archive.sha256[:12]}" == store.record.candidate.slot.folder
    assert "2.0" == store.record.candidate.slot.version
    assert store.record.live
    assert store.is_whole(store.record.live)


@pytest.mark.parametrize("version", ["current", "previous", "x" * 63])
def test_any_version_gets_a_folder(device: Device, version: str) -> None:
    store = device.store()
    store.start()
    device.go_live(store, 1, version)
    device.go_live(store, 2, version)
    store.mirror(store.record.live, store.record.previous)
    store = device.store()
    assert [] == store.start()
    assert all(names(store))
    assert (device.home / "current").read_text().strip() == names(store)[0]


def test_the_same_bytes_are_not_unpacked_again(live: tuple[Device, ModelStore]) -> None:
    """Going back is a new number for old bytes; it needs no chunks. The number counts when the record is lost."""
    device, store = live
    assert store.record.previous
    release = device.receive(store, 8, "1.0", b"release 1")
    assert release.archive.sha256 == store.record.previous.sha256
    part = store.part_of(release.archive.sha256)
    part.unlink()
    slot = store.install(part, release)
    assert ("1.0", 8) == (slot.folder, slot.release)
    assert ["0.9", "1.0", "2.0"] == device.folders()
    change(store, state="active", slot=slot)
    confirm(store)
    assert ("1.0", "2.0") == names(store)
    for file in (".state.a", ".state.b"):
        (device.home / file).unlink()
    store = device.store()
    store.start()
    assert 8 == store.record.floor


def test_the_bytes_that_run_may_come_again(live: tuple[Device, ModelStore]) -> None:
    """What ran before them is still what to go back to."""
    device, store = live
    device.go_live(store, 3, "2.0", b"release 2")
    assert ("2.0", "1.0") == names(store)
    assert ["0.9", "1.0", "2.0"] == device.folders()


def test_the_same_bytes_made_by_hand_are_used_and_stay_made_by_hand(device: Device) -> None:
    device.by_hand("factory", "1.0", b"same")
    store = device.store()
    store.start()
    device.go_live(store, 1, "1.0", b"same")
    assert ["factory"] == device.folders()
    assert not (device.home / "factory" / ".release").exists()


def test_a_damaged_folder_in_the_way_is_replaced_and_one_made_by_hand_is_not(device: Device) -> None:
    device.by_hand("1.0", "1.0", current="")
    store = device.store()
    store.start()
    release = device.install(store, 1, "1.0")
    assert store.record.candidate
    slot = store.record.candidate.slot
    assert slot
    device.spoil(slot.folder)
    store.save(candidate=msgspec.structs.replace(store.record.candidate, slot=None, state="receiving"))
    assert slot.folder == store.install(store.part_of(release.archive.sha256), release).folder
    assert store.is_whole(slot)
    assert b"by hand" == (device.home / "1.0" / "model.tflite").read_bytes()


# --- starting --------------------------------------------------------------------------------------------------------


def test_what_current_and_previous_name_is_adopted(device: Device) -> None:
    device.by_hand("0.8", "0.8", current="previous")
    folder = device.by_hand("0.9", "0.9")
    (folder / "notes.md").write_text("an operator may keep notes")
    store = device.store()
    assert [] == store.start()
    assert ("0.9", "0.8") == names(store)
    assert store.record.live
    assert (None, archive_digest(folder)) == (store.record.live.release, store.record.live.sha256)
    assert store.record == device.store().record or store.record.gen == 0
    store.save(floor=1)
    assert ("0.9", "0.8") == names(device.store())


@pytest.mark.parametrize("named", ["", "../0.9", "1.1", "current", "\xff", "x" * 500])
def test_a_current_that_names_nothing_is_no_model(device: Device, named: str) -> None:
    device.by_hand("0.9", "0.9")
    (device.home / "current").write_text(named, encoding="latin-1")
    store = device.store()
    store.start()
    assert (None, None) == names(store)
    with pytest.raises(ModelError):
        store.folder_by_hand()


@pytest.mark.parametrize("file", ["model.tflite", "manifest.yaml"])
def test_a_folder_made_by_hand_that_is_not_whole_is_said_and_left_alone(device: Device, file: str) -> None:
    folder = device.by_hand("0.9", "0.9")
    (folder / file).write_bytes(b"")
    store = device.store()
    assert ["current names 0.9, which is not a whole bundle"] == store.start()
    assert (None, None) == names(store)
    store.mirror(None, None)
    assert folder == store.folder_by_hand()


def test_an_operator_may_change_current_by_hand(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    device.install(store, 3, "3.0")
    device.by_hand("mine", "4.0")
    store = device.store()
    assert ["current was changed by hand: mine is used"] == store.start()
    assert ("mine", "2.0") == names(store)
    assert (3, "staged") == (store.record.floor, state_of(store))
    store = device.store()
    assert [] == store.start()
    assert ("mine", "2.0") == names(store)
    assert ["0.9", "2.0", "3.0", "mine"] == device.folders()


def test_an_operator_overrules_a_release_that_has_not_proved_itself(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    device.install(store, 3, "3.0")
    store.mirror(change(store, state="active"), store.record.live)
    device.by_hand("mine", "4.0")
    store = device.store()
    store.start()
    assert ("mine", "2.0") == names(store)
    assert ("rolled_back", 3) == (state_of(store), store.record.history[-1].release)
    assert ["0.9", "2.0", "mine"] == device.folders()


def test_what_the_record_knows_is_no_change_by_hand(live: tuple[Device, ModelStore]) -> None:
    """A power cut between the record and its mirror leaves the files behind."""
    device, _ = live
    (device.home / "current").write_text("1.0\n")
    store = device.store()
    assert [] == store.start()
    assert ("2.0", "1.0") == names(store)


def test_quarantined_bytes_do_not_come_back_through_current(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    folder = device.by_hand("mine", "4.0")
    store.save(quarantine={archive_digest(folder): "health"})
    store = device.store()
    assert ["current names mine, which is quarantined"] == store.start()
    assert ("2.0", "1.0") == names(store)


@pytest.mark.parametrize("damage", ["changed", "missing", "half"])
def test_a_damaged_model_gives_way_to_the_one_before(live: tuple[Device, ModelStore], damage: str) -> None:
    device, store = live
    if damage == "changed":
        device.spoil("2.0")
    elif damage == "missing":
        shutil.rmtree(device.home / "2.0")
    else:
        (device.home / "2.0" / "model.tflite").unlink()
    store = device.store()
    lines = store.start()
    assert "2.0 is damaged" in lines
    assert "back to 1.0, which ran before" in lines
    assert ("1.0", None) == names(store)
    assert ("offered", 2) == (state_of(store), store.record.floor), "and the release is fetched anew"
    assert ["0.9", "1.0"] == device.folders()
    assert [] == device.store().start()


def test_with_nothing_whole_the_same_release_may_come_again(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    device.receive(store, 3, "3.0")
    assert store.record.candidate
    assert store.record.live
    digest = store.record.live.sha256
    assert not store.wants_again(digest)
    store.save(candidate=None)
    device.spoil("2.0")
    device.spoil("1.0")
    store = device.store()
    store.start()
    assert (None, None) == names(store)
    assert store.wants_again(digest)
    assert ["0.9"] == device.folders()
    store.mirror(None, None)
    assert not (device.home / "current").exists()


def test_a_release_on_its_way_is_not_wanted_again(device: Device) -> None:
    """It lies on the broker and comes at every connection."""
    store = device.store()
    release = device.receive(store, 3, "3.0")
    assert not store.wants_again(release.archive.sha256)


@pytest.mark.parametrize("state", ["staged", "trial", "active"])
def test_a_damaged_candidate_is_fetched_anew(live: tuple[Device, ModelStore], state: str) -> None:
    device, store = live
    device.install(store, 3, "3.0")
    change(store, state=state)
    device.spoil("3.0")
    store = device.store()
    assert ["3.0 is damaged: release 3 is fetched anew"] == store.start()
    assert "offered" == state_of(store)
    assert ("2.0", "1.0") == names(store)
    assert [] == device.store().start()


def test_what_an_operator_edits_in_a_folder_of_his_own_holds(device: Device) -> None:
    folder = device.by_hand("0.9", "0.9")
    store = device.store()
    store.start()
    store.save(floor=1)
    write_bundle(folder, "0.9", b"edited")
    store = device.store()
    assert ["0.9 was changed by hand: it is used as it is"] == store.start()
    assert store.record.live
    assert archive_digest(folder) == store.record.live.sha256
    assert [] == device.store().start()


def test_what_no_one_needs_is_deleted_and_what_was_made_by_hand_is_not(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    release = device.receive(store, 3, "3.0")
    shutil.copytree(device.home / "1.0", device.home / "orphan")
    shutil.copytree(device.home / "1.0", device.home / "unreadable")
    (device.home / "unreadable" / ".release").write_bytes(b"{")
    device.by_hand("mine", "5", current="")
    (device.home / "link").symlink_to(device.home / "1.0")
    for left in (".new-abc", ".gone-1.1"):
        write_bundle(device.home / left, "1", b"x")
    (device.home / ".current.17.tmp").write_bytes(b"x")
    (store.incoming / f"{'a' * 64}.part").write_bytes(b"x")
    (store.incoming / f"{'a' * 64}.list").write_bytes(b"x")
    (store.incoming / f"{release.archive.sha256}.list").write_bytes(b"x")
    store = device.store()
    assert [] == store.start()
    assert ["0.9", "1.0", "2.0", "link", "mine"] == device.folders()
    hidden = {path.name for path in device.home.iterdir() if path.name[0] == "."}
    assert {".incoming", ".state.a", ".state.b"} == hidden
    digest = release.archive.sha256
    assert {f"{digest}.part", f"{digest}.list"} == {path.name for path in store.incoming.iterdir()}


def test_a_part_stays_until_its_bundle_is_in_the_record(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    release = device.receive(store, 3, "3.0")
    part = store.part_of(release.archive.sha256)
    slot = store.install(part, release)
    store = device.store()
    store.start()  # the power went before the slot was saved
    assert part.exists()
    assert slot.sha256 == store.install(part, release).sha256
    change(store, state="staged", slot=slot)
    store.collect_garbage()
    assert not part.exists()
    assert store.is_whole(slot)


def test_a_release_that_is_over_leaves_nothing_behind(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    device.install(store, 3, "3.0")
    change(store, state="rejected")
    store.collect_garbage()
    assert ["0.9", "1.0", "2.0"] == device.folders()
    assert [] == list(store.incoming.iterdir())


def test_a_version_on_the_device_is_found(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    assert store.record.previous == store.find_version("1.0")
    assert "0.9" == name_of(store.find_version("0.9"))
    for version in ("7", "..", ".incoming", "current", ""):
        assert store.find_version(version) is None
    device.spoil("1.0")
    assert store.find_version("1.0") is None


def test_a_bundle_is_found_by_its_digest(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    assert store.record.live
    assert store.record.live == store.find(store.record.live.sha256)
    assert store.find("a" * 64) is None
    device.spoil("2.0")
    assert store.find(store.record.live.sha256) is None


# --- mirror and disk -------------------------------------------------------------------------------------------------


def test_the_files_name_what_runs_and_are_only_written_when_different(live: tuple[Device, ModelStore]) -> None:
    device, store = live
    assert ("2.0\n", "1.0\n") == tuple((device.home / file).read_text() for file in ("current", "previous"))
    inode = (device.home / "current").stat().st_ino
    store.mirror(store.record.live, store.record.previous)
    assert inode == (device.home / "current").stat().st_ino
    store.mirror(store.record.previous, None)
    assert "1.0\n" == (device.home / "current").read_text()
    assert not (device.home / "previous").exists()


def test_what_the_disk_refuses_is_a_failure_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"a file")
    store = ModelStore(tmp_path / "models", MODEL)
    assert [] == store.start()
    for work in (lambda: store.save(floor=1), lambda: store.incoming):
        with pytest.raises(UpdateFailed) as caught:
            work()
        assert "storage" == caught.value.reason_code
    assert Record() == store.record
    assert store.free_bytes() > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Device]:
    with tmpfs(tmp_path / "disk", 2) as at:
        yield Device(at)


def fill(folder: Path) -> None:
    with (folder / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_stops_an_update_and_nothing_else(small_disk: Device) -> None:
    device = small_disk
    device.by_hand("0.9", "0.9")
    store = device.store()
    store.start()
    device.go_live(store, 1, "1.0")
    release = device.receive(store, 2, "2.0", os.urandom(400_000))
    fill(device.models_dir)
    with pytest.raises(UpdateFailed) as caught:
        store.install(store.part_of(release.archive.sha256), release)
    assert "no_space" == caught.value.reason_code
    with pytest.raises(UpdateFailed, match="no_space"):
        store.save(pinned=True)
    assert not store.record.pinned
    assert ["0.9", "1.0"] == device.folders()
    assert not list(device.home.glob(".new-*"))
    store = device.store()
    assert [] == store.start()
    assert (("1.0", "0.9"), 2) == (names(store), store.record.floor)


def test_a_full_disk_is_cleared_before_the_repair_is_saved(small_disk: Device) -> None:
    device = small_disk
    store = device.store()
    device.go_live(store, 1, "1.0")
    device.go_live(store, 2, "2.0")
    shutil.copytree(device.home / "1.0", device.home / "orphan")
    (device.home / "orphan" / "model.tflite").write_bytes(os.urandom(200_000))
    device.spoil("2.0")
    fill(device.models_dir)
    store = device.store()
    assert not [line for line in store.start() if "not saved" in line]
    assert ["1.0"] == device.folders()
    assert ("1.0", None) == names(device.store())


def test_a_disk_that_can_only_be_read_still_has_a_model(small_disk: Device) -> None:
    device = small_disk
    store = device.store()
    device.go_live(store, 1, "1.0")
    device.go_live(store, 2, "2.0")
    device.spoil("2.0")
    subprocess.run(["mount", "-o", "remount,ro", device.models_dir.parent], check=True)
    store = device.store()
    lines = store.start()
    assert "not saved: storage" in lines[-1]
    assert ("1.0", None) == names(store)
    assert ["1.0", "2.0"] == device.folders()
    for work in (lambda: store.save(floor=9), lambda: store.mirror(store.record.live, None)):
        with pytest.raises(UpdateFailed, match="read-only"):
            work()
    store.collect_garbage()
