"""What is not well, and that the log hears of it once."""

import threading
import time

from structlog.testing import capture_logs

from agent.runtime.clock import rfc3339
from agent.runtime.health import MAX_LAST_ERRORS, Health


def test_a_new_register_is_well():
    health = Health()
    assert health.reasons() == []
    assert health.last_errors() == []
    assert not health.is_lost("broker")


def test_reasons_name_part_and_reason_the_longest_lost_first():
    health = Health()
    health.lost("capture.front-door", "no such device")
    health.lost("broker", "connection refused")
    assert health.reasons() == ["capture.front-door: no such device", "broker: connection refused"]


def test_a_new_reason_replaces_the_old_in_its_place():
    health = Health()
    health.lost("broker", "connection refused")
    health.lost("disk", "full")
    health.lost("broker", "not authorised")
    assert health.reasons() == ["broker: not authorised", "disk: full"]


def test_recovered_takes_the_reason_away():
    health = Health()
    health.lost("broker", "connection refused")
    assert health.is_lost("broker")
    health.recovered("broker")
    assert health.reasons() == []
    assert not health.is_lost("broker")


def test_the_log_hears_once_of_the_loss_and_once_of_the_return():
    health = Health()
    with capture_logs() as logs:
        for _ in range(3):
            health.lost("capture.front-door", "no such device")
        for _ in range(3):
            health.recovered("capture.front-door")
    assert logs[0] == {
        "event": "capture.lost",
        "log_level": "warning",
        "name": "front-door",
        "reason": "no such device",
    }
    assert {**logs[1], "after_s": 0.0} == {
        "event": "capture.recovered",
        "log_level": "info",
        "name": "front-door",
        "after_s": 0.0,
    }
    assert len(logs) == 2


def test_another_reason_for_the_same_loss_is_only_debug():
    health = Health()
    with capture_logs() as logs:
        health.lost("broker", "connection refused")
        health.lost("broker", "timed out")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("broker.lost", "warning"),
        ("broker.still_lost", "debug"),
    ]
    assert "name" not in logs[0]


def test_recovering_what_was_never_lost_is_silent():
    changes: list[None] = []
    health = Health(lambda: changes.append(None))
    with capture_logs() as logs:
        health.recovered("broker")
    assert (logs, changes) == ([], [])


def test_on_change_follows_every_change_of_the_reasons_and_sees_it():
    seen: list[list[str]] = []
    health = Health(lambda: seen.append(health.reasons()))
    health.lost("broker", "refused")
    health.lost("broker", "refused")
    health.lost("broker", "timed out")
    health.recovered("broker")
    health.recovered("broker")
    assert seen == [["broker: refused"], ["broker: timed out"], []]


def test_last_errors_keep_the_newest_with_their_times():
    health = Health()
    began = rfc3339(time.time_ns())
    for number in range(MAX_LAST_ERRORS + 5):
        health.lost("broker", f"error {number}")
    errors = health.last_errors()
    assert [error.reason for error in errors] == [f"error {number}" for number in range(5, MAX_LAST_ERRORS + 5)]
    assert {error.part for error in errors} == {"broker"}
    assert began <= errors[0].time <= errors[-1].time <= rfc3339(time.time_ns())


def test_last_errors_outlive_the_recovery():
    health = Health()
    health.lost("broker", "refused")
    health.recovered("broker")
    assert [error.reason for error in health.last_errors()] == ["refused"]


def test_many_threads_may_report_at_once():
    health = Health()

    def report(part: str) -> None:
        for number in range(200):
            health.lost(part, str(number % 2))
            health.recovered(part)

    threads = [threading.Thread(target=report, args=(f"part{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert health.reasons() == []
    assert len(health.last_errors()) == MAX_LAST_ERRORS


def test_what_is_told_last_is_how_it_is():
    """Two threads bring news at once: the one that looked first must not tell last."""
    told: list[list[str]] = []
    first_looked, second_told = threading.Event(), threading.Event()

    def tell() -> None:
        reasons = health.reasons()
        if threading.current_thread().name == "first":
            first_looked.set()
            second_told.wait(0.5)  # in vain where the second has to wait for the first
        told.append(reasons)
        second_told.set()

    health = Health(tell)
    health.lost("a", "away")
    second_told.clear()
    first = threading.Thread(target=health.lost, args=("b", "away"), name="first")
    first.start()
    assert first_looked.wait(10)
    health.recovered("a")
    first.join(10)
    assert told[-1] == health.reasons() == ["b: away"]
