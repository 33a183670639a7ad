"""Programs as sources: real ones, that end, hang, talk too much, will not die, and have children of their own."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.capture import chatter
from agent.capture import child as child_module
from agent.capture.child import MAX_LEFT_BEHIND, TERM_S, Child
from agent.errors import SourceError
from tests.sim import wait_until
from tests.sim.processes import children_of, is_running

OPEN_FILES = Path("/proc/self/fd")
SPARE_S = 5.0
"""What a loaded machine may take for what is nearly instant."""


@pytest.fixture(autouse=True)
def _own_budgets():
    """What other tests had logged does not count."""
    chatter._budget_of.cache_clear()


def shell(script: str) -> Child:
    return Child(["/bin/sh", "-c", script], "test program")


def opened(script: str) -> closing[Child]:
    child = shell(script)
    child.open()
    return closing(child)


def read_pid(child: Child) -> int:
    """A process id that the program prints as its first line."""
    text = b""
    while not text.endswith(b"\n"):
        text += child.read(100, SPARE_S)
    return int(text)


def test_output_comes_as_it_is_written_and_no_more_at_once_than_asked_for():
    with opened("printf abcdef; exec sleep 60") as child:
        assert child.read(4, SPARE_S) == b"abcd"
        assert child.read(4, SPARE_S) == b"ef"


def test_standard_input_is_empty():
    with opened("cat; echo end; exec sleep 60") as child:
        assert child.read(100, SPARE_S) == b"end\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "test program: sh ended with exit status 3"),
        ("exit 0", "test program: sh ended with exit status 0"),
        ("kill -KILL $$", "test program: sh was killed by SIGKILL"),
        ("kill -40 $$", "test program: sh was killed by signal 40"),
        ("echo no camera >&2; exit 1", "test program: sh ended with exit status 1: no camera"),
        ("echo one >&2; echo two >&2; exit 1", "test program: sh ended with exit status 1: two"),
        ("printf 'no end of line' >&2; exit 1", "test program: sh ended with exit status 1: no end of line"),
        ("exec >&-; sleep 0.1; echo late >&2; exit 1", "test program: sh ended with exit status 1: late"),
    ],
)
def test_the_end_is_told_with_its_kind_and_the_last_line_of_standard_error(script, message):
    with opened(script) as child, pytest.raises(SourceError) as caught:
        child.read(100, SPARE_S)
    assert str(caught.value) == message


def test_after_the_end_every_read_tells_the_same():
    with opened("echo no camera >&2; exit 1") as child:
        for _ in range(2):
            with pytest.raises(SourceError, match=r"^test program: sh ended with exit status 1: no camera$"):
                child.read(100, SPARE_S)


def test_a_program_that_closes_its_output_and_stays_is_told():
    closed = pytest.raises(SourceError, match=r"^test program: sh closed its output$")
    with opened("exec >&- 2>&-; sleep 60") as child, closed:
        child.read(100, SPARE_S)


def test_what_was_written_before_the_end_is_not_lost():
    with opened("printf last; exit 1") as child:
        assert child.read(100, SPARE_S) == b"last"
        with pytest.raises(SourceError, match="exit status 1"):
            child.read(100, SPARE_S)


def test_a_killed_program_is_noticed_at_once():
    with opened("echo $$; exec sleep 60") as child:
        os.kill(read_pid(child), signal.SIGKILL)
        began_s = time.monotonic()
        with pytest.raises(SourceError, match="killed by SIGKILL"):
            child.read(100, 60.0)
        assert time.monotonic() - began_s < SPARE_S


def test_the_end_is_noticed_although_something_else_holds_the_output_open():
    with opened("sleep 60 & exit 4") as child, pytest.raises(SourceError, match="exit status 4"):
        child.read(100, 60.0)


def test_a_silent_program_is_told_after_the_timeout_with_what_it_said():
    with opened("echo waiting for a lens >&2; exec sleep 60") as child:
        with pytest.raises(SourceError) as caught:
            child.read(100, 0.5)
        assert str(caught.value) == "test program: no data for 0.5 s: waiting for a lens"


def test_interrupt_brings_back_a_read_in_another_thread():
    with opened("exec sleep 60") as child:
        threading.Timer(0.05, child.interrupt).start()
        with pytest.raises(SourceError, match=r"^test program: closed$"):
            child.read(100, 60.0)
        with pytest.raises(SourceError, match=r"^test program: closed$"):
            child.read(100, 60.0)


def test_a_missing_program_is_named_with_the_package_that_brings_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match=r"^CSI: rpicam-vid: not installed; `apt install rpicam-apps`$"):
        Child(["rpicam-vid", "-t", "0"], "CSI").open()
    with pytest.raises(SourceError, match=r"^x: no-such: not installed; install it, or give its whole path$"):
        Child(["no-such"], "x").open()


def test_a_file_that_is_no_program_is_told(tmp_path):
    path = tmp_path / "camera"
    path.write_text("not a program")
    with pytest.raises(SourceError, match=rf"^x: {path}: is not a program that may be run; `chmod \+x`"):
        Child([str(path)], "x").open()
    path.chmod(0o755)
    before = children_of(os.getpid())
    with pytest.raises(SourceError, match=rf"^x: {path} can't be started: Exec format error$"):
        Child([str(path)], "x").open()
    assert children_of(os.getpid()) == before


def test_closing_asks_first():
    with opened("trap 'exit 0' TERM; echo; while :; do sleep 0.01; done") as child:
        child.read(100, SPARE_S)
        process = child._process
        child.close()
        assert process.returncode == 0


def test_closing_kills_what_will_not_end_in_time():
    with opened("trap '' TERM; echo $$; while :; do sleep 0.05; done") as child:
        pid = read_pid(child)
        began_s = time.monotonic()
        child.close()
        assert TERM_S <= time.monotonic() - began_s < TERM_S + SPARE_S
        assert not is_running(pid)


@pytest.mark.parametrize(
    "script", ["echo $$; kill -STOP $$", "echo $$; exec cat /dev/zero"], ids=["stopped", "blocked"]
)
def test_closing_ends_a_program_that_is_stopped_or_waits_for_room_in_the_pipe_without_killing_it(script):
    with opened(script) as child:
        child.read(10, SPARE_S)
        process = child._process
        wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "TSD")
        child.close()
        assert process.returncode in (-signal.SIGTERM, -signal.SIGPIPE)


def test_closing_also_ends_what_the_program_has_started():
    with opened("sleep 60 & echo $!; wait") as child:
        pid = read_pid(child)
        assert is_running(pid)
        child.close()
        wait_until(lambda: not is_running(pid))


def test_closing_also_ends_what_a_program_that_is_gone_has_left_behind():
    with opened("(trap '' TERM HUP; sleep 60 & echo $!; wait) & sleep 0.1; exit 0") as child:
        pid = read_pid(child)
        with pytest.raises(SourceError, match="exit status 0"):
            child.read(100, 60.0)
        child.close()
        wait_until(lambda: not is_running(pid))


def test_closing_again_or_without_an_open_does_nothing():
    child = shell("exec sleep 60")
    child.close()
    child = shell("exec sleep 60")
    child.open()
    child.close()
    child.close()


def test_twenty_runs_leave_no_descriptor_and_no_process_behind():
    files, processes = len(list(OPEN_FILES.iterdir())), children_of(os.getpid())
    for _ in range(20):
        with opened("echo; sleep 60 & wait") as child:
            child.read(10, SPARE_S)
    assert len(list(OPEN_FILES.iterdir())) == files
    assert children_of(os.getpid()) == processes


def test_too_many_killed_programs_that_stay_keep_further_ones_from_being_started(monkeypatch):
    """They stand for programs that a driver holds in the kernel, which no test can make."""
    staying = [subprocess.Popen(["sleep", "60"]) for _ in range(MAX_LEFT_BEHIND)]
    monkeypatch.setattr(child_module, "_left_behind", list(staying))
    with pytest.raises(SourceError, match="test program: 3 killed programs hang in the kernel; restart the device"):
        shell("exit 0").open()
    for process in staying:
        process.kill()
    wait_until(lambda: not any(is_running(process.pid) for process in staying))
    with opened("exit 0"):
        assert child_module._left_behind == []


DAEMON = """
import sys, threading
from agent.capture.child import Child
child = Child(["/bin/sh", "-c", "trap '' TERM HUP PIPE; sleep 60 & echo $$ $!; wait"], "x")
thread = threading.Thread(target=child.open)
thread.start()
thread.join()                              # the program outlives the thread that started it
print(child.read(100, 10.0).decode(), flush=True)
sys.stdin.read()
"""


def test_the_program_and_its_children_outlive_a_thread_but_not_the_daemon_however_it_ends():
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with daemon:
        pids = [int(word) for word in daemon.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
        daemon.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids))


def said(logs):
    return [entry["line"] for entry in logs if entry["event"] == "capture.child_said"]


def test_standard_error_goes_to_the_log_line_by_line():
    with capture_logs() as logs, opened("echo one >&2; echo two >&2; exit 1") as child, pytest.raises(SourceError):
        child.read(100, SPARE_S)
    assert said(logs) == ["one", "two"]
    assert {entry["source"] for entry in logs} == {"test program"}


def test_a_flood_on_standard_error_neither_fills_the_log_nor_stops_the_output():
    script = (
        "(while :; do echo flood flood flood; done) >&2 & for n in 1 2 3; do echo $n; sleep 0.1; done; exec sleep 60"
    )
    with capture_logs() as logs, opened(script) as child:
        assert [child.read(100, SPARE_S) for _ in range(3)] == [b"1\n", b"2\n", b"3\n"]
    assert len(said(logs)) <= 25


def test_the_budget_holds_over_restarts():
    with capture_logs() as logs:
        for _ in range(5):
            with opened("for n in 1 2 3 4 5 6 7 8; do echo $n >&2; done; exit 1") as child, pytest.raises(SourceError):
                child.read(100, SPARE_S)
    assert 20 <= len(said(logs)) <= 25


def test_what_a_program_says_of_being_ended_is_not_logged():
    with capture_logs() as logs, opened("trap 'echo bye >&2; exit' TERM; echo; while :; do sleep 0.01; done") as child:
        child.read(10, SPARE_S)
        child.close()
    assert said(logs) == []
