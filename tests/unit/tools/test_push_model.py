"""What tools/push_model.py checks before it sends anything, and how it judges what devices say."""

import contextlib
import hashlib
import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.text import Text

from agent.runtime.clock import Clock
from agent.wire.archive import extract_archive
from agent.wire.messages import (
    ActiveVersion,
    Attempt,
    CandidateVersion,
    ModelState,
    Stamp,
    Status,
    encode,
)
from agent.wire.releases import CHUNK_BYTES, Release
from agent.wire.topics import Topics
from tests.sim.keys import Authority, keys, release_statement
from tools import push_model, rollout
from tools.operator_login import UsageError, read_login
from tools.push_model import duration, expiry, make_parser
from tools.push_view import RolloutView, upload_bar
from tools.release_maker import find_bundle, load_authority, pack, seal
from tools.rollout import Fleet, Rollout, choose_number

MANIFEST = """
name: digits
version: "1.0"
task: classify
input: {width_px: 28, height_px: 28, color: gray}
decoder: {type: classify}
"""
STAMP = Stamp("cam-1", Clock())
TOPICS = Topics("edge", "+")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    home = tmp_path / "models" / "digits" / "1.0"
    home.mkdir(parents=True)
    (home / "manifest.yaml").write_text(MANIFEST)
    (home / "labels.txt").write_text("0\n1\n")
    (home / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(range(256)) * 1000)
    return home


@pytest.fixture
def trust_file(tmp_path: Path) -> Path:
    (tmp_path / "trust.json").write_bytes(Authority().trust_file)
    return tmp_path / "trust.json"


def a_release(**fields: object) -> Release:
    return msgspec.convert(release_statement("digits", 7, **fields), Release)


# --- the bundle


def test_a_bundle_is_named_by_itself_or_by_its_current(bundle: Path) -> None:
    assert find_bundle(bundle) == bundle
    (bundle.parent / "current").write_text("1.0\n")
    assert find_bundle(bundle.parent) == bundle


@pytest.mark.parametrize("current", ["2.0", "../1.0", "", None])
def test_what_is_no_bundle_is_told(bundle: Path, current: str | None) -> None:
    if current is not None:
        (bundle.parent / "current").write_text(current)
    with pytest.raises(UsageError, match=r"no such bundle|expected a bundle, such as"):
        find_bundle(bundle.parent)


