"""`edge-agent evaluate`: how well a model does on labelled data, on this machine, run as the daemon runs it."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from agent.cli.common import DEFAULT_CONFIGS, ProgressLine, read_config
from agent.config import Config, Pipeline
from agent.evaluation.evaluate import Labelled, evaluate
from agent.evaluation.tables import lines
from agent.inference.locate import find_bundle
from agent.inference.worker import warm_up
from agent.manifest import load_manifest

T = TypeVar("T")

_MIN_CONFIDENCE = 0.5
"""Where no pipeline has the model; the configuration's default."""


def main(args: argparse.Namespace) -> int:
    """Print the figures.

    Raises:
        AgentError: model, data or configuration can't be used.
    """
    warm_up()
    folder, pipeline = _find(args)
    data = Labelled(
        path=Path(args.data),
        split=args.split,
        limit=args.limit,
        min_confidence=_min_confidence(args, pipeline),
        label_column=args.label_column,
        rate_hz=args.rate_hz,
        time_column=args.time_column,
        delimiter=args.delimiter,
    )
    report = evaluate(folder, data, pipeline, follow)
    print(json.dumps(report) if args.json else "\n".join(lines(report)))
    return 0


def _min_confidence(args: argparse.Namespace, pipeline: Pipeline | None) -> float:
    if args.min_confidence is not None:
        return float(args.min_confidence)
    return pipeline.min_confidence if pipeline else _MIN_CONFIDENCE


def _find(args: argparse.Namespace) -> tuple[Path, Pipeline | None]:
    """The bundle, and the first pipeline that runs its model.

    Raises:
        ConfigError: a model is named, and there is no configuration to say where models are; or it is wrong.
        ModelError: there is no such model.
    """
    path = Path(args.model)
    has_config = args.config is not None or any(path.exists() for path in DEFAULT_CONFIGS)
    if (path / "manifest.yaml").is_file():
        folder = path
    elif (path / "current").is_file() or "/" in args.model:
        folder = find_bundle(path.parent, path.name)
    else:
        config = read_config(args)
        return find_bundle(Path(config.models.dir), args.model), _runs(config, args.model)
    return folder, _runs(read_config(args), load_manifest(folder / "manifest.yaml").name) if has_config else None


def _runs(config: Config, model: str) -> Pipeline | None:
    return next((spec for spec in config.pipelines if spec.model == model), None)


def follow(things: Sequence[T], unit: str, /) -> Iterable[T]:
    """Hands on one after the other; a bar on a terminal shows how far it is."""
    with ProgressLine(unit, len(things)) as progress:
        for thing in things:
            yield thing
            progress.add()
