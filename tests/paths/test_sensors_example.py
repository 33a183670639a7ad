"""The example of predictive maintenance, whole: the daemon with config.sensors.yaml and a real broker."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from agent.config import load_config
from tests.sim.agent import Agent
from tests.sim.broker import Broker
from tests.sim.bundles import OWN, ROOT

CONFIG = ROOT / "config.sensors.yaml"
HELD_OUT = ROOT / "agent" / "demo" / "swing.csv"


def first_anomaly(tmp_path: Path) -> Path:
    """Of the recording: two seconds of the usual, two of what comes first between, and two of the usual."""
    header, *rows = HELD_OUT.read_text().splitlines()
    runs = [list(run) for _, run in itertools.groupby(rows, key=lambda row: row.endswith(",1"))]
    path = tmp_path / "short.csv"
    path.write_text("\n".join([header, *runs[0][-100:], *runs[1][:100], *runs[2][:100], ""]))
    return path


def example(tmp_path: Path, port: int) -> dict[str, Any]:
    """config.sensors.yaml with a short recording, and this test's broker and folders."""
    config = dict(yaml.safe_load(CONFIG.read_text()))
    config["pipelines"][0]["source"] |= {"path": str(first_anomaly(tmp_path)), "loop": False}
    changes = {
        "device": {"id": "press-1"},
        "mqtt": {"host": "127.0.0.1", "port": port},
        "models": {"dir": str(OWN)},
        "outbox": {"dir": str(tmp_path / "outbox")},
        "log": {"format": "json"},
    }
    return config | changes


def test_an_anomaly_becomes_an_event_that_starts_and_ends(tmp_path: Path, broker: Broker) -> None:
    listener = broker.listen("edge/devices/press-1/#")
    with Agent(tmp_path, example(tmp_path, broker.port)) as agent:
        listener.wait_for(lambda _: len(told(listener, "events")) == 2, timeout_s=25)
        assert agent.end() == 0
    started, ended = told(listener, "events")
    assert [(e["type"], e["label"], e["pipeline"]) for e in (started, ended)] == [
        ("started", "anomaly", "press"),
        ("ended", "anomaly", "press"),
    ]
    assert started["event_id"] == ended["event_id"]
    assert 0.5 < started["confidence"] <= 1.0
    scores = [result["anomaly"] for result in told(listener, "results")]
    assert {score["is_anomaly"] for score in scores} == {False, True}
    assert all((score["score"] > score["threshold"]) == score["is_anomaly"] for score in scores)


def told(listener: Any, kind: str) -> list[dict[str, Any]]:
    return [json.loads(m.payload) for m in listener.messages if m.topic == f"edge/devices/press-1/{kind}/press"]


def test_the_command_in_its_head_works_without_a_broker() -> None:
    command = re.findall(r"edge-agent (replay .* --out -)", CONFIG.read_text())[0].split()
    done = subprocess.run([sys.executable, "-m", "agent", *command], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 761)


def test_what_stands_behind_its_comments_is_configuration_too(tmp_path: Path) -> None:
    """Each alternative source, with the comment signs taken off."""
    lines = CONFIG.read_text().splitlines()
    start, stop = lines.index("    source:"), lines.index("    model: swing")
    commented = [line.replace("      # ", "      ", 1) for line in lines[start + 1 : stop] if line[:8] == "      # "]
    starts = [place for place, line in enumerate(commented) if line.startswith("      type:")]
    for place, end in zip(starts, [*starts[1:], len(commented)], strict=True):
        source = [line for line in commented[place:end] if ":" in line and not line.strip()[0].isupper()]
        path = tmp_path / "config.yaml"
        path.write_text("\n".join([*lines[: start + 1], *source, *lines[stop:], ""]))
        assert set(load_config(path).pipelines[0].source.channels) == {"accel_x_g", "accel_y_g", "accel_z_g"}
    assert len(starts) == 2