def test_the_chunks_are_the_archive_and_its_list(bundle: Path) -> None:
    with io.BytesIO() as file:
        cargo = pack(bundle, file)
        chunks = list(cargo.chunks())
        (bundle.parent / "again").mkdir()
        file.seek(0)
        assert "model.tflite" in extract_archive(file, bundle.parent / "again")
    archive = cargo.archive
    parts = [data for sha256, _, data in chunks if sha256 == archive.sha256]
    (listed,) = [data for sha256, _, data in chunks if sha256 == archive.chunk_list_sha256]
    assert hashlib.sha256(b"".join(parts)).hexdigest() == archive.sha256
    assert listed == b"".join(hashlib.sha256(part).digest() for part in parts)
    assert {len(part) for part in parts[:-1]} == {CHUNK_BYTES}
    assert sum(len(data) for *_, data in chunks) == cargo.total_bytes
    assert [index for sha256, index, _ in chunks if sha256 == archive.sha256] == list(range(archive.chunks))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.tflite", "x" * 100, "expected a TensorFlow Lite model"),
        ("model.tflite", None, "model.tflite: No such file"),
        ("labels.txt", None, "the manifest names this file, and it is missing"),
        ("manifest.yaml", None, "manifest.yaml: no such file"),
        ("manifest.yaml", MANIFEST + "labels: names.txt\n", "the file is called labels.txt"),
        ("manifest.yaml", MANIFEST + "golden: {dir: golden}\n", "golden: the manifest names this folder"),
        ("manifest.yaml", MANIFEST + "golden: {dir: gold}\n", "the folder is called golden"),
        ("manifest.yaml", MANIFEST + "colour: red\n", "colour"),
        ("notes.txt", "", "notes.txt: expected only files named"),
    ],
)
def test_a_bundle_that_devices_would_refuse_is_not_packed(
    bundle: Path, name: str, content: str | None, told: str
) -> None:
    if content is None:
        (bundle / name).unlink()
    else:
        (bundle / name).write_text(content)
    with io.BytesIO() as file, pytest.raises(UsageError) as caught:
        pack(bundle, file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# --- keys and the envelope


def test_a_key_that_devices_do_not_believe_is_named(trust_file: Path) -> None:
    with pytest.raises(UsageError, match=r"key [0-9a-f]{12}… is no release key of .*fleet acme, version 1"):
        load_authority(trust_file, keys("root"))


def test_signatures_that_lack_are_counted(trust_file: Path) -> None:
    trust_file.write_bytes(Authority(release=keys("a", "b", "c"), release_threshold=2).trust_file)
    with pytest.raises(UsageError, match=r"wants 2 signatures on a release, got 1: add --key"):
        load_authority(trust_file, keys("a", "a"))
    assert len(load_authority(trust_file, keys("a", "a", "c")).signers) == 2


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_a_trust_file_that_cannot_be_used_is_told(trust_file: Path, content: bytes | None) -> None:
    trust_file.unlink() if content is None else trust_file.write_bytes(content)
    with pytest.raises(UsageError, match=r"trust.json: (No such file.*--trust|expected a trust document)"):
        load_authority(trust_file, keys("release"))


def test_an_envelope_that_is_too_large_is_not_sent(trust_file: Path) -> None:
    authority = load_authority(trust_file, keys("release"))
    many = [f"camera-with-a-rather-long-name-of-its-own-in-the-fleet-{n:06}" for n in range(1000)]
    targets = {"devices": many[:512], "exclude": many[512:]}
    with pytest.raises(UsageError, match=r"too_large.*: name groups instead of devices"):
        seal(a_release(targets=targets), authority)


def test_bytes_that_are_revoked_are_not_sent(trust_file: Path) -> None:
    trust_file.write_bytes(Authority(revoked=["a" * 64]).trust_file)
    with pytest.raises(UsageError, match=r"the trust document has revoked these bytes \(aaaaaaaaaaaa…\)"):
        seal(a_release(), load_authority(trust_file, keys("release")))


# --- the number


def test_the_number_is_one_above_all_that_is_known() -> None:
    fleet = Fleet({"cam-1": said(floor=5), "cam-2": said(floor=9)}, released=7)
    trust = Authority(min_release={"digits": 4}).trust
    assert choose_number(fleet, trust, "digits", None, ()) == 10
    assert choose_number(fleet, trust, "digits", 12, ()) == 12
    assert choose_number(fleet, trust, "digits", None, ("cam-2",)) == 8
    assert choose_number(Fleet(), trust, "digits", None, ()) == 4
    with pytest.raises(
        UsageError, match="--release 9: device cam-2 has release 9 of digits already: take 10 or higher"
    ):
        choose_number(fleet, trust, "digits", 9, ())


def test_a_device_that_claims_the_highest_number_can_be_left_out() -> None:
    fleet = Fleet({"liar": said(floor=2**31 - 1)})
    with pytest.raises(UsageError, match="device liar says 2147483647: --exclude it"):
        choose_number(fleet, Authority().trust, "digits", None, ())
    assert choose_number(fleet, Authority().trust, "digits", None, ("liar",)) == 1


# --- what devices say


def said(state: str | None = None, **fields: object) -> ModelState:
    """A model state whose candidate is release 7."""
    candidate = state and CandidateVersion(
        release=7,
        version="1.7",
        sha256="a" * 64,
        state=state,
        received_bytes=10,
        size_bytes=100,  # type: ignore[arg-type]
    )
    given = {"model": "digits", "active": None, "previous": None, "candidate": candidate or None} | fields
    return ModelState(**STAMP(), **given)  # type: ignore[arg-type]


def running(*, confirmed: bool) -> ActiveVersion:
    return ActiveVersion(version="1.7", sha256="a" * 64, activated_at=STAMP()["time"], confirmed=confirmed)


def attempt(state: str) -> Attempt:
    return Attempt(release=7, version="1.7", sha256="a" * 64, state=state, ended_at=STAMP()["time"], reason_code="slow")  # type: ignore[arg-type]


def heard(message: ModelState | bytes, goal: rollout.Goal = "active", before: ModelState | None = None) -> Rollout:
    release = Rollout(a_release(), TOPICS, goal, {} if before is None else {"cam-1": before})
    release.hear("edge/devices/cam-1/models/digits", message if isinstance(message, bytes) else encode(message))
    return release


@pytest.mark.parametrize(
    ("message", "state", "is_over", "is_reached"),
    [
        (said(), "waiting", False, False),
        (said("receiving"), "receiving", False, False),
        (said("failed"), "failed", False, False),
        (said("active"), "active", True, True),
        (said("rejected"), "rejected", True, False),
        (said("rolled_back"), "rolled_back", True, False),
        (said(history=[attempt("rejected")]), "rejected", True, False),
        (said("active", history=[attempt("rejected")]), "active", True, True),
        (said(refused="signature"), "refused", True, False),
        (said(refused="rate"), "waiting", False, False),
        (said(floor=8), "superseded", True, False),
    ],
)
def test_what_a_device_says_is_an_end_or_not(message: ModelState, state: str, is_over: bool, is_reached: bool) -> None:
    seen = heard(message)
    assert [(s.device, s.state) for s in seen.standings()] == [("cam-1", state)]
    assert (seen.is_over(), seen.is_reached()) == (is_over, is_reached)


def test_healthy_waits_for_the_health_window() -> None:
    assert not heard(said("active", active=running(confirmed=False)), "healthy").is_over()
    assert heard(said("active", active=running(confirmed=True)), "healthy").is_reached()
    assert heard(said(active=running(confirmed=True), history=[attempt("active")]), "healthy").is_reached()


def test_a_refusal_from_before_is_no_answer_to_this_release() -> None:
    assert not heard(said(refused="signature"), before=said(refused="signature")).is_over()
    assert heard(said(refused="schema"), before=said(refused="signature")).is_over()


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff", b"{}", b'{"schema":"edge.model-state/1"}'])
def test_what_is_no_model_state_is_passed_over(payload: bytes) -> None:
    assert heard(payload).standings() == []


def test_a_model_may_be_called_status() -> None:
    seen = Rollout(msgspec.structs.replace(a_release(), model="status"), TOPICS, "active", {})
    seen.hear("edge/devices/cam-1/models/status", encode(said("active", model="status")))
    assert seen.is_reached()


def test_who_has_to_take_it() -> None:
    states = {name: said() for name in ("cam-1", "cam-2", "cam-3")}

    def names(**targets: object) -> list[str]:
        return [s.device for s in Rollout(a_release(targets=targets), TOPICS, "active", states).standings()]

    assert names() == ["cam-1", "cam-2", "cam-3"]
    assert names(exclude=["cam-2"]) == ["cam-1", "cam-3"]
    assert names(devices=["cam-2", "cam-9"]) == ["cam-2", "cam-9"]
    assert names(groups=["hall"]) == []
    assert names(groups=["hall"], devices=["cam-2"]) == ["cam-2"]
    assert names(hardware=["aarch64"], devices=["cam-2"]) == []
    assert names(percent=0.0001) == []


def test_a_device_that_is_away_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    seen = heard(said("receiving"))
    offline = Status(**STAMP(), state="offline", reasons=[], version="1", started_at=STAMP()["time"])
    seen.hear("edge/devices/cam-1/status", encode(offline))
    assert seen.summary() == "1 receiving, 1 offline"


# --- the terminal


def test_a_terminal_gets_a_table_with_the_open_ones_first() -> None:
    states = {f"cam-{n}": said("active") for n in range(1, 30)} | {"cam-30": said("receiving")}
    seen = Rollout(a_release(), TOPICS, "active", states)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=12)
    with RolloutView(console) as view:
        view.show(seen)
    shown = Text.from_ansi(console.file.getvalue()).plain  # type: ignore[attr-defined]
    assert "cam-30" in shown
    assert "and 22 more" in shown
    assert "29 active, 1 receiving" in shown


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with upload_bar(console, 4_000_000) as sent:
        sent(4_000_000)
    assert "4.0/4.0 MB" in Text.from_ansi(console.file.getvalue()).plain  # type: ignore[attr-defined]


