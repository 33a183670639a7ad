"""The log: one way for structlog, standard logging and warnings; secrets hidden."""

import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.logs import configure_logs

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is global: put back what pytest had."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    threading.excepthook = hook
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def json_log(level: Any = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(level, "json", stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_time_level_event_and_fields():
    stream = json_log()
    log.warning("capture.lost", name="front-door", tries=3)
    (entry,) = entries(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {"level": "warning", "event": "capture.lost", "name": "front-door", "tries": 3}


def test_text_stays_readable_and_line_breaks_stay_inside_the_line():
    stream = json_log()
    log.info("x.said", text="Tür\nauf")
    assert "Tür\\nauf" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_values_json_does_not_know_are_shown_as_python_shows_them():
    stream = json_log()
    log.info("x.said", path=Path("/tmp"), data=b"\x00", many=(1, None))
    assert entries(stream)[0]["path"] == f"{Path('/tmp')!r}"
    assert entries(stream)[0]["data"] == "b'\\x00'"
    assert entries(stream)[0]["many"] == [1, None]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"]), ("error", ["e"])],
)
def test_less_important_events_are_left_out(level: str, expected: list[str]):
    stream = json_log(level)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert expected == [entry["event"] for entry in entries(stream)]


def test_standard_logging_goes_the_same_way():
    stream = json_log()
    logging.getLogger("libfoo").warning("%s is odd", "it")
    logging.getLogger("libfoo").debug("not shown")
    (entry,) = entries(stream)
    assert (entry["event"], entry["level"], entry["logger"]) == ("it is odd", "warning", "libfoo")


def test_warnings_go_the_same_way():
    stream = json_log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    (entry,) = entries(stream)
    assert "careful" in entry["event"]
    assert entry["logger"] == "py.warnings"


def test_an_exception_in_any_thread_is_logged_with_its_traceback():
    stream = json_log()
    thread = threading.Thread(target=lambda: 1 / 0, name="library")
    thread.start()
    thread.join(10)
    (entry,) = entries(stream)
    assert (entry["event"], entry["level"], entry["thread"]) == ("thread.failed", "error", "library")
    assert "ZeroDivisionError" in entry["exception"]


def test_a_thread_that_exits_on_purpose_is_not_an_error():
    stream = json_log()
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join(10)
    assert entries(stream) == []


@pytest.mark.parametrize("key", ["password", "mqtt_password", "api_token", "SECRET", "Authorization", "private_key"])
def test_values_of_secret_keys_are_hidden(key: str):
    stream = json_log()
    log.info("x.said", **{key: "hunter2", "deep": {key: "hunter2"}, "list": [{key: "hunter2"}]})
    assert "hunter2" not in stream.getvalue()
    assert entries(stream)[0][key] == "***"


def test_names_of_files_and_absent_secrets_are_not_hidden():
    stream = json_log()
    log.info("x.said", password_file="/etc/pw", password=None)
    assert entries(stream)[0]["password_file"] == "/etc/pw"
    assert entries(stream)[0]["password"] is None


@pytest.mark.parametrize("output", ["json", "console"])
def test_passwords_in_urls_are_hidden_wherever_they_stand(output: Any):
    stream = io.StringIO()
    configure_logs("info", output, stream)
    url = "rtsp://admin:hunter2@pa:ss@cam-1:554/live"
    log.info(f"opening {url}", url=url, error=OSError(url), many=[url])
    logging.getLogger("av").error("cannot open %s", url)
    try:
        raise RuntimeError(url)  # noqa: TRY301
    except RuntimeError:
        log.exception("x.failed")
    thread = threading.Thread(target=lambda: [][url])  # type: ignore[call-overload]
    thread.start()
    thread.join(10)
    assert "hunter2" not in stream.getvalue()
    assert "pa:ss" not in stream.getvalue()
    assert stream.getvalue().count("rtsp://admin:***@cam-1:554/live") >= 6


def test_auto_is_json_off_a_terminal():
    stream = io.StringIO()
    configure_logs("info", "auto", stream)
    log.info("x.said")
    assert entries(stream)[0]["event"] == "x.said"


def test_auto_on_a_terminal_is_console_with_colours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    configure_logs("info", "auto", stream)
    log.info("x.said", answer=42)
    assert "x.said" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize(("stream", "no_color"), [(io.StringIO(), ""), (Terminal(), "1")])
def test_no_colours_off_a_terminal_or_when_they_are_not_wanted(
    stream: io.StringIO, no_color: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NO_COLOR", no_color)
    configure_logs("info", "console", stream)
    log.warning("x.said", answer=42)
    assert "\x1b[" not in stream.getvalue()
    assert re.search(r"\[warning +\] x\.said +answer=42", stream.getvalue())


def test_what_a_stranger_chose_does_not_command_the_terminal():
    stream = io.StringIO()
    configure_logs("info", "console", stream)
    log.warning("x.said", topic="a\x1b[2Jb\x9b1mc\nd")
    assert "a\\x1b[2Jb\\x9b1mc\\nd" in stream.getvalue()
    assert not {"\x1b", "\x9b"} & set(stream.getvalue())


def test_console_shows_tracebacks():
    stream = io.StringIO()
    configure_logs("info", "console", stream)
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("x.failed")
    assert "ZeroDivisionError: division by zero" in stream.getvalue()


def test_to_the_journal_each_line_begins_with_its_priority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure_logs("debug", "auto", stream)
        log.debug("d")
        log.error("e")
        logging.getLogger("x").critical("c")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<3>", "<2>"]
    assert json.loads(lines[1][3:])["event"] == "e"


def test_configuring_again_replaces_the_handler():
    first = json_log()
    second = json_log()
    log.info("x.said")
    assert (entries(first), len(entries(second))) == ([], 1)


def test_a_log_that_cannot_be_written_does_not_raise(capsys: pytest.CaptureFixture[str]):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    configure_logs("info", "json", Full())
    log.info("x.said")
    assert "No space left" in capsys.readouterr().err
