"""Embedded TFLite Metadata and appended archives, read from models that are made here."""

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inference.flatbuffer import FlatbufferError, read_root
from agent.inference.metadata import Metadata, TensorMetadata, read_metadata
from tests.unit.inference.tiny_models import FbTable, TensorSpec, flatbuffer, make_model

IMAGE = TensorSpec("image", (1, 8, 8, 3))


def label_file(name: str, kind: int = 2, locale: str = "") -> FbTable:
    return FbTable({0: name, 2: np.int8(kind), **({3: locale} if locale else {})})


def full_metadata() -> FbTable:
    """As MediaPipe's and tflite-support's writers make it."""
    normalization = FbTable({0: np.float32([127.5]), 1: np.float32([127.5])})
    rgb_image = FbTable({0: np.int8(1)})
    image = FbTable({
        0: "image", 1: "the picture", 3: FbTable({0: np.uint8(2), 1: rgb_image}),
        4: [FbTable({0: np.uint8(3), 1: FbTable({0: np.float32(0.5)})}), FbTable({0: np.uint8(1), 1: normalization})],
    })  # fmt: skip
    score = FbTable({
        0: "score", 1: "how sure",
        6: [label_file("etiketten.txt", locale="de"), label_file("classes.txt"), label_file("calibration.txt", kind=4)],
    })  # fmt: skip
    graph = FbTable({2: [image], 3: [score]})
    return FbTable({
        0: "Faces", 1: "Finds faces", 2: "v1", 3: [graph], 4: "someone", 5: "Apache-2.0", 7: "1.0.0",
    })  # fmt: skip


