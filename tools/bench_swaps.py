"""Measures what updates cost the frames: `python -m tools.bench_swaps [--swaps 10] [--json]`, from the top folder.

For developers: it needs mosquitto and the tests' simulators. The real daemon looks at 30 computed frames a second with
the face model; windows of equal length take turns, one that is left alone and one in which a new version is pushed and
becomes active: received, tried, swapped, confirmed. All versions are good and differ in their number only.

A frame's gap is the number of frames from the one before that has a result: 1 when none was lost. A pause is the time
between two results, in frame times; a slow answer makes one, though nothing is lost.
"""

import argparse
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.sim.agent import Agent, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle
from tests.sim.operators import Operator

FPS = 30.0
COUNTERS = ("frames_captured", "frames_dropped", "worker_restarts")
WINDOW_S = 5.2
"""A device looks at six releases a minute."""
VERSION = "2026.11.1"
ACTIVATION = {"health_window_s": 1.0, "min_frames": 20}


def _make_version(folder: Path, version: str) -> Path:
    target = folder / "operator" / version
    shutil.copytree(folder / "models" / "face" / VERSION, target)
    manifest = target / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace(f"version: {VERSION}", f"version: {version}"))
    return target


def _frame_numbers(agent: Agent) -> dict[str, int]:
    pipeline = agent.status()["pipelines"]["door"]
    return {name: pipeline[name] for name in COUNTERS}


def _made_at_s(result: dict[str, Any]) -> float:
    return datetime.fromisoformat(result["time"]).timestamp()


def _sum_up(windows: Sequence[dict[str, int]], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all windows of a kind; a gap or pause counts where its end lies."""
    total = {name: sum(window[name] for window in windows) for name in COUNTERS}
    gaps, pauses = [], []
    for before, result in itertools.pairwise(results):
        if any(window["from_ms"] <= 1000 * _made_at_s(result) < window["to_ms"] for window in windows):
            gaps.append(result["frame"]["index"] - before["frame"]["index"])
            pauses.append((_made_at_s(result) - _made_at_s(before)) * FPS)
    return {
        **total,
        "dropped_share": total["frames_dropped"] / total["frames_captured"],
        "longest_gap_frames": max(gaps),
        "gaps_over_one": sum(gap > 1 for gap in gaps),
        "longest_pause_frames": round(max(pauses), 2),
        "pauses_over_three": sum(pause > 3 for pause in pauses),
    }


def _window(agent: Agent, begin: Any = None) -> dict[str, int]:
    before, from_ms = _frame_numbers(agent), time.time_ns() // 1_000_000
    until_s = time.monotonic() + WINDOW_S
    if begin:
        begin()
    time.sleep(max(0.0, until_s - time.monotonic()))
    after = _frame_numbers(agent)
    changes = {name: after[name] - before[name] for name in after}
    return {**changes, "from_ms": from_ms, "to_ms": time.time_ns() // 1_000_000}


def measure(folder: Path, swaps: int) -> dict[str, Any]:
    """Both kinds of windows, in turns; the times at which each version first answered are those of its swap."""
    quiet, busy, update_s = [], [], []
    with Broker(folder / "broker") as broker:
        operator = Operator(broker)
        (folder / "trust.json").write_bytes(operator.authority.trust_file)
        config = make_config(folder, broker.port, make_bundle("face", folder))
        config["models"]["trust"] = str(folder / "trust.json")
        source = {"type": "synthetic", "fps": FPS}
        config["pipelines"] = [make_pipeline("door", source=source, results={"max_per_s": None})]
        listener = broker.listen("edge/devices/cam-1/results/door")
        with Agent(folder, config) as agent:
            listener.wait_for(lambda messages: len(messages) > 3 * FPS)
            for number in range(1, swaps + 1):
                bundle = _make_version(folder, f"2027.1.{number}")

                def push(bundle: Path = bundle) -> None:
                    started_s = time.monotonic()
                    state = operator.wait_until_ended(operator.push(bundle, activation=ACTIVATION))
                    update_s.append(time.monotonic() - started_s)
                    if state["candidate"]["state"] != "active":
                        raise SystemExit(f"not active: {state['candidate']}")

                quiet.append(_window(agent))
                busy.append(_window(agent, push))
            listener.wait_for(lambda messages: len(messages) > FPS)
        results = [json.loads(payload) for payload in listener.payloads()]
    versions = list(dict.fromkeys(result["model"]["version"] for result in results))
    return {
        "swaps": len(versions) - 1,
        "update_s": [round(seconds, 2) for seconds in update_s],
        "quiet": _sum_up(quiet, results),
        "swapping": _sum_up(busy, results),
        "at_swaps": _at_swaps(results),
    }


def _at_swaps(results: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """From the last result of one version to the first of the next."""
    return [
        {
            "gap_frames": after["frame"]["index"] - before["frame"]["index"],
            "pause_frames": round((_made_at_s(after) - _made_at_s(before)) * FPS, 2),
        }
        for before, after in itertools.pairwise(results)
        if before["model"]["version"] != after["model"]["version"]
    ]


def _show(report: dict[str, Any]) -> None:
    print(
        f"{report['swaps']} swaps; from push to confirmed: {' '.join(f'{value:.1f}' for value in report['update_s'])} s"
    )
    print(f"\n{'':22}{'quiet':>10}{'swapping':>10}")
    for name in report["quiet"]:
        quiet, busy = (report[kind][name] for kind in ("quiet", "swapping"))
        form = ".3%" if name == "dropped_share" else ""
        print(f"{name.replace('_', ' '):22}{format(quiet, form):>10}{format(busy, form):>10}")
    print("\nlast result of one version to the first of the next, in frames and frame times:")
    print("  ".join(f"{swap['gap_frames']} / {swap['pause_frames']}" for swap in report["at_swaps"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what updates cost the frames.")
    parser.add_argument(
        "--swaps", type=int, default=10, help="versions to push, about ten seconds for each; default: 10"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), args.swaps)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)


if __name__ == "__main__":
    main()
