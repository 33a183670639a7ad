"""Files that are called model.tflite and are something else."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ModelError
from agent.inference.model_file import check_model
from tests.unit.inference.tiny_models import FbTable, TensorSpec, flatbuffer, make_model

OUTPUT = TensorSpec("out", (1, 100), data=np.arange(100, dtype=np.float32))
MODEL = make_model(TensorSpec("image", (1, 8, 8, 3)), [OUTPUT])


def make_zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")  # the same bytes at any time: they name a test
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5 file"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x1f\x8b\x08\0" + b"\0" * 50, "gzip archive"),
        (b"\x7fELF" + b"\0" * 50, "program or shared library"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "PNG picture"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "JPEG picture"),
        (b"GGUF" + b"\0" * 50, "GGUF"),
        (b"\x80\x02\x8a\nl\xfc\x9cF", "pickle"),
        (b"\x08\x07\x12\x07pytorch\x1a\x03" + b"\0" * 50, "ONNX model"),
        (b"\x08\x08:\x10\n\x04onnx" + b"\0" * 50, "ONNX model"),
        (b"\x0a\x1d\n\x05input\x12\x0bPlaceholder", "TensorFlow graph"),
        (make_zip("archive/data.pkl", "archive/data/0"), "PyTorch file"),
        (make_zip("metadata.json", "config.json", "model.weights.h5"), r"Keras file \(.keras\)"),
        (make_zip("face_detector.tflite"), r"zip archive \(MediaPipe calls it .task\) with face_detector.tflite"),
        (make_zip("readme.txt"), "a zip archive; unpack it first"),
        (make_zip("readme.txt")[:30], "a zip archive"),
        (b"hello, this is text", "something else; bytes 4-7 should be TFL3, it starts with 68 65 6c 6c 6f"),
    ],
)
def test_the_error_says_what_the_file_is(data: bytes, what: str) -> None:
    with pytest.raises(ModelError, match=f"not a TFLite model: this is .*{what}") as caught:
        check_model(data)
    assert "\n" not in str(caught.value)


def test_a_whole_model_passes_with_or_without_an_archive_behind_it() -> None:
    check_model(MODEL)
    check_model(MODEL + make_zip("labels.txt"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
def test_a_file_that_ends_early_is_refused(share: float) -> None:
    with pytest.raises(ModelError, match=r"truncated or damaged: .*; copy it again and compare its sha256"):
        check_model(MODEL[: int(len(MODEL) * share)])


def test_weights_behind_the_flatbuffer_have_to_be_there_too() -> None:
    """As in files over 2 GB: a buffer's offset and size lead behind the tables."""
    tables = flatbuffer(FbTable({0: np.uint32(3), 4: [FbTable({1: np.uint64(1000), 2: np.uint64(24)})]}), b"TFL3")
    check_model(tables.ljust(1024, b"\0"))
    with pytest.raises(ModelError, match="leads to byte 1024 of 1023"):
        check_model(tables.ljust(1023, b"\0"))


def verdict(data: bytes) -> str:
    """The error's text; empty when the bytes pass. Any other exception fails the test."""
    try:
        check_model(data)
    except ModelError as exc:
        return str(exc)
    return ""


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_get_one_line_or_pass(data: bytes) -> None:
    assert "\n" not in verdict(data)
    assert "\n" not in verdict(data[:4] + b"TFL3" + data[4:])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_model_with_wrong_bytes_gets_one_line_or_passes(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(MODEL)
    for at, value in changes:
        damaged[at] = value
    assert "\n" not in verdict(bytes(damaged))


def test_offsets_that_all_lead_to_the_same_place_are_not_followed_for_ever() -> None:
    """1,000 graphs that are one graph of 1,000 tensors that are one tensor: a million visits in 10 kB."""
    tensor = struct.pack("<HHi", 4, 4, 4)  # a table without fields, its vtable before it
    graph_at, count = 1000 * 4 + 200, 1000
    data = bytearray(b"\0" * 12_000)
    struct.pack_into("<I4s", data, 0, 32, b"TFL3")
    struct.pack_into("<HHHHH", data, 16, 10, 8, 0, 0, 4)  # the model's vtable: slot 2 at 4
    struct.pack_into("<iI", data, 32, 16, 4)  # the model: its vtable, and its graphs at 40
    struct.pack_into(f"<I{count}I", data, 40, count, *(graph_at - 44 - 4 * n for n in range(count)))
    struct.pack_into("<HHH", data, graph_at - 8, 6, 8, 4)  # the graph's vtable: slot 0 at 4
    struct.pack_into("<iI", data, graph_at, 8, 4)
    tensors_at, tensor_at = graph_at + 12, 11_000
    struct.pack_into(f"<I{count}I", data, graph_at + 8, count, *(tensor_at - tensors_at - 4 * n for n in range(count)))
    data[tensor_at - 4 : tensor_at + 4] = tensor
    assert "more tables than the file has room for" in verdict(bytes(data))