def with_files(model: bytes, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Append an archive, as all the writers do."""
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_a_model_without_metadata_has_none() -> None:
    assert read_metadata(make_model(IMAGE)) == Metadata()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_everything_is_read(compression: int) -> None:
    files = {"other_labels.txt": b"Gesicht\n", "classes.txt": b"face\r\nno face\n"}
    model = with_files(make_model(IMAGE, metadata=full_metadata()), files, compression)
    assert read_metadata(model) == Metadata(
        name="Faces",
        description="Finds faces",
        version="v1",
        author="someone",
        license="Apache-2.0",
        inputs=(TensorMetadata("image", "the picture", (127.5,), (127.5,), "rgb"),),
        outputs=(TensorMetadata("score", "how sure", label_files=("classes.txt", "etiketten.txt")),),
        files=("other_labels.txt", "classes.txt"),
        labels=("face", "no face"),
    )


def test_labels_that_no_tensor_declares_are_found_by_their_name() -> None:
    model = with_files(make_model(IMAGE), {"readme.txt": b"no", "my_labels.txt": "Käse\n???\n".encode()})
    assert read_metadata(model).labels == ("Käse", "???")


def test_labels_that_are_declared_but_not_there_are_none() -> None:
    assert read_metadata(make_model(IMAGE, metadata=full_metadata())).labels == ()


@pytest.mark.parametrize(
    "names", [{"0": "person", "1": "bicycle"}, {"1": "bicycle", "0": "person"}, ["person", "bicycle"]]
)
def test_ultralytics_exports_have_their_labels_in_json(names: Any) -> None:
    said = {
        "description": "Ultralytics YOLOv8n",
        "version": "8.3.0",
        "names": names,
        "stride": 32,
        "license": "AGPL-3.0",
    }
    known = read_metadata(with_files(make_model(IMAGE), {"metadata.json": json.dumps(said).encode()}))
    assert known.labels == ("person", "bicycle")
    assert (known.description, known.version, known.license) == ("Ultralytics YOLOv8n", "8.3.0", "AGPL-3.0")


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", b"[1, 2]", b"[" * 100_000, b'{"names": 3}', b"\xff\xfe", b'{"names": {"a": []}}']
)
def test_odd_json_is_no_trouble(data: bytes) -> None:
    assert set(read_metadata(with_files(make_model(IMAGE), {"metadata.json": data})).labels) <= {""}


def test_an_archive_that_unpacks_to_more_than_labels_can_be_is_left_alone() -> None:
    model = with_files(make_model(IMAGE), {"labels.txt": b"\n" * (20 << 20)}, zipfile.ZIP_DEFLATED)
    known = read_metadata(model)
    assert known.labels == ()
    assert known.problem == "damaged associated files: labels.txt is larger than 1048576 bytes"


def test_a_damaged_archive_is_named() -> None:
    model = with_files(make_model(IMAGE), {"labels.txt": b"face\n" * 100}, zipfile.ZIP_DEFLATED)
    at = model.index(b"PK\x03\x04") + 40
    known = read_metadata(model[:at] + b"\xff" * 8 + model[at + 8 :])
    assert known.problem.startswith("damaged associated files: ")


def test_damaged_metadata_are_named_and_the_archive_is_still_read() -> None:
    model = make_model(IMAGE, metadata=full_metadata())
    at = model.index(b"M001") - 4
    model = model[:at] + b"\xff\xff\xff\x7f" + model[at + 4 :]
    known = read_metadata(with_files(model, {"labels.txt": b"face"}))
    assert known.problem.startswith("damaged metadata: an offset leads to byte ")
    assert known.labels == ("face",)


WHOLE = with_files(
    make_model(IMAGE, metadata=full_metadata()), {"labels.txt": b"face\nno face\n"}, zipfile.ZIP_DEFLATED
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_wrong_bytes_anywhere_never_raise(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(WHOLE)
    for at, value in changes:
        damaged[at] = value
    assert isinstance(read_metadata(bytes(damaged)), Metadata)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(WHOLE)))
def test_random_bytes_and_pieces_never_raise(data: bytes, cut: int) -> None:
    for model in (data, data + WHOLE, WHOLE[:cut], WHOLE[:cut] + data, WHOLE + data, data + zlib.compress(data)):
        assert isinstance(read_metadata(model), Metadata)


class TestFlatbuffer:
    """The reader against flatbuffers' own builder."""

    def test_all_kinds_of_fields(self) -> None:
        inner = FbTable({0: np.uint32(7)})
        table = FbTable({
            0: np.int8(-3), 1: np.uint64(1 << 40), 2: "text", 3: b"raw", 4: np.float32([0.5, 1.5]),
            5: inner, 6: [inner, FbTable()],
        })  # fmt: skip
        root = read_root(flatbuffer(table, b"TEST"))
        assert (root.number(0, "<b"), root.number(1, "<Q"), root.text(2), bytes(root.raw(3))) == (
            -3,
            1 << 40,
            "text",
            b"raw",
        )
        assert (root.floats(4, 9), root.floats(4, 1)) == ((0.5, 1.5), (0.5,))
        child = root.table(5)
        assert child is not None
        assert child.number(0, "<I") == 7
        assert [each.number(0, "<I", 9) for each in root.tables(6, 9)] == [7, 9]
        assert len(root.tables(6, 1)) == 1

    def test_fields_that_are_not_there(self) -> None:
        root = read_root(flatbuffer(FbTable({0: np.int8(1)}), b"TEST"))
        assert (root.number(4, "<I", 5), root.text(4), bytes(root.raw(4)), root.floats(4, 9)) == (5, "", b"", ())
        assert (root.table(4), root.tables(4, 9)) == (None, [])

    @settings(deadline=None)
    @given(st.binary(max_size=120))
    def test_random_bytes_raise_flatbuffer_error_or_nothing(self, data: bytes) -> None:
        try:
            root = read_root(data)
            for slot in range(6):
                for child in root.tables(slot, 10):
                    child.text(0)
                root.table(slot)
                root.floats(slot, 4)
                root.number(slot, "<Q")
        except FlatbufferError:
            pass

    def test_an_offset_to_before_the_start_is_refused(self) -> None:
        """Not counted from the end, as Python does with negative numbers."""
        data = struct.pack("<Ii", 4, 40) + b"\4\0\4\0" * 20  # the vtable would lie at -36
        with pytest.raises(FlatbufferError, match="leads to byte -36 of 88"):
            read_root(data)

    def test_the_helper_builds_what_flatbuffers_itself_reads(self) -> None:
        data = flatbuffer(FbTable({0: "hello"}), b"TEST")
        root = flatbuffers.table.Table(bytearray(data), int.from_bytes(data[:4], "little"))
        assert root.String(root.Offset(4) + root.Pos) == b"hello"
