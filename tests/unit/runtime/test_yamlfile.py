"""YAML into structs: what is wrong, where, and what was expected, in one line."""

import json
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from agent.runtime.units import ByteSize, Duration
from agent.runtime.yamlfile import MAX_DOCUMENT_BYTES, DocumentError, load_document, parse_document


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fps: Annotated[float, Meta(gt=0.0)] = 1.0
    name: str = "x"

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name: expected something better")


class Doc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: tuple[Inner, ...]
    size: ByteSize = ByteSize(1)
    age: Duration = Duration(1)
    words: dict[str, str] = {}


def problem_of(text: str) -> str | None:
    """What is wrong with a document, or None. Any other exception comes out."""
    try:
        parse_document(text.encode(), Doc, "doc.yaml")
    except DocumentError as exc:
        return str(exc)
    return None


def error_of(text: str | bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_document(text if isinstance(text, bytes) else text.encode(), Doc, "doc.yaml")
    return str(caught.value)


def test_a_good_document():
    text = b"items:\n  - {fps: 15, name: a}\nsize: 2KiB\nage: 1h\nwords: {a: b}\n"
    expected = Doc(items=(Inner(15.0, "a"),), size=ByteSize(2048), age=Duration(3600), words={"a": "b"})
    assert expected == parse_document(text, Doc, "doc.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("items:\n  - fps: -3\n", "doc.yaml:2: items[0].fps: expected float > 0.0, got -3"),
        ("items:\n  - {fps: 1, name: 2.1}\n", "doc.yaml:2: items[0].name: expected str, got 2.1: put it in quotes"),
        ("items:\n  - fps: fast\n", "doc.yaml:2: items[0].fps: expected float, got 'fast'"),
        ("items:\n  - fps:\n", "doc.yaml:2: items[0].fps: expected float, got nothing"),
        ("items:\n  - fps: .nan\n", "doc.yaml:2: items[0].fps: expected float > 0.0, got nan"),
        ("items:\n  - {}\n  - fsp: 1\n", "doc.yaml:3: items[1].fsp: unknown key"),
        ("size: 1\n", "doc.yaml: items: this key is missing"),
        ("", "doc.yaml: items: this key is missing"),
        ("items: []\nsizes: 1\n", "doc.yaml:2: sizes: unknown key"),
        ("items: []\nsize: big\n", "doc.yaml:2: size: expected a size such as 256MiB, got 'big'"),
        ("items: []\nage: -1\n", "doc.yaml:2: age: expected a duration such as 30s, 10min, 12h or 7d, got -1"),
        ("items: []\nsize: 1\nsize: 2\n", "doc.yaml:3: key 'size' is there twice"),
        ("items:\n  - {fps: 1, fps: 2}\n", "doc.yaml:2: key 'fps' is there twice"),
        ("items:\n  - name: bad\n", "doc.yaml:2: items[0]: name: expected something better, got {'name': 'bad'}"),
        ("items: 5\n", "doc.yaml:1: items: expected array, got 5"),
        ("- 1\n", "doc.yaml: expected object, got [1]"),
        ("items: [\n", "doc.yaml:2: expected the node content, but found '<stream end>'"),
        ("a: &x 1\nb: *x\n", "doc.yaml:2: aliases are not allowed"),
        ("a: !!python/name:os.system 1\n",
         "doc.yaml:1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("--- 1\n--- 2\n", "doc.yaml:2: but found another document"),
        ("? [a]\n: 1\n", "doc.yaml:1: a key has to be a word"),
        ('items: []\nwords: {a: "b\\0c"}\n', "doc.yaml:2: a NUL character"),
        ('items: []\nwords: {a: "\\ud83d"}\n', "doc.yaml:2: half of a character"),
        ('items: []\n"\\ude00\\ud83d": 1\n', "doc.yaml:2: half of a character"),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_line_the_key_and_what_was_expected(text: str, expected: str):
    assert expected == error_of(text)


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"\x00", "x: !!bool z", "x: !!timestamp z", "x: !!int z", "x: !!float z", "x: 2026-13-45", "x: 0x_",
     "x: " + "[" * 5000, "x: " + "9" * 5000, "size: " + "9" * 400, "? !!set {a}\n: 1",
     "? {a: 1}\n: 1", "<<: 5", "x: =", "x: " + "1:" * 300 + "1.5", '"a\\nb": 1', "a" * 5000 + ": 1"],
)  # fmt: skip
def test_what_the_yaml_library_chokes_on_is_an_error_in_one_line(text: str | bytes):
    message = error_of(text)
    assert message.startswith("doc.yaml")
    assert "\n" not in message


def test_what_json_writes_in_two_halves_is_one_character():
    text = json.dumps({"items": [], "words": {"\U0001f600": "\u00e9"}})
    assert parse_document(text.encode(), Doc, "doc.yaml").words == {"\U0001f600": "\u00e9"}


def test_long_values_are_cut():
    assert len(error_of(f"items:\n  - fps: {'x' * 500}\n")) < 150


YAML_TEXT = st.text(alphabet=st.sampled_from("ab1:-?[]{}!&*<>|'\"#%@`\n ,.~="), max_size=40)


@settings(max_examples=400)
@given(YAML_TEXT | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_only_document_errors_come_out(text: str):
    for whole in (text, f"items:\n  - {{fps: 1}}\n{text}"):
        assert "\n" not in (problem_of(whole) or "")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["items", "size", "age", "words"]), VALUES)
def test_wrong_values_of_any_kind_are_document_errors(key: str, value: object):
    text = yaml.safe_dump({"items": [], key: value}, allow_unicode=True)
    assert (problem_of(text) or "doc.yaml").startswith("doc.yaml")


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "doc.yaml"
    path.write_text("items: []\n")
    assert Doc(items=()) == load_document(path, Doc)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(DocumentError, match=r"nope\.yaml: no such file or directory$"):
        load_document(tmp_path / "nope.yaml", Doc)
    with pytest.raises(DocumentError, match=r"is a directory$"):
        load_document(tmp_path, Doc)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path):
    path = tmp_path / "doc.yaml"
    path.write_bytes(b"#" * (MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(DocumentError, match="larger than 1048576 bytes"):
        load_document(path, Doc)
