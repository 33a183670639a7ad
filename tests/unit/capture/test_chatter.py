"""What programs say on standard error, as the log and messages show it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.capture import chatter
from agent.capture.chatter import MAX_LINE_CHARS, Chatter, clean


@pytest.fixture(autouse=True)
def _own_budgets():
    """What other tests had logged does not count."""
    chatter._budget_of.cache_clear()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"no cameras available", "no cameras available"),
        (b"[57:32:03.123456] [3412] ERROR Camera camera.cpp:1 busy", "ERROR Camera camera.cpp:1 busy"),
        (b"rtsp://admin:tops3cret@10.0.0.5/live: 401", "rtsp://10.0.0.5/live: 401"),
        (b"rtsp://admin:tops@3cret@10.0.0.5/live", "rtsp://10.0.0.5/live"),
        (b"GET /video?user=a&password=tops3cret&x=1", "GET /video?user=a&password=***&x=1"),
        (b"api_key: tops3cret", "api_key: ***"),
        (b"\x1b[31mred\x1b[0m\ttab \xff\xfe", "[31mred [0m tab \ufffd\ufffd"),
        ("Gerät fehlt".encode(), "Gerät fehlt"),
    ],
)
def test_lines_are_printable_without_times_and_secrets(line, shown):
    assert clean(line) == shown


@given(st.binary(max_size=5000))
def test_any_bytes_become_one_short_printable_line(line):
    text = clean(line)
    assert len(text) <= MAX_LINE_CHARS
    assert text.isprintable()


def feed(said: Chatter, *pieces: bytes) -> list[str]:
    with capture_logs() as logs:
        for piece in pieces:
            said.feed(piece)
    return [entry["line"] for entry in logs]


def test_lines_are_put_together_from_pieces_and_empty_ones_are_left_out():
    assert feed(Chatter("x"), b"on", b"e\n\n  \ntwo\r\nthr", b"ee\rfour") == ["one", "two", "three"]


def test_a_line_without_end_is_cut_and_takes_no_memory():
    said = Chatter("x")
    assert feed(said, *[b"a" * 10000] * 100) == []
    assert len(said._rest) <= 4 * MAX_LINE_CHARS
    assert feed(said, b"b\n") == ["a" * (MAX_LINE_CHARS - 1) + "…"]


def test_the_last_line_can_be_quoted_also_when_the_log_took_no_more():
    said = Chatter("x")
    assert said.quote() == ""
    feed(said, b"noise\n" * 100 + b"the reason")
    assert said.quote() == ": the reason"


def test_lines_that_were_left_out_are_counted(monkeypatch):
    said = Chatter("x")
    feed(said, b"line\n" * 50)
    monkeypatch.setattr(chatter, "_LINE_EVERY_S", 1e-9)  # as if time had passed
    with capture_logs() as logs:
        said.feed(b"later\n")
    assert [(entry["line"], entry["lines_left_out"]) for entry in logs] == [("later", 30)]
