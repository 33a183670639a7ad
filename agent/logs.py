"""The log on standard error: lines for people on a terminal, JSON lines for the journal and for programs.

Everything goes one way: structlog and the standard library's logging (and through it `warnings`) meet in one handler
with the same processors. A log that can't be written never ends the daemon.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agent.runtime.clock import rfc3339

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

_SECRET_KEY = re.compile(
    r"(password|passwd|passphrase|secret|token|credential|authorization|private_key)", re.IGNORECASE
)
_USER_INFO = re.compile(r"(://[^/\s:@]*):[^/\s]*@")
_HIDDEN = "***"

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3); sd-daemon(3) reads them from `<N>` at the start of a line."""


def configure_logs(level: Level, log_format: Format, stream: TextIO | None = None) -> None:
    """Set up all logging of this process; may be called again.

    Args:
        level: less important events are left out.
        log_format: `auto` is console on a terminal and JSON elsewhere.
        stream: standard error by default.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _add_logger_of_others],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(stream) if console else _json_lines(stream)),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_exception
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a module's logger follows a later configuration
    )


def _console(stream: TextIO) -> list[Processor]:
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    return [
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False, key="timestamp"),
        structlog.processors.format_exc_info,
        hide_secrets,
        _make_printable,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _json_lines(stream: TextIO) -> list[Processor]:
    lines: list[Processor] = [_add_time, structlog.processors.format_exc_info, hide_secrets, _render_json]
    return [*lines[:-1], _render_json_with_priority] if _is_journal(stream) else lines


def _add_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        "time": rfc3339(time.time_ns()),
        "level": event.pop("level", "info"),
        "event": event.pop("event", ""),
        **event,
    }


def _add_logger_of_others(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the library that an event of standard logging comes from."""
    event["logger"] = event["_record"].name
    return event


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank the values of keys that name a secret (not names of files), and passwords in URLs wherever they stand."""
    return {key: _hidden(key, value) for key, value in event.items()}


def _hidden(key: object, value: Any) -> Any:
    if value is not None and isinstance(key, str) and _SECRET_KEY.search(key) and not key.endswith("_file"):
        return _HIDDEN
    if isinstance(value, str):
        return _USER_INFO.sub(rf"\1:{_HIDDEN}@", value) if "@" in value else value
    if isinstance(value, dict):
        return {inner: _hidden(inner, part) for inner, part in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(None, part) for part in value]
    if isinstance(value, int | float | None):
        return value
    return _hidden(None, repr(value) if not isinstance(value, BaseException) else str(value))


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Control characters, as in a topic that a stranger chose, would command the terminal."""
    return {key: value if key == "exception" else _printable(value) for key, value in event.items()}


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return json.dumps(event, default=repr, ensure_ascii=False, separators=(",", ":"))


def _render_json_with_priority(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return f"<{_PRIORITY.get(event['level'], 6)}>{_render_json(logger, method, event)}"


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream goes to systemd's journal, which takes a priority at the start of a line (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    """A thread of a library died; ours have the supervisor."""
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    structlog.get_logger().error("thread.failed", thread=args.thread and args.thread.name, exc_info=args.exc_value)
