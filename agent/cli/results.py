"""`edge-agent results`: what the device still keeps of what its models said, sent or not. The daemon may run."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.cli.common import choose_pipeline, read_config
from agent.config import device_id
from agent.errors import OutboxError
from agent.outbox.sent import read_folder
from agent.wire.messages import Result
from agent.wire.topics import Topics


def main(args: argparse.Namespace) -> int:
    """0 also when there are none."""
    config = read_config(args)
    folder = Path(config.outbox.dir)
    topics = Topics(config.mqtt.prefix, device_id(config))
    wanted = (
        topics.results("") if args.pipeline is None else topics.results(choose_pipeline(config, args.pipeline).name)
    )
    found = _read(folder, wanted, args.pipeline is not None, time.time() - args.since)
    try:
        count = _print_json(found) if args.json else _print_lines(found)
    except BrokenPipeError:  # `edge-agent results | head`
        raise
    except OSError as exc:
        mend = "run as the agent's user or as root" if isinstance(exc, PermissionError) else "see outbox.dir"
        raise OutboxError(f"outbox.dir: {folder}: {(exc.strerror or str(exc)).lower()}; {mend}") from exc
    if not count and not config.outbox.keep_sent:
        print("edge-agent: none wait for the broker; outbox.keep_sent keeps those that were sent", file=sys.stderr)
    return 0


def _read(folder: Path, topic: str, exact: bool, since_unix_s: float) -> Iterator[bytes]:
    """Payloads of results in the order they were made. A clock that was wrong puts them at a wrong time."""
    for record in read_folder(folder):
        if record.accepted_unix_s >= since_unix_s:
            message = record.message()
            if message.topic == topic if exact else message.topic.startswith(topic):
                yield message.payload


def _print_json(payloads: Iterator[bytes]) -> int:
    """One document, written as it is read: there may be a lot."""
    count = 0
    print('{"results":[', end="")
    for count, payload in enumerate(payloads, start=1):
        print("," * (count > 1) + payload.decode(), end="")
    print("]}")
    return count


def _print_lines(payloads: Iterator[bytes]) -> int:
    count = 0
    for count, payload in enumerate(payloads, start=1):  # noqa: B007 - wanted afterwards
        print(_describe(msgspec.json.decode(payload, type=Result)))
    return count


def _describe(result: Result) -> str:
    """A line for people."""
    found = [*(result.detections or ()), *(result.classes or ())]
    what = [f"{one.label} {one.confidence:.2f}" for one in found]
    what += [f"{segment.label} {segment.share:.0%}" for segment in result.segments or ()]
    what += [f"{value:g}" for value in result.values or ()]
    if result.anomaly:
        what.append(f"{'anomaly' if result.anomaly.is_anomaly else 'as usual'} {result.anomaly.score:g}")
    return f"{result.captured_at}  {result.pipeline}  {', '.join(what) or '-'}"
