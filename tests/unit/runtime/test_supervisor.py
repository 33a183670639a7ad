"""Threads that live and die together."""

import os
import signal
import threading
import time

import pytest

from agent.errors import ConfigError
from agent.runtime.supervisor import Ending, Supervisor

DEADLINE_S = 10.0


def wait_for_stop(stop: threading.Event) -> None:
    assert stop.wait(DEADLINE_S)


def supervisor() -> tuple[Supervisor, threading.Event]:
    stop = threading.Event()
    return Supervisor(stop), stop


def test_the_first_thread_to_end_stops_the_others():
    group, stop = supervisor()
    ended: list[str] = []

    def stays(stop: threading.Event) -> None:
        wait_for_stop(stop)
        ended.append("stays")

    group.add("stays", stays)
    group.add("ends", lambda _stop: None)
    assert Ending(by="ends", error=None, zombies=[]) == group.run()
    assert stop.is_set()
    assert ended == ["stays"]


def test_an_error_ends_all_and_is_handed_back():
    group, _ = supervisor()
    error = ConfigError("config.yaml: no")

    def fails(_stop: threading.Event) -> None:
        raise error

    group.add("stays", wait_for_stop)
    group.add("fails", fails)
    assert Ending(by="fails", error=error, zombies=[]) == group.run()


def test_an_exception_nobody_expected_is_handed_back_as_well():
    group, _ = supervisor()

    def fails(_stop: threading.Event) -> None:
        raise SystemExit(7)

    group.add("fails", fails)
    ending = group.run()
    assert isinstance(ending.error, SystemExit)


def test_a_thread_that_may_end_does_not_end_the_rest():
    group, stop = supervisor()
    first_ended = threading.Event()

    def second(stop: threading.Event) -> None:
        assert first_ended.wait(DEADLINE_S)
        assert not stop.wait(0.05)

    group.add("first", lambda _stop: first_ended.set(), may_end=True)
    group.add("second", second)
    assert group.run().by == "second"
    assert stop.is_set()


def test_a_thread_that_may_end_still_ends_all_with_an_error():
    group, _ = supervisor()

    def fails(_stop: threading.Event) -> None:
        raise OSError("away")

    group.add("fails", fails, may_end=True)
    group.add("stays", wait_for_stop)
    assert group.run().by == "fails"


def test_run_ends_when_all_have_ended():
    group, _ = supervisor()
    group.add("one", lambda _stop: None, may_end=True)
    group.add("two", lambda _stop: None, may_end=True)
    assert Ending(by=None, error=None, zombies=[]) == group.run()


def test_run_without_threads_ends_at_once():
    group, stop = supervisor()
    assert Ending(by=None, error=None, zombies=[]) == group.run()
    assert stop.is_set()


@pytest.mark.parametrize("before", [True, False])
def test_setting_the_stop_event_ends_the_run(before: bool):
    """Also when it was set before the run: an early stop is not lost."""
    group, stop = supervisor()
    group.add("stays", wait_for_stop)
    if before:
        stop.set()
    else:
        group.add("stopper", lambda stop: stop.set(), may_end=True)
    assert Ending(by=None, error=None, zombies=[]) == group.run()


def test_request_stop_ends_the_run():
    group, stop = supervisor()
    group.add("stays", wait_for_stop)
    group.add("asks", lambda _stop: group.request_stop(), may_end=True)
    assert Ending(by=None, error=None, zombies=[]) == group.run()
    assert stop.is_set()


def test_request_stop_works_in_a_signal_handler():
    group, _ = supervisor()
    before = signal.signal(signal.SIGUSR1, lambda *_: group.request_stop())
    try:
        group.add("stays", wait_for_stop)
        group.add("kills", lambda _stop: os.kill(os.getpid(), signal.SIGUSR1), may_end=True)
        assert Ending(by=None, error=None, zombies=[]) == group.run()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_error_while_stopping_is_not_lost():
    group, _ = supervisor()

    def fails_late(stop: threading.Event) -> None:
        wait_for_stop(stop)
        raise OSError("could not flush")

    group.add("late", fails_late)
    group.add("ends", lambda _stop: None)
    ending = group.run()
    assert ending.by == "ends"
    assert isinstance(ending.error, OSError)


def test_a_thread_that_stays_is_named_and_not_waited_for():
    group, _ = supervisor()
    release = threading.Event()
    group.add("stuck-1", lambda _stop: release.wait(DEADLINE_S) and None)
    group.add("stuck-2", lambda _stop: release.wait(DEADLINE_S) and None)
    group.add("ends", lambda _stop: None)
    began = time.monotonic()
    ending = group.run(join_s=0.1)
    assert ending.zombies == ["stuck-1", "stuck-2"]
    assert time.monotonic() - began < DEADLINE_S
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("stuck-"):
            thread.join(DEADLINE_S)


def test_threads_carry_their_names():
    group, _ = supervisor()
    names: list[str] = []
    group.add("capture front-door", lambda _stop: names.append(threading.current_thread().name))
    group.run()
    assert names == ["capture front-door"]


def test_tick_is_called_again_and_again_in_the_calling_thread():
    group, stop = supervisor()
    callers: list[threading.Thread] = []

    def tick() -> None:
        callers.append(threading.current_thread())
        if len(callers) == 3:
            stop.set()

    group.add("stays", wait_for_stop)
    group.run(tick, tick_s=0.01)
    assert [threading.current_thread()] * 3 == callers


def test_what_tick_raises_comes_out_after_the_threads_have_ended():
    group, _ = supervisor()
    ended = threading.Event()

    def stays(stop: threading.Event) -> None:
        wait_for_stop(stop)
        ended.set()

    def tick() -> None:
        raise KeyError("tick")

    group.add("stays", stays)
    with pytest.raises(KeyError, match="tick"):
        group.run(tick)
    assert ended.is_set()
