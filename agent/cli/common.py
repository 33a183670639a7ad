"""What several commands need."""

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from agent.config import Config, Pipeline, load_config
from agent.errors import ConfigError

_BAR = 24
"""Characters of a progress bar."""

DEFAULT_CONFIGS = (Path("config.yaml"), Path("/etc/edge-agent/config.yaml"))


def read_config(args: argparse.Namespace) -> Config:
    """The configuration that was named, or the first of the defaults that is there.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    from agent.logs import configure_logs

    configure_logs("warning", "auto")  # to stderr; `run` sets its own
    if args.config is not None:
        return load_config(Path(args.config))
    path = next((path for path in DEFAULT_CONFIGS if path.exists()), None)
    if path is None:
        looked = " nor ".join(map(str, DEFAULT_CONFIGS))
        raise ConfigError(f"no configuration: neither {looked} is there; name one with --config FILE")
    return load_config(path)


def choose_pipeline(config: Config, name: str | None) -> Pipeline:
    """The pipeline of that name, or the first.

    Raises:
        ConfigError: there is no such pipeline.
    """
    if name is None:
        return config.pipelines[0]
    for pipeline in config.pipelines:
        if pipeline.name == name:
            return pipeline
    have = ", ".join(pipeline.name for pipeline in config.pipelines)
    raise ConfigError(f"--pipeline {name}: expected one of {have}")


@contextlib.contextmanager
def running(command: list[str], *, quiet: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """A program beside this one, that is asked to end at the end. It has a session of its own: Ctrl-C is ours, and we
    end it in order."""
    out = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def running_daemon(config_file: Path, *, quiet: bool = False) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """`edge-agent run` as a program of its own, with the interpreter that runs this."""
    return running([sys.executable, "-m", "agent", "run", "--config", str(config_file)], quiet=quiet)


class ProgressLine:
    """A line on stderr that counts up and tells the rate, with a bar where the end is known; silent when stderr is no
    terminal."""

    def __init__(self, unit: str, total: int | None = None) -> None:
        self.count = 0
        self._unit, self._total = unit, total
        self._show = sys.stderr.isatty()
        self._started_s = self._shown_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._show:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def add(self) -> None:
        """One more is done."""
        self.count += 1
        now_s = time.monotonic()
        if self._show and now_s - self._shown_s > 0.1:
            self._shown_s = now_s
            rate = self.count / (now_s - self._started_s)
            text = f"{self.count} {self._unit}, {rate:.0f}/s"
            if self._total:
                bar = "#" * (self.count * _BAR // self._total)
                left_s = (self._total - self.count) / rate
                text = f"[{bar:.<{_BAR}}] {self.count}/{self._total} {self._unit}, {rate:.0f}/s, {left_s:.0f} s left"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
