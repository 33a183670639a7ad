"""Recorded readings in CSV: times, missing values, broken rows, loops, and files that are none."""

import csv
import io
import itertools
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.capture import make_source
from agent.capture.lines import MAX_LINE_BYTES
from agent.capture.readings import BadReading
from agent.capture.table import parse_time
from agent.config import CsvSource
from agent.errors import SourceError, SourceUnusable

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
S = 1_000_000_000


@pytest.fixture
def table(tmp_path):
    """A source of this text, open; as fast as it goes."""
    opened = []

    def make(text, **options):
        path = tmp_path / "readings.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        source = make_source(CsvSource(path=str(path), **({"realtime": False} | options)))
        opened.append(source)
        source.open()
        return source

    yield make
    for source in opened:
        source.close()


def all_of(source):
    return list(iter(source.read, None))


def test_all_columns_with_numbers_are_channels_and_rows_follow_each_other_at_the_rate(table):
    source = table("room,t,h,empty\nhall,21.5,40,\nhall,22,,\n", rate_hz=4.0)
    first, second = all_of(source)
    assert first.channels == second.channels == ("t", "h")
    assert first.data.tolist() == [[21.5, 40.0]]
    assert np.array_equal(second.data, [[22.0, math.nan]], equal_nan=True)
    assert [first.position_ns, second.position_ns] == [0, S // 4]
    assert [first.is_first, second.is_first] == [True, False]
    assert first.rate_hz is None
    assert source.broken == 0


@pytest.mark.parametrize(
    "times",
    [
        ("2026-11-01T10:00:00Z", "2026-11-01T10:00:01.5Z", "2026-11-01T10:01:00Z"),
        ("2026-11-01T10:00:00.000+02:00", "2026-11-01T08:00:01.500+00:00", "2026-11-01T08:01:00"),
        ("2026-11-01 10:00:00", "2026-11-01 10:00:01.500", "2026-11-01 10:01:00"),
        ("1793527200", "1793527201.5", "1.79352726e9"),
        ("-5", "-3.5", "55"),
    ],
)
def test_positions_come_from_the_time_column(table, times):
    source = table("t,when\n" + "".join(f"{turn},{text}\n" for turn, text in enumerate(times)), time_column="when")
    frames = all_of(source)
    assert [frame.position_ns for frame in frames] == [0, 1_500_000_000, 60 * S]
    assert frames[0].channels == ("t",)


def test_chosen_columns_come_in_the_order_that_was_asked_for(table):
    source = table(b'\xef\xbb\xbf"a, b";c;"a, b2"\r\n1;2;3\r\n', channels=("c", "a, b"), delimiter=";")
    assert all_of(source)[0].data.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize(
    "row",
    [
        "1",
        "1,2,3",
        "x,2",
        "nan,2",
        "1e39,2",
        "1," + "2" * MAX_LINE_BYTES,
        '"1,2',
        "9999,1",
        "1,1e12",
        "1,yesterday",
        "1,",
    ],
)
def test_a_broken_row_is_counted_and_left_out(table, row):
    source = table(f"t,time\n1,10\n{row}\n2,11\n", time_column="time", channels=("t",))
    frames = all_of(source)
    assert [frame.data[0, 0] for frame in frames] == [1.0, 2.0]
    assert [frame.index for frame in frames] == [0, 1]
    assert source.broken == 1


def test_a_broken_row_leaves_out_its_turn(table):
    assert [frame.position_ns for frame in all_of(table("t\n1\n\nx\n3\n"))] == [0, 2 * S]


def test_a_loop_begins_anew_and_goes_on_counting(table):
    source = table("t,s\n1,5\nx,6\n2,7\n", time_column="s", channels=("t",), loop=True)
    frames = [source.read() for _ in range(5)]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.position_ns for frame in frames] == [0, 2 * S, 0, 2 * S, 0]
    assert [frame.is_first for frame in frames] == [True, False, True, False, True]
    assert source.broken == 2


