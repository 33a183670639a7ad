"""Sizes and durations as people write them."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.units import ByteSize, Duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256MiB", 256 << 20), ("1 KiB", 1024), ("2GiB", 2 << 30), ("1.5kB", 1500), ("3MB", 3_000_000),
        ("1gb", 10**9), ("7", 7), ("7B", 7), (7, 7), (0, 0), (" 8 ", 8), (1.5, 1),
    ],
)  # fmt: skip
def test_sizes(text: object, expected: int):
    assert expected == ByteSize.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("7d", 7 * 86400), ("12h", 43200), ("10 min", 600), ("1.5s", 1.5), (30, 30), (0.5, 0.5)]
)
def test_durations(text: object, expected: float):
    assert expected == Duration.parse(text)


@pytest.mark.parametrize(
    "value",
    ["", "-1", -1, "1e3", "5Mi", "5m", "MiB", "1 2", "1.2.3", "1TiB", True, None, [], {}, b"1", "9" * 400,
     "99999999999GiB", float("nan"), float("inf"), 1e300, "0x10"],
)  # fmt: skip
def test_what_is_no_size_is_a_value_error(value: object):
    with pytest.raises(ValueError, match=r"^expected a size such as 256MiB$"):
        ByteSize.parse(value)


@pytest.mark.parametrize("value", ["", "-1s", "7w", "1d12h", False, None, "9" * 400, float("inf"), "5 d d"])
def test_what_is_no_duration_is_a_value_error(value: object):
    with pytest.raises(ValueError, match=r"^expected a duration such as"):
        Duration.parse(value)


@pytest.mark.parametrize("kind", [ByteSize, Duration])
@given(value=st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_anything_else_than_value_error_never_comes_out(kind: type[ByteSize | Duration], value: object):
    try:
        parsed = kind.parse(value)
    except ValueError:
        return
    assert 0 <= parsed < 2**63


@pytest.mark.parametrize("kind", [ByteSize, Duration])
@given(data=st.data())
def test_what_the_schema_allows_is_understood(kind: type[ByteSize | Duration], data: Any):
    pattern = kind.schema["anyOf"][1]["pattern"]
    digits_only = pattern.replace(r"\d+", r"[0-9]{1,6}").replace(r"\s", r"[ ]")
    text = data.draw(st.from_regex(digits_only, fullmatch=True))
    assert re.search(pattern, text)
    assert kind.parse(text) >= 0
