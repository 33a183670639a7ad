"""`edge-agent inspect`: what a model file says about itself, and a manifest that fits."""

import argparse
from pathlib import Path

import msgspec

from agent.errors import AgentError
from agent.inference.inspect import format_report, inspect_model, manifest_yaml
from agent.runtime.files import write_atomic


def main(args: argparse.Namespace) -> int:
    """Print the report and the manifest, or write the manifest to a file that is not there yet."""
    report = inspect_model(Path(args.model))
    if args.json:
        print(msgspec.json.encode(report).decode())
    else:
        print(format_report(report))
    if args.manifest is None:
        return 0
    if not report.suggestion.manifest:
        raise AgentError(f"{args.model}: no manifest fits: {report.suggestion.problem}; {args.manifest} is not written")
    path = Path(args.manifest)
    if path.exists():
        raise AgentError(f"{path}: is there already; take it away or choose another name")
    try:
        write_atomic(path, manifest_yaml(report).encode(), mode=0o644)
    except OSError as exc:
        raise AgentError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    return 0
