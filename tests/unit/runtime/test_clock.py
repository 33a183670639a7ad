"""Wall time, and whether it can be trusted."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import clock
from agent.runtime.clock import Clock, rfc3339


@pytest.mark.parametrize(
    ("unix_ns", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_334_400_123_456_789, "2026-11-22T08:00:00.123Z"),
        (999_999_999, "1970-01-01T00:00:00.999Z"),
        (-5, "1970-01-01T00:00:00.000Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854Z"),
        (10**30, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_times_are_written_as_rfc3339_with_milliseconds(unix_ns: int, expected: str):
    assert expected == rfc3339(unix_ns)


@given(st.integers(0, 253_402_300_798_999_999_999))
def test_the_written_time_is_the_time_cut_to_milliseconds(unix_ns: int):
    written = datetime.strptime(rfc3339(unix_ns), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    since_epoch = written - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since_epoch.days * 86_400_000 + since_epoch.seconds * 1000 + since_epoch.microseconds // 1000
    assert milliseconds == unix_ns // 1_000_000


def test_now_is_the_systems_time():
    before = time.time_ns()
    assert before <= Clock().now_ns() <= time.time_ns()


def test_the_kernel_can_be_asked():
    assert Clock().state() in ("synced", "unsynced")
    assert isinstance(clock._kernel_says_synced(), bool)


def test_the_state_is_asked_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch):
    answers = iter([True, False])
    now_ns = 5_000_000_000
    monkeypatch.setattr(clock, "_kernel_says_synced", lambda: next(answers))
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns)
    asked = Clock()
    assert asked.state() == "synced"
    now_ns += 9_999_999_999
    assert asked.state() == "synced"
    now_ns += 1
    assert asked.state() == "unsynced"


def test_a_kernel_that_can_not_be_asked_is_not_trusted(monkeypatch: pytest.MonkeyPatch):
    def no_library(*_args: object, **_options: object) -> None:
        raise OSError("no libc")

    monkeypatch.setattr(clock.ctypes, "CDLL", no_library)
    assert Clock().state() == "unsynced"


@pytest.mark.parametrize(
    ("age_s", "state"), [(0, "synced"), (31_000, "synced"), (33_000, "unsynced"), (-33_000, "unsynced")]
)
def test_where_the_kernel_may_not_be_asked_timesyncds_word_counts_for_nine_hours(
    age_s: int, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As in the systemd unit's sandbox; a file from the future means that the clock has been turned back since."""
    told = tmp_path / "synchronized"
    monkeypatch.setattr(clock, "_kernel_says_synced", lambda: None)
    monkeypatch.setattr(clock, "_TIMESYNCD_FILE", told)
    assert Clock().state() == "unsynced"
    told.touch()
    os.utime(told, (time.time() - age_s,) * 2)
    assert Clock().state() == state
