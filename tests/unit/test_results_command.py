"""`edge-agent results`: what a device still keeps, sent or not."""

import json
from pathlib import Path

import pytest
import yaml

from agent.__main__ import main
from agent.outbox.ages import read_clocks
from agent.outbox.store import Outbox, open_outbox
from agent.values import Detection, OutboundMessage, Timing
from agent.wire.messages import FrameInfo, ModelInfo, Result, encode
from tests.sim.agent import make_config, make_pipeline
from tests.unit.outbox.support import gap_message

KEEP_BYTES = 1 << 20


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    config = make_config(tmp_path, 9, tmp_path)
    config["pipelines"].append(make_pipeline("yard"))
    config["outbox"]["keep_sent"] = KEEP_BYTES
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def open_box(tmp_path: Path, hours_ago: float = 0.0) -> Outbox:
    def now() -> object:
        clocks = read_clocks()
        return clocks._replace(unix_s=clocks.unix_s - 3600 * hours_ago)

    folder, day_s = tmp_path / "outbox", 86400
    return open_outbox(
        folder,
        max_bytes=1 << 24,
        max_age_s=day_s,
        durability="balanced",
        gap_message=gap_message,
        keep_bytes=KEEP_BYTES,
        now=now,  # type: ignore[arg-type]
    )


def result(index: int, pipeline: str = "door") -> OutboundMessage:
    message = Result(
        device="cam-1",
        boot="b",
        time="2026-11-27T08:00:00.000Z",
        clock="synced",
        pipeline=pipeline,
        captured_at="2026-11-27T08:00:00.000Z",
        frame=FrameInfo(index, 640, 480),
        model=ModelInfo("face", "1", "0" * 64),
        timing_ms=Timing(0.1, 0.2, 0.3, 0.6),
        detections=[Detection("face", 0, 0.934, (1.0, 2.0, 3.0, 4.0))],
    )
    return OutboundMessage(f"edge/devices/cam-1/results/{pipeline}", encode(message))


def send_all(box: Outbox) -> None:
    box.ack(box.next(box.acked, 10_000, 1 << 30)[-1].id)


def frames(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, int]]:
    document = json.loads(capsys.readouterr().out)
    return [(one["pipeline"], one["frame"]["index"]) for one in document["results"]]


def test_sent_and_waiting_ones_in_order(tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = open_box(tmp_path)  # as the daemon holds it open
    for index in range(1400):  # more than a segment
        box.put(result(index, "yard" if index % 2 else "door"))
        if index == 1300:
            send_all(box)
    box.put(OutboundMessage("edge/devices/cam-1/snapshots/door", b"\xff\xd8", in_chain=False))
    assert list(box._folder.glob("*.sent"))
    assert main(["results", "--config", str(config_file), "--json"]) == 0
    assert [("yard" if index % 2 else "door", index) for index in range(1400)] == frames(capsys)

    assert main(["results", "--config", str(config_file), "--json", "--pipeline", "yard"]) == 0
    assert [("yard", index) for index in range(1, 1400, 2)] == frames(capsys)


def test_only_those_of_the_last_while(tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = open_box(tmp_path, hours_ago=2)
    box.put(result(1))
    box.close()
    open_box(tmp_path).put(result(2))

    assert main(["results", "--config", str(config_file), "--json", "--since", "1h"]) == 0
    assert frames(capsys) == [("door", 2)]
    assert main(["results", "--config", str(config_file), "--json", "--since", "3h"]) == 0
    assert frames(capsys) == [("door", 1), ("door", 2)]


def test_a_line_each_for_people(tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_box(tmp_path).put(result(1))

    assert main(["results", "--config", str(config_file)]) == 0
    assert capsys.readouterr().out == "2026-11-27T08:00:00.000Z  door  face 0.93\n"


def test_no_outbox_and_no_such_pipeline_are_one_line(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--config", str(config_file)]) == 1
    assert "outbox: no such file or directory; see outbox.dir" in capsys.readouterr().err
    assert main(["results", "--config", str(config_file), "--pipeline", "attic"]) == 2
    assert "expected one of door, yard" in capsys.readouterr().err


def test_a_time_that_is_none_is_refused(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["results", "--config", str(config_file), "--since", "yesterday"])
    assert "expected a duration such as 30s" in capsys.readouterr().err
