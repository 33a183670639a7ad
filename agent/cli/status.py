"""`edge-agent status`: what the daemon on this host says of itself."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agent.cli.common import read_config
from agent.runtime.local import ask


def main(args: argparse.Namespace) -> int:
    """0 when a daemon runs, 1 when none does."""
    folder = Path(read_config(args).outbox.dir)
    try:
        text = ask(folder)
        status: dict[str, Any] = json.loads(text)
    except PermissionError:
        print(f"edge-agent: {folder}: not allowed to ask; run as the agent's user or as root", file=sys.stderr)
        return 1
    except (OSError, ValueError):
        if args.json:
            print(json.dumps({"state": "not running"}))
        else:
            print(f"not running (no daemon answers in {folder})")
        return 1
    if args.json:
        sys.stdout.write(text.decode() + "\n")
    else:
        print(format_status(status))
    return 0


def format_status(status: dict[str, Any]) -> str:
    """The status for people, a few lines."""
    lines = [f"{status['device']}: {status['state']} for {status['uptime_s']:.0f} s, version {status['version']}"]
    lines += [f"  ! {reason}" for reason in status["reasons"]]
    for name, pipeline in status["pipelines"].items():
        model = status["models"].get(name)
        latency = pipeline["latency_ms"]
        lines += [
            f"  {name}: source {pipeline['source_state']}, {pipeline['fps']:.1f} frames/s"
            + (f", latency {latency['p50']:.1f} ms (p99 {latency['p99']:.1f})" if latency else ""),
            f"    frames: {pipeline['frames_captured']} captured, {pipeline['frames_inferred']} inferred, "
            f"{pipeline['frames_dropped']} dropped",
            f"    model: {model['name']} {model['version']} on {model['runtime']}" if model else "    model: none",
        ]
    outbox, mqtt = status["outbox"], status["mqtt"]
    lines.append(f"  outbox: {outbox['pending']} waiting, {outbox['bytes']} bytes, {outbox['dropped']} dropped")
    lines.append(f"  broker: {'connected' if mqtt['connected'] else 'away'}, {mqtt['connects']} connects")
    lines += [f"  {error['time']} {error['part']}: {error['reason']}" for error in status["last_errors"]]
    return "\n".join(lines)
