"""Archives of any bundle come back whole, and no other bytes mean the same or come near the disk."""

import io
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from agent.wire.archive import ArchiveError, archive_digest, archive_size, extract_archive, write_archive

golden_names = st.from_regex(r"golden/[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
contents = st.binary(max_size=1100) | st.integers(0, 3).map(lambda blocks: b"\0" * 512 * blocks)
bundles = st.builds(
    lambda needed, more, golden: needed | more | golden,
    st.fixed_dictionaries({"manifest.yaml": contents, "model.tflite": contents}),
    st.fixed_dictionaries({}, optional={"labels.txt": contents, "LICENSE": contents}),
    st.dictionaries(golden_names, contents, max_size=3),
)
SMALL = {"manifest.yaml": b"name: door\n", "model.tflite": b"m" * 600, "golden/x": b""}


def packed(files: dict[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), io.BytesIO()
        for file, data in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(data)
        info = write_archive(folder, out)
        assert (info.sha256, info.size_bytes) == (archive_digest(folder), archive_size(folder))
        return out.getvalue()


def unpacked(data: bytes) -> dict[str, bytes] | None:
    """None: it was refused. Whatever it is, nothing lies outside of the folder."""
    with tempfile.TemporaryDirectory() as name:
        into = Path(name) / "into"
        into.mkdir()
        try:
            names = extract_archive(io.BytesIO(data), into)
        except ArchiveError:
            return None
        finally:
            assert [into] == list(Path(name).iterdir())
        found = {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}
        assert names == sorted(found)
        return found


@given(bundles)
def test_what_was_packed_comes_back(files: dict[str, bytes]) -> None:
    assert files == unpacked(packed(files))


@given(bundles, st.data())
def test_changed_bytes_are_refused_or_other_files(files: dict[str, bytes], data: st.DataObject) -> None:
    """And what is taken is what would be packed: no two archives mean the same bundle."""
    whole = packed(files)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = unpacked(bytes(changed))
    assert found is None or bytes(changed) == packed(found)
    assert found != files or bytes(changed) == whole


@given(bundles, st.data())
def test_cut_moved_and_doubled_blocks_are_refused_or_other_files(files: dict[str, bytes], data: st.DataObject) -> None:
    whole = packed(files)
    places = st.integers(0, len(whole) // 512).map(lambda block: block * 512) | st.integers(0, len(whole))
    begin, end, at = data.draw(places), data.draw(places), data.draw(places)
    spliced = whole[:begin] + whole[end:at] + whole[end:]
    found = unpacked(spliced)
    assert found is None or spliced == packed(found)


@given(st.binary(max_size=2048))
@example(bytes(1024))
@example(bytes(2048))
def test_junk_is_refused(junk: bytes) -> None:
    assert unpacked(junk) is None
    assert unpacked(packed(SMALL) + junk) is None or not junk


def test_bits_everywhere_count() -> None:
    whole = packed(SMALL)
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        found = unpacked(bytes(changed))
        assert found != SMALL
        assert found is None or bytes(changed) == packed(found)
