"""`edge-agent models`, on real bundles; the daemon is played by its lock and its socket."""

import fcntl
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.__main__ import main
from agent.cli.status import format_status
from agent.inference.golden import EXPECTED
from agent.runtime.local import answer_loop, ask
from agent.updates.store import Candidate, ModelStore, Slot
from agent.wire.archive import archive_digest, write_archive
from agent.wire.releases import State
from tests.sim import wait_until
from tests.sim.agent import make_config, make_pipeline
from tests.sim.bundles import make_bundle

pytestmark = pytest.mark.runtime
OLD, NEW = "2026.11.1", "2026.12.1"


class Device:
    """A models folder with two versions of one model, and a configuration."""

    def __init__(self, tmp_path: Path) -> None:
        self.models = make_bundle("digits", tmp_path)
        self.home = self.models / "digits"
        self.add_version(NEW)
        self.outbox = tmp_path / "outbox"
        pipeline = make_pipeline("desk", model="digits", min_confidence=0.1)
        self.config = tmp_path / "config.yaml"
        self.config.write_text(yaml.safe_dump(make_config(tmp_path, 9, self.models, pipelines=[pipeline])))

    def add_version(self, version: str) -> None:
        shutil.copytree(self.home / OLD, self.home / version)
        manifest = self.home / version / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace(OLD, version))

    def slot(self, version: str, release: int | None = None) -> Slot:
        return Slot(version, version, archive_digest(self.home / version), "2026-11-22T08:00:00.000Z", release)

    def candidate(self, version: str, state: State, slot: Slot | None = None, **more: Any) -> Candidate:
        return Candidate(b"{}", 7, version, "c" * 64, 8 << 20, state, slot=slot, **more)

    def store(self) -> ModelStore:
        return ModelStore(self.models, "digits")

    def run(self, *args: str) -> int:
        return main(["models", "--config", str(self.config), *args])


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.fixture
def daemon(device: Device) -> Iterator[list[dict[str, Any]]]:
    """What looks like a running daemon from outside; gives the requests that it got. It does not know version 9."""
    requests: list[dict[str, Any]] = []

    def answer(request: bytes) -> bytes:
        if not request:
            return b"{}"
        requests.append(json.loads(request))
        if requests[-1].get("version") == "9":
            return b'{"ok": false, "error": "there is no version 9"}'
        return b'{"ok": true, "error": null, "data": {"model": "digits", "version": "2026.12.1"}}'

    device.outbox.mkdir()
    stop = threading.Event()
    thread = threading.Thread(target=answer_loop, args=(device.outbox, answer, stop))
    with (device.outbox / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        wait_until(lambda: (device.outbox / "status.sock").exists() and _answers(device.outbox))
        yield requests
        stop.set()
        thread.join(5)


def _answers(folder: Path) -> bool:
    try:
        return bool(ask(folder))
    except OSError:
        return False


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


class TestList:
    def test_without_a_record_it_shows_what_lies_there(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert device.run() == 0
        head, old, new = capsys.readouterr().out.splitlines()
        assert head.split() == ["MODEL", "VERSION", "STATE", "SIZE", "RELEASE", "DIGEST"]
        assert old.split() == ["digits", OLD, "active", *old.split()[3:]]
        assert new.split()[:3] == ["digits", NEW, "installed"]
        assert not list(device.home.glob(".state.*"))

    def test_a_record_says_more(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        device.store().save(
            live=device.slot(NEW, 6),
            previous=device.slot(OLD),
            candidate=device.candidate("3", "rejected", reason_code="golden", reason="5 of 10 agree"),
        )
        assert device.run("list") == 0
        _, new, old, rejected, why = capsys.readouterr().out.splitlines()
        assert "active, confirmed" in new
        assert new.endswith(f"6        {device.slot(NEW).sha256[:12]}")
        assert "previous" in old
        assert "candidate, rejected: golden" in rejected
        assert "8.0 MiB" in rejected
        assert why == "digits 3: 5 of 10 agree"

    def test_a_candidate_that_is_live_is_the_active_one(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        new = device.slot(NEW, 7)
        device.store().save(live=device.slot(OLD), candidate=device.candidate(NEW, "active", new))
        assert device.run("--json") == 0
        rows = json.loads(capsys.readouterr().out)["models"]
        assert [(row["version"], row["role"], row["confirmed"]) for row in rows] == [
            (NEW, "active", False),
            (OLD, "previous", None),
        ]

    def test_json_may_stand_behind_the_action_too(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "list", "--config", str(device.config), "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["models"]) == 2

    def test_no_models_folder_is_a_configuration_error(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(device.models)
        assert device.run() == 2
        assert "models.dir" in error_of(capsys)


class TestVerify:
    def test_whole_bundles_load(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        device.store().save(live=device.slot(OLD))
        assert device.run("verify") == 0
        old, new = capsys.readouterr().out.splitlines()
        assert (old.startswith("ok"), "as recorded" in old) == (True, True)
        assert (new.startswith("ok"), "no digest" in new) == (True, True)

    @pytest.mark.parametrize("name", ["swing", "face"])
    def test_also_of_models_that_take_no_pictures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        """A window of zeros will do, as a gray picture does; to go on with one takes the same trial."""
        models, config = make_bundle(name, tmp_path), tmp_path / "config.yaml"
        pipeline = make_pipeline("desk", model=name)
        config.write_text(yaml.safe_dump(make_config(tmp_path, 9, models, pipelines=[pipeline])))
        for args in (["verify"], ["activate", name, OLD]):
            assert main(["models", "--config", str(config), *args]) == 0, capsys.readouterr()
        assert capsys.readouterr().out.startswith("ok")

    def test_changed_bytes_are_found(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        device.store().save(live=device.slot(OLD), previous=device.slot(NEW))
        labels = device.home / OLD / "labels.txt"
        labels.write_text(labels.read_text().upper() + "x")
        assert device.run("verify", "digits") == 3
        old, new = capsys.readouterr().out.splitlines()
        assert (old.startswith("FAIL"), "have changed" in old) == (True, True)
        assert new.startswith("ok")

    def test_a_model_that_is_none_is_found(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        (device.home / NEW / "model.tflite").write_bytes(b"not a model")
        assert device.run("verify", "--json") == 3
        found = json.loads(capsys.readouterr().out)
        assert not found["ok"]
        assert [bundle["ok"] for bundle in found["bundles"]] == [True, False]

    def test_an_unknown_model_is_one_line(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("dgits", "../models", "."):
            assert device.run("verify", name) == 3
            assert "models there: digits" in error_of(capsys)


class TestWithoutDaemon:
    def test_activate_makes_a_record(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        assert device.run("activate", "digits", NEW) == 0
        assert "from the next start on" in capsys.readouterr().out
        record = device.store().record
        assert record.live == device.slot(NEW) or (record.live and record.live.version == NEW)
        assert record.previous
        assert record.previous.version == OLD
        assert (device.home / "current").read_text().strip() == NEW

    def test_rollback_goes_back_and_forth(self, device: Device) -> None:
        assert device.run("activate", "digits", NEW) == 0
        for version in (OLD, NEW, OLD):
            assert device.run("rollback", "digits") == 0
            live = device.store().record.live
            assert live
            assert live.version == version
            assert (device.home / "current").read_text().strip() == version

    def test_rollback_ends_a_release_on_probation(self, device: Device) -> None:
        new = device.slot(NEW, 7)
        device.store().save(live=device.slot(OLD), candidate=device.candidate(NEW, "active", new), floor=7)
        assert device.run("rollback", "digits") == 0
        record = device.store().record
        assert record.live == device.slot(OLD)
        assert record.floor == 7
        assert record.candidate
        assert (record.candidate.state, record.candidate.reason_code) == ("rolled_back", "operator")
        assert [attempt.state for attempt in record.history] == ["rolled_back"]

    def test_rollback_of_a_confirmed_release_ends_it_too(self, device: Device) -> None:
        new = device.slot(NEW, 7)
        device.store().save(live=new, previous=device.slot(OLD), candidate=device.candidate(NEW, "active", new))
        assert device.run("rollback", "digits") == 0
        record = device.store().record
        assert (record.live, record.previous) == (device.slot(OLD), new)
        assert record.candidate
        assert record.candidate.state == "rolled_back"

    def test_activate_waits_for_the_end_of_a_probation(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        new = device.slot(NEW, 7)
        device.store().save(live=device.slot(OLD), candidate=device.candidate(NEW, "active", new))
        assert device.run("activate", "digits", OLD) == 1
        assert "rollback` first" in error_of(capsys)

    def test_nothing_to_go_back_to(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        assert device.run("rollback", "digits") == 3
        assert "no whole version of digits to go back to" in error_of(capsys)

    @pytest.mark.parametrize("version", ["9", "../digits/2026.12.1", "", "."])
    def test_a_version_that_is_not_there(
        self, device: Device, capsys: pytest.CaptureFixture[str], version: str
    ) -> None:
        assert device.run("activate", "digits", version) == 3
        assert "see `edge-agent models`" in error_of(capsys)

    def test_a_model_that_does_not_load_is_not_activated(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (device.home / NEW / "model.tflite").write_bytes(b"not a model")
        assert device.run("activate", "digits", NEW) == 3
        assert "model.tflite" in error_of(capsys)
        assert (device.home / "current").read_text().strip() == OLD


class TestWithDaemon:
    def test_it_is_asked(
        self, device: Device, daemon: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert device.run("activate", "digits", NEW) == 0
        assert device.run("rollback", "digits") == 0
        assert capsys.readouterr().out.count("is in use") == 2
        assert daemon == [
            {"command": "model-activate", "model": "digits", "version": NEW},
            {"command": "model-rollback", "model": "digits"},
        ]
        assert not list(device.home.glob(".state.*"))  # it is the daemon's to write

    def test_its_refusal_is_one_line(
        self, device: Device, daemon: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert device.run("activate", "digits", "9") == 3  # as without a daemon
        assert error_of(capsys) == "edge-agent: there is no version 9"

    def test_one_that_does_not_answer_is_not_gone_around(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        device.outbox.mkdir()
        with (device.outbox / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert device.run("activate", "digits", NEW) == 1
        assert "does not answer" in error_of(capsys)
        assert not list(device.home.glob(".state.*"))


class TestGolden:
    def test_samples_are_made_and_can_travel(
        self, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import cv2
        import numpy as np

        picture = tmp_path / "seven.png"
        cv2.imwrite(str(picture), np.random.default_rng(1).integers(0, 255, (28, 28, 3), np.uint8))
        folder = device.home / NEW
        assert main(["models", "golden", str(folder), str(picture)]) == 0
        assert "golden: {dir: golden" in capsys.readouterr().out
        assert (folder / "golden" / "seven.png").exists()
        assert json.loads((folder / "golden" / EXPECTED).read_bytes())["samples"][0]["input"] == "seven.png"
        with (tmp_path / "archive").open("wb") as out:
            write_archive(folder, out)

    def test_a_picture_that_is_none_is_one_line(
        self, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "x.png").write_bytes(b"no")
        assert main(["models", "golden", str(device.home / NEW), str(tmp_path / "x.png")]) == 3
        assert "not a picture" in error_of(capsys)


def test_status_tells_what_became_of_updates() -> None:
    state = {
        "active": {"version": "1", "confirmed": True},
        "previous": {"version": "0"},
        "candidate": {
            "release": 7,
            "version": "2",
            "state": "receiving",
            "received_bytes": 50,
            "size_bytes": 200,
            "reason_code": None,
            "reason": None,
        },
        "refused": "signature",
        "pinned": True,
    }
    rejected = {**state["candidate"], "state": "rejected", "reason_code": "golden", "reason": "5 of 10"}  # type: ignore[dict-item]
    text = format_status(
        {
            "device": "d",
            "state": "online",
            "uptime_s": 1.0,
            "version": "1",
            "reasons": [],
            "pipelines": {},
            "models": {},
            "model_states": {
                "face": state,
                "cat": {**state, "candidate": rejected},
                "dog": {**state, "active": None, "previous": None, "candidate": None, "refused": None, "pinned": False},
            },
            "outbox": {"pending": 0, "bytes": 0, "dropped": 0},
            "mqtt": {"connected": True, "connects": 1},
            "last_errors": [],
        }
    )
    assert "model face: 1, confirmed, before it 0, pinned" in text
    assert "release 7, version 2: receiving, 25 %" in text
    assert "not taken: signature" in text
    assert "release 7, version 2: rejected, golden (5 of 10)" in text
    assert "model dog: none" in text
