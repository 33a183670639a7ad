"""`edge-agent run`: the daemon."""

import argparse
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from agent.cli.common import read_config
from agent.inference.worker import warm_up


def main(args: argparse.Namespace) -> int:
    """Run until told to stop; a `restart` command starts the same program anew in this process."""
    for number in (signal.SIGTERM, signal.SIGINT):  # until the daemon runs, and answers them itself
        signal.signal(number, _stop_at_once)
    config = read_config(args)
    _bury_the_dead()
    warm_up()  # the workers' server imports its libraries while we import ours
    from agent.daemon import Daemon
    from agent.logs import configure_logs

    sys.setswitchinterval(1e-4)  # a busy thread gives the interpreter up 50 times sooner than by default
    configure_logs(config.log.level, config.log.format)
    daemon = Daemon(config)
    daemon.run()
    if daemon.restart_wanted:
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, as we were started
    return 0


def _bury_the_dead() -> None:
    """After a `restart` the server of the workers before, and its helper, are still our children: they have ended, and
    each takes a process id until somebody asks how."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _stop_at_once(_number: int, _: FrameType | None) -> NoReturn:
    """Stopped as asked, before there was anything to stop in order."""
    raise SystemExit(0)
