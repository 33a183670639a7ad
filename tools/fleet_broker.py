"""The broker that a simulated fleet runs against: one of its own, or the one of --broker."""

import argparse
import contextlib
import resource
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.config import Mqtt, Tls
from agent.wire.topics import Topics
from tools.operator_link import OperatorLink
from tools.operator_login import Login, OperatorError, UsageError, read_login

COMMAND_S = 120.0
SPARE_FILES = 200


@dataclass(frozen=True)
class Target:
    """Where it is, and how it goes away."""

    login: Login
    mqtt: Mqtt
    """For the devices."""
    restart: Callable[[], None] | None
    """Takes it away, and comes back when it listens."""
    is_own: bool


@contextlib.contextmanager
def own_broker(args: argparse.Namespace) -> Iterator[Target]:
    """A mosquitto for this run, on the loopback; `restart` kills it.

    Raises:
        OperatorError: it is not installed, or may not open enough files.
    """
    if not shutil.which("mosquitto") and not shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin"):
        raise OperatorError("--own-broker needs mosquitto: apt-get install --no-install-recommends mosquitto")
    try:
        from tests.sim.broker import Broker  # noqa: PLC0415 - it needs what the tests need
    except ImportError as exc:
        raise OperatorError(f"--own-broker needs {exc.name}: pip install 'edge-agent[test]'") from exc
    _allow_files(args.devices + SPARE_FILES)
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:

        def restart() -> None:
            broker.kill()
            time.sleep(args.down)
            broker.start()

        login = Login(broker.host, broker.port, None, None, None)
        yield Target(login, Mqtt(host=broker.host, port=broker.port, prefix=args.prefix), restart, is_own=True)


def _allow_files(count: int) -> None:
    """For the broker, which inherits it: a file for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise OperatorError(f"--devices: the broker needs {count} open files, the limit is {hard}; see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def given_broker(args: argparse.Namespace) -> Iterator[Target]:
    """The broker of --broker; what the devices left there is taken away in the end.

    Raises:
        UsageError: an option is wrong.
        OperatorError: what was left can't be taken away.
    """
    login = read_login(args)
    if login.password and not args.password_file:
        raise UsageError("--password-file: expected, as the devices read their password from it")
    files = [str(path) if path else None for path in (args.ca_file, args.cert_file, args.key_file)]
    tls = Tls(enabled=login.tls is not None, ca_file=files[0], cert_file=files[1], key_file=files[2])
    mqtt = Mqtt(
        host=login.host,
        port=login.port,
        prefix=args.prefix,
        username=login.username,
        password_file=str(args.password_file) if args.password_file else None,
        tls=tls,
    )
    restart = args.restart_command
    yield Target(login, mqtt, (lambda: _run(restart, login)) if restart else None, is_own=False)


def _run(command: str, login: Login) -> None:
    deadline_s = time.monotonic() + COMMAND_S
    try:
        subprocess.run(shlex.split(command), check=True, timeout=COMMAND_S)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise OperatorError(f"--restart-command: {exc}") from exc
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((login.host, login.port), timeout=1).close()
            return
        if time.monotonic() > deadline_s:
            raise OperatorError(f"--restart-command: {login.where} does not listen after it")
        time.sleep(0.02)


def tidy_up(link: OperatorLink, login: Login, prefix: str, devices: Sequence[str]) -> None:
    """Take away what devices left on a broker: their status, and the sessions that it keeps for them.

    Raises:
        OperatorError: the broker refuses it, or is away for too long.
    """
    for device in devices:
        _end_session(login, device)
        link.publish_retained(Topics(prefix, device).status(), b"")
    link.confirm()


def _end_session(login: Login, device: str) -> None:
    client = Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=MQTTProtocolVersion.MQTTv5)
    client.username_pw_set(login.username, login.password)
    if login.tls is not None:
        client.tls_set_context(login.tls)
    with contextlib.suppress(OSError):  # then it ends by itself, in a week
        client.connect(login.host, login.port, clean_start=True)  # without an expiry: it ends with the connection
        client.loop(1.0)
        client.disconnect()