# --- the command line


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("10min", 600), ("12h", 43200), ("7d", 604800)]
)
def test_times_are_written_with_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_expiry_is_a_day_or_a_time_from_now() -> None:
    assert expiry("2099-12-31") == "2099-12-31T23:59:59Z"
    assert expiry("2099-12-31T10:00:00+02:00") == "2099-12-31T08:00:00Z"
    assert expiry("2099-12-31T10:00") == "2099-12-31T10:00:00Z"
    assert expiry("30d") > expiry("29d")


@pytest.mark.parametrize(
    "options",
    [
        ["--expires", "soon"],
        ["--expires", "2099-13-01"],
        ["--expires", "2026-01-01"],
        ["--percent", "0"],
        ["--percent", "nan"],
        ["--device", "Not a name"],
        ["--spread", "x"],
        ["--wait", "maybe"],
        ["--prefix", "a+"],
        ["--release", "0"],
        [],
    ],
)
def test_a_wrong_option_is_a_usage_error(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        push_model.main(["models/face", *options, *(["--key", "k"] if options else [])])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hardware", "x" * 1000], "a release can't say that"),
        (["--key", "nothing.pem"], "nothing.pem"),
        (["--trust", "nothing.json"], "nothing.json"),
        (["--broker", "mqtt://me:secret@host"], "--password-file"),
        (["--broker", "http://host"], "expected mqtt://"),
        (["--broker", "mqtt://host:many"], "--broker mqtt://host:many"),
        (["--password-file", "nothing"], "whose password"),
        (["--ca-file", "nothing"], "expected mqtts://"),
        (["--broker", "mqtts://host", "--ca-file", "nothing"], "nothing: expected PEM"),
        (["--broker", "mqtts://host", "--cert-file", "nothing"], "expected both or neither"),
        (["--broker", "mqtt://me@host", "--password-file", "nothing"], "--password-file nothing: No such file"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_2(
    bundle: Path, trust_file: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = trust_file.with_name("release.pem")
    key.write_bytes(keys("release")[0].private_bytes)
    number = [] if "--broker" in options or {"--password-file", "--ca-file"} & set(options) else ["--release", "1"]
    assert push_model.main([str(bundle), "--key", str(key), "--dry-run", *number, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("push_model: ")
    assert told in line
    assert "secret" not in line


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("from the file\nand more")
    monkeypatch.setenv("EDGE_AGENT_BROKER_PASSWORD", "from the environment")
    start = ["models/face", "--key", "k", "--broker", "mqtt://me%40home@host"]
    login = read_login(make_parser().parse_args(start))
    assert (login.username, login.password, login.port) == ("me@home", "from the environment", 1883)
    login = read_login(make_parser().parse_args([*start, "--password-file", str(tmp_path / "password")]))
    assert login.password == "from the file"


def test_help_teaches() -> None:
    done = subprocess.run([sys.executable, push_model.__file__, "--help"], capture_output=True, text=True, check=True)
    for word in ("exit codes", "--dry-run", "--wait", "--percent", "tools/push_model.py models/face --key"):
        assert word in done.stdout


def test_it_runs_as_a_program_from_anywhere(tmp_path: Path, bundle: Path, trust_file: Path) -> None:
    key = trust_file.with_name("release.pem")
    key.write_bytes(keys("release")[0].private_bytes)
    command = [sys.executable, push_model.__file__, str(bundle), "--key", str(key), "--dry-run", "--release", "3"]
    with contextlib.chdir(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "digits 1.0 as release 3 of fleet acme" in done.stdout
