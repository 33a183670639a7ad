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
    for model, state in status.get("model_states", {}).items():
        lines += _format_model(model, state)
    outbox, mqtt = status["outbox"], status["mqtt"]
    lines.append(f"  outbox: {outbox['pending']} waiting, {outbox['bytes']} bytes, {outbox['dropped']} dropped")
    lines.append(f"  broker: {'connected' if mqtt['connected'] else 'away'}, {mqtt['connects']} connects")
    lines += [f"  {error['time']} {error['part']}: {error['reason']}" for error in status["last_errors"]]
    return "\n".join(lines)


def _format_model(name: str, state: dict[str, Any]) -> list[str]:
    """What became of the updates of a model, of its model-state message."""
    active, previous, candidate = state["active"], state["previous"], state["candidate"]
    line = f"  model {name}: "
    line += f"{active['version']}, {'confirmed' if active['confirmed'] else 'on probation'}" if active else "none"
    line += f", before it {previous['version']}" if previous else ""
    line += ", pinned" if state["pinned"] else ""
    lines = [line]
    if candidate and not (candidate["state"] == "active" and active and active["confirmed"]):
        text = f"    release {candidate['release']}, version {candidate['version']}: {candidate['state']}"
        if candidate["state"] == "receiving":
            text += f", {100 * candidate['received_bytes'] // max(candidate['size_bytes'], 1)} %"
        if candidate["reason_code"]:
            text += f", {candidate['reason_code']} ({candidate['reason']})"
        lines.append(text)
    if state["refused"]:
        lines.append(f"    the last message on its release topic was not taken: {state['refused']}")
    return lines