def test_in_real_time_rows_come_when_they_are_due_also_in_a_loop(table):
    source = table("t,s\n1,5\n2,5.05\n", time_column="s", realtime=True, loop=True)
    started_s = time.monotonic()
    for _ in range(5):
        source.read()
    assert time.monotonic() - started_s >= 0.2


@pytest.mark.parametrize("options", [{}, {"time_column": "s"}])
def test_a_loop_of_one_moment_keeps_the_rate(table, options):
    source = table("t,s\n1,5\n", channels=("t",), realtime=True, loop=True, rate_hz=20.0, **options)
    started_s = time.monotonic()
    for _ in range(5):
        source.read()
    assert time.monotonic() - started_s >= 0.2


def test_a_wait_of_years_can_be_interrupted(table):
    source = table("t,s\n1,-4e9\n2,4e9\n", time_column="s", realtime=True)
    source.read()
    threading.Timer(0.05, source.interrupt).start()
    with pytest.raises(SourceError, match="closed"):
        source.read()


@pytest.mark.parametrize(
    ("text", "options", "fault"),
    [
        ("", {}, "no column with numbers"),
        ("t\n", {}, "no column with numbers"),
        ("a,b\nx,y\n", {}, "no column with numbers; is the first line a header, and the delimiter right?"),
        ("t\n1\n", {"channels": ("h",)}, "no columns 'h' in the header, expected one; it has: t"),
        ("t,t\n1,2\n", {}, "2 columns 't' in the header"),
        ("t\n1\n", {"time_column": "time"}, "no columns 'time' in the header"),
        (b"\xff\xfet\0\n\0", {}, "not UTF-8"),
        (b"t\n" + b"x" * 200_000 + b"\n", {"channels": ("t",)}, "row 1: longer than 65536 bytes"),
        ("t\n\n", {"channels": ("t",)}, "not one row in it can be read; there is none"),
        ("t,s\n1,1793527200000\n", {"time_column": "s"}, "row 1: expected a time in seconds, got '1793527200000'"),
        ("t\nx\n", {"channels": ("t",), "loop": True}, "row 1: expected a number, got 'x'"),
    ],
)
def test_what_is_no_table_can_never_work_and_says_why(table, text, options, fault):
    with pytest.raises(SourceUnusable) as caught:
        table(text, **options).read()
    assert fault in str(caught.value)
    assert "readings.csv: " in str(caught.value)


def test_a_folder_and_a_file_that_may_not_be_read_can_never_work(tmp_path):
    with pytest.raises(SourceUnusable, match="directory"):
        make_source(CsvSource(path=str(tmp_path))).open()


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01T00:00:00Z", "9e9", "nan", "0001-01-01T00:00:00"])
def test_what_is_no_time_is_broken(text):
    with pytest.raises(BadReading):
        parse_time(text)


@unhurried
@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.none(), st.integers(0, 10**6)),
        min_size=1,
        max_size=20,
    )
)
def test_what_was_recorded_is_what_is_played(table, rows):
    moments = list(itertools.accumulate(step_ms for _, step_ms in rows))
    file = io.StringIO()
    csv.writer(file).writerows(
        [("time", "t"), *((ms / 1000, "" if t is None else t) for (t, _), ms in zip(rows, moments, strict=True))]
    )
    source = table(file.getvalue(), time_column="time", channels=("t",))
    frames = all_of(source)
    source.close()
    expected = np.array([[[math.nan if t is None else t]] for t, _ in rows], np.float32)
    assert np.array_equal([frame.data for frame in frames], expected, equal_nan=True)
    assert [round(frame.position_ns / 1e6) for frame in frames] == [ms - moments[0] for ms in moments]


@unhurried
@given(st.binary(max_size=300))
def test_no_file_does_harm(table, data):
    try:
        source = table(b"t,s\n" + data, time_column="s")
        for frame in all_of(source):
            assert frame.position_ns >= 0
            assert not np.isinf(frame.data).any()
    except SourceUnusable as exc:
        assert "\n" not in str(exc)  # noqa: PT017
