"""The one archive of a bundle: always the same bytes, and nothing else is read."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.wire import archive
from agent.wire.archive import ArchiveError, archive_digest, archive_size, extract_archive, write_archive
from tests.sim import require_program

FILES = {
    "manifest.yaml": b"name: door\n",
    "model.tflite": b"m" * 1000,
    "labels.txt": b"cat\ndog\n",
    "LICENSE": b"",
    "golden/inputs.npz": b"g" * 512,
    "golden/outputs.npz": b"o" * 513,
}


def bundle(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (files or FILES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(folder: Path) -> bytes:
    out = io.BytesIO()
    write_archive(folder, out)
    return out.getvalue()


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], end: bytes = bytes(1024)) -> bytes:
    """Anything that a tar can be; members that give no size get that of their data."""
    parts = []
    for info, data in members:
        info.size = info.size or len(data)
        parts += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % 512)]
    return b"".join(parts) + end


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def plain(*names: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(member(name), b"data of " + name.encode()) for name in names]


WHOLE = plain("labels.txt", "manifest.yaml", "model.tflite")


def refuse(data: bytes, into: Path, match: str) -> None:
    into.mkdir(exist_ok=True)
    with pytest.raises(ArchiveError, match=match) as caught:
        extract_archive(io.BytesIO(data), into)
    assert "\n" not in str(caught.value)


# --- packing ---------------------------------------------------------------------------------------------------------


def test_the_digest_never_changes(tmp_path: Path) -> None:
    """Releases name it: a new Python, or a new agent, must come to the same."""
    folder = bundle(tmp_path / "bundle")
    assert "a794bd6a75f1815ba2f4169475ee55608f7c6df96e00e41dbc3c91316acf7cc2" == archive_digest(folder)


def test_it_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    first = bundle(tmp_path / "first")
    second = bundle(tmp_path / "second", dict(reversed(FILES.items())))
    for path in second.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
    (second / ".release").write_bytes(b"{}")
    (second / "golden" / ".DS_Store").write_bytes(b"junk")
    assert packed(first) == packed(second)
    (second / "labels.txt").write_bytes(b"cat\ndot\n")
    assert packed(first) != packed(second)


def test_size_and_digest_are_those_of_what_is_written(tmp_path: Path) -> None:
    folder, out = bundle(tmp_path / "bundle"), io.BytesIO()
    info = write_archive(folder, out)
    assert (hashlib.sha256(out.getvalue()).hexdigest(), len(out.getvalue())) == info
    assert (info.sha256, info.size_bytes) == (archive_digest(folder), archive_size(folder))


def test_tar_can_read_it(tmp_path: Path) -> None:
    require_program("tar", "install tar")
    data = packed(bundle(tmp_path / "bundle"))
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "out").mkdir()
    done = subprocess.run(["tar", "-xvf", "../a.tar"], cwd=tmp_path / "out", check=True, capture_output=True, text=True)
    assert sorted(FILES) == done.stdout.split()
    assert not done.stderr
    assert data == packed(tmp_path / "out")


@pytest.mark.parametrize("name", ["notes.md", "golden/deep/x.npz", "golden/a b.npz", "model.onnx", "labels.txt/x"])
def test_a_file_that_would_be_left_out_is_named(tmp_path: Path, name: str) -> None:
    files = {key: value for key, value in FILES.items() if not name.startswith(f"{key}/")}
    folder = bundle(tmp_path / "bundle", {**files, name: b"x"})
    with pytest.raises(ArchiveError, match=rf"{'/'.join(name.split('/')[:2]).removesuffix('/x')}.*move it out"):
        write_archive(folder, io.BytesIO())


def test_a_device_looks_past_what_else_lies_in_a_folder_made_by_hand(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    digest = archive_digest(folder)
    bundle(folder, {"notes.md": b"x", "golden/deep/x.npz": b"x", ".release": b"{}"})
    os.mkfifo(folder / "LICENSE.pipe")
    assert digest == archive_digest(folder)


@pytest.mark.parametrize("name", ["manifest.yaml", "model.tflite"])
def test_a_bundle_needs_manifest_and_model(tmp_path: Path, name: str) -> None:
    folder = bundle(tmp_path / "bundle")
    (folder / name).unlink()
    for pack in (archive_digest, archive_size, lambda at: write_archive(at, io.BytesIO())):
        with pytest.raises(ArchiveError, match=f"{name}: this file is missing"):
            pack(folder)


def test_too_large_is_said_before_anything_is_read(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    os.truncate(folder / "model.tflite", (1 << 30) + 1)
    with pytest.raises(ArchiveError, match=r"model.tflite: expected at most 1073741824 bytes, got 1073741825"):
        archive_size(folder)
    os.truncate(folder / "model.tflite", 1)
    os.truncate(folder / "golden/inputs.npz", (8 << 20) + 1)
    with pytest.raises(ArchiveError, match=r"inputs.npz: expected at most 8388608 bytes"):
        write_archive(folder, io.BytesIO())


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", FILES | {f"golden/{number}": b"" for number in range(260)})
    with pytest.raises(ArchiveError, match="at most 256 files"):
        write_archive(folder, io.BytesIO())


def test_a_file_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")

    class Shrinker(io.BytesIO):
        def write(self, data: object, /) -> int:
            os.truncate(folder / "model.tflite", 10)
            return 0

    with pytest.raises(ArchiveError, match=r"model\.tflite: it ends 990 bytes too early"):
        write_archive(folder, Shrinker())


# --- unpacking -------------------------------------------------------------------------------------------------------


def test_what_was_packed_comes_back(tmp_path: Path) -> None:
    data = packed(bundle(tmp_path / "bundle"))
    (tmp_path / "out").mkdir()
    assert sorted(FILES) == extract_archive(io.BytesIO(data), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert 0o640 & ~0o022 == (tmp_path / "out/model.tflite").stat().st_mode & 0o777 & ~0o022


def test_from_a_pipe_too(tmp_path: Path) -> None:
    data = packed(bundle(tmp_path / "bundle"))
    (tmp_path / "out").mkdir()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        assert cat.stdout
        cat.stdin.write(data)
        cat.stdin.close()
        assert sorted(FILES) == extract_archive(cat.stdout, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "golden/../../evil", "golden/..", "golden/", "golden", "./model.tflite", "golden//x",
        "golden/a/b", "model.tflite/", "notes.md", "Model.tflite", "golden/.hidden", "golden/a\\b", "golden/ä",
        "golden/" + "x" * 64, ".release",
    ],
)  # fmt: skip
def test_unknown_names_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    refuse(tar([(member(name), b"evil"), *WHOLE]), tmp_path / "out", "not a name that a bundle may have")
    assert ["out"] == [path.name for path in tmp_path.iterdir()]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, {"type": tarfile.LNKTYPE, "linkname": "model.tflite"},
        {"type": tarfile.DIRTYPE}, {"type": tarfile.FIFOTYPE}, {"type": tarfile.CHRTYPE}, {"type": tarfile.AREGTYPE},
        {"type": tarfile.XHDTYPE}, {"type": tarfile.GNUTYPE_LONGNAME}, {"type": tarfile.GNUTYPE_SPARSE},
        {"mode": 0o755}, {"mode": 0o4644}, {"uid": 1}, {"gid": 1}, {"mtime": 1}, {"uname": "root"}, {"gname": "root"},
    ],
)  # fmt: skip
def test_any_other_header_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    refuse(
        tar([(member("LICENSE", **fields), b""), *WHOLE]),
        tmp_path / "out",
        r"^(LICENSE|'LICENSE/'): (its header has another form|not a name)",
    )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_kinds_of_tar_are_refused(tmp_path: Path, format_: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_, pax_headers={"comment": "x"}) as file:
        for info, data in plain("manifest.yaml", "model.tflite"):
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    refuse(out.getvalue(), tmp_path / "out", "another form|not a name")


def test_order_and_number_are_held(tmp_path: Path) -> None:
    refuse(tar(plain("model.tflite", "manifest.yaml")), tmp_path / "a", "manifest.yaml: not in order")
    refuse(tar(plain("model.tflite", "model.tflite")), tmp_path / "b", "model.tflite: not in order, or there twice")
    many = sorted(f"golden/{number}" for number in range(257))
    refuse(tar(plain(*many)), tmp_path / "c", "more than 256 files")


@pytest.mark.parametrize("missing", ["manifest.yaml", "model.tflite"])
def test_an_archive_needs_manifest_and_model(tmp_path: Path, missing: str) -> None:
    refuse(tar(one for one in WHOLE if one[0].name != missing), tmp_path / "out", f"{missing} is missing")


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    refuse(b"", tmp_path / "a", "ends too early")
    refuse(bytes(1024), tmp_path / "b", "manifest.yaml is missing")


def test_the_end_is_exact(tmp_path: Path) -> None:
    refuse(tar(WHOLE, bytes(512)), tmp_path / "a", "ends too early")
    refuse(tar(WHOLE, b""), tmp_path / "b", "ends too early")
    refuse(tar(WHOLE, bytes(1025)), tmp_path / "c", "something follows")
    refuse(tar(WHOLE, bytes(10240)), tmp_path / "d", "something follows")
    refuse(tar(WHOLE, bytes(1023) + b"x"), tmp_path / "e", "something follows")


def test_padding_is_zeros(tmp_path: Path) -> None:
    data = bytearray(tar(WHOLE))
    data[512 + 511] = 1  # behind the labels
    refuse(bytes(data), tmp_path / "out", "labels.txt: padded with something else")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("LICENSE", (1 << 20) + 1),
        ("golden/x", (8 << 20) + 1),
        ("manifest.yaml", 1 << 32),
        ("model.tflite", (1 << 30) + 1),
    ],
)
def test_too_large_is_refused_before_anything_is_written(tmp_path: Path, name: str, size: int) -> None:
    refuse(tar([(member(name, size=size), b"x")]), tmp_path / "out", f"{name}: {size} bytes, at most")
    assert not list((tmp_path / "out").iterdir())


def test_it_never_writes_over_or_through_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out" / "labels.txt").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        extract_archive(io.BytesIO(tar(WHOLE)), tmp_path / "out")
    assert b"precious" == (tmp_path / "precious").read_bytes()


def test_large_files_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing larger than one piece is read or written at once."""
    largest = 0

    class Watcher(io.BytesIO):
        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            nonlocal largest
            largest = max(largest, len(data))
            return super().write(data)

    folder = bundle(tmp_path / "bundle", {**FILES, "model.tflite": os.urandom(3 << 20)})
    write_archive(folder, Watcher())
    assert largest <= archive._COPY_BYTES
    shutil.rmtree(folder)
