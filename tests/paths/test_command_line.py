"""The commands as a user types them: what they print, and how they end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import jsonschema
import numpy as np
import pytest
import yaml

from agent.config import load_config
from agent.wire.messages import MESSAGES
from agent.wire.schemas import message_schema
from tests.sim import wait_until
from tests.sim.agent import CLIP, Agent, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import ROOT, make_bundle, model_path, picture_path
from tests.sim.keys import Authority
from tests.sim.wavs import encode, wav
from tests.unit.evaluation.number_models import number_bundle
from tests.unit.inference.tiny_models import TensorSpec, make_model

NOWHERE = 9  # the discard port: nobody listens there


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_bundle("face", tmp_path)


@pytest.fixture
def config(tmp_path: Path, models: Path) -> dict[str, Any]:
    return make_config(tmp_path, NOWHERE, models)


def edge_agent(
    tmp_path: Path,
    *args: str,
    config: dict[str, Any] | None = None,
    timeout_s: float = 60,
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run a command in an empty folder; with a configuration, that one is there."""
    if config is not None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "agent", *args],
        cwd=tmp_path,
        env=environ,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The error that a command ended with."""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edge-agent: ")]
    assert "Traceback" not in done.stderr
    return line


class TestErrors:
    """Each is one line that names the mend, with the exit code of its kind."""

    def test_no_configuration(self, tmp_path: Path) -> None:
        done = edge_agent(tmp_path, "run")
        assert (2, True) == (done.returncode, "--config FILE" in one_line(done))

    def test_wrong_yaml(self, tmp_path: Path, config: dict[str, Any]) -> None:
        config["pipelines"][0]["source"]["loop"] = "sometimes"
        done = edge_agent(tmp_path, "run", config=config)
        assert done.returncode == 2
        assert "pipelines[0].source.loop: expected bool, got 'sometimes'" in one_line(done)

    def test_a_model_that_is_not_there(self, tmp_path: Path, config: dict[str, Any]) -> None:
        config["pipelines"][0]["model"] = "faec"
        done = edge_agent(tmp_path, "run", config=config)
        assert (3, True) == (done.returncode, "no model 'faec' (models there: face)" in one_line(done))

    def test_a_model_with_other_shapes_than_its_manifest(
        self, tmp_path: Path, models: Path, config: dict[str, Any]
    ) -> None:
        manifest = models / "face" / "2026.11.1" / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace("width_px: 128", "width_px: 96"))
        done = edge_agent(tmp_path, "run", config=config)
        assert done.returncode == 3
        assert "96" in one_line(done)
        assert "128" in one_line(done)

    def test_a_model_file_that_is_none(self, tmp_path: Path, models: Path, config: dict[str, Any]) -> None:
        (models / "face" / "2026.11.1" / "model.tflite").write_bytes(b"\x89HDF\r\n\x1a\n" * 100)
        done = edge_agent(tmp_path, "run", config=config)
        assert (3, True) == (done.returncode, "model.tflite" in one_line(done))

    def test_a_clip_that_does_not_exist(self, tmp_path: Path, config: dict[str, Any]) -> None:
        config["pipelines"][0]["source"]["path"] = "nowhere.mp4"
        done = edge_agent(tmp_path, "run", config=config)
        assert (4, True) == (done.returncode, "nowhere.mp4" in one_line(done))

    def test_an_outbox_that_is_a_file(self, tmp_path: Path, config: dict[str, Any]) -> None:
        (tmp_path / "outbox").write_text("")
        done = edge_agent(tmp_path, "run", config=config)
        assert (1, True) == (done.returncode, "outbox.dir" in one_line(done))

    def test_an_unknown_command_and_no_command(self, tmp_path: Path) -> None:
        assert edge_agent(tmp_path, "rnu").returncode == 2
        assert edge_agent(tmp_path).returncode == 2

    @pytest.mark.parametrize("command", [["schema"], ["check", "--json"], ["models"], ["models", "verify"]])
    def test_nowhere_to_print(self, tmp_path: Path, config: dict[str, Any], command: list[str]) -> None:
        """A full disk behind `edge-agent ... > file`."""
        with Path("/dev/full").open("wb") as full:
            done = edge_agent(tmp_path, *command, config=config, stdout=full)
        assert "no space left on device" in one_line(done)
        assert "Exception" not in done.stderr
        assert done.returncode == 1

    def test_ctrl_c_while_it_starts(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """It goes to the whole group: also to the server that workers are forked from, while that imports."""
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "agent", "models", "verify"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = subprocess.Popen(
            command, cwd=tmp_path, env=environ, text=True, stderr=subprocess.PIPE, start_new_session=True
        )
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")

        def imports() -> bool:
            servers = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
            servers = [proc for proc in servers if b"forkserver" in (proc / "cmdline").read_bytes()]
            return any("msgspec" in (proc / "maps").read_text() for proc in servers)

        wait_until(imports, 20, "the server imports")
        os.killpg(started.pid, signal.SIGINT)
        _, said = started.communicate(timeout=20)
        assert "Traceback" not in said
        assert started.returncode == 130

    def test_durations_that_are_none(self, tmp_path: Path) -> None:
        for text in ("-1", "nan", "0"):
            done = edge_agent(tmp_path, "bench", "--seconds", text)
            assert (2, True) == (done.returncode, f"got '{text}'" in done.stderr)

    def test_a_pipeline_that_is_not_there(self, tmp_path: Path, config: dict[str, Any]) -> None:
        done = edge_agent(tmp_path, "replay", "--source", str(CLIP), "--out", "x", "--pipeline", "yard", config=config)
        assert (2, True) == (done.returncode, "expected one of door" in one_line(done))


class TestReplay:
    def test_gives_every_frame_the_same_way_each_time(self, tmp_path: Path, config: dict[str, Any]) -> None:
        for out in ("a.jsonl", "b.jsonl"):
            assert edge_agent(tmp_path, "replay", "--source", str(CLIP), "--out", out, config=config).returncode == 0
        text = (tmp_path / "a.jsonl").read_text()
        assert text == (tmp_path / "b.jsonl").read_text()
        results = [json.loads(line) for line in text.splitlines()]
        assert list(range(100)) == [result["frame"]["index"] for result in results]
        for result in results:
            jsonschema.validate(result, message_schema("result"))
        seconds_with_face = {i / 10 for i, result in enumerate(results) if result["detections"]}
        assert min(seconds_with_face) == pytest.approx(3.2, abs=1.0)
        assert max(seconds_with_face) == pytest.approx(8.8, abs=1.0)

    def test_takes_pictures_and_prints_to_stdout(self, tmp_path: Path, config: dict[str, Any]) -> None:
        picture = picture_path("astronaut.png")
        done = edge_agent(tmp_path, "replay", "--source", str(picture), "--out", "-", config=config)
        (detection,) = json.loads(done.stdout)["detections"]
        assert detection["label"] == "face"

    @pytest.mark.parametrize("own", [{"type": "file", "path": "x.wav"}, {"type": "microphone", "channels": 2}], ids=str)
    @pytest.mark.parametrize(("channel", "heard"), [(None, 0.25), (0, 0.0), (1, 0.5)])
    def test_listens_to_the_channel_that_the_pipeline_takes(
        self, tmp_path: Path, own: dict[str, Any], channel: int | None, heard: float
    ) -> None:
        (tmp_path / "sound.wav").write_bytes(wav(encode(np.tile([0.0, 0.5], 800), 16), channels=2))
        bundle = tmp_path / "models" / "copy" / "1"
        sound = {"type": "audio", "window_s": 0.001, "stride_s": 0.05}
        number_bundle(bundle, (1, 16), sound, {"type": "regress"})
        (bundle / "model.tflite").write_bytes(make_model(TensorSpec("x", (1, 16))))
        (bundle.parent / "current").write_text("1\n")
        pipeline = {"name": "room", "source": own | {"channel": channel}, "model": "copy"}
        config = make_config(tmp_path, NOWHERE, tmp_path / "models", pipelines=[pipeline])
        done = edge_agent(tmp_path, "replay", "--source", "sound.wav", "--out", "-", config=config)
        assert json.loads(done.stdout.splitlines()[0])["values"] == [heard] * 16

    def test_pictures_come_at_the_pipelines_own_rate(self, tmp_path: Path, models: Path) -> None:
        (tmp_path / "pictures").mkdir()
        for name in ("1.png", "2.png"):
            (tmp_path / "pictures" / name).write_bytes(picture_path("astronaut.png").read_bytes())
        own = {"type": "file", "path": "pictures", "fps": 2}
        config = make_config(tmp_path, NOWHERE, models, pipelines=[make_pipeline("door", source=own)])
        done = edge_agent(tmp_path, "replay", "--source", "pictures", "--out", "-", config=config)
        assert [json.loads(line)["captured_at"] for line in done.stdout.splitlines()] == [
            "1970-01-01T00:00:00.000Z",
            "1970-01-01T00:00:00.500Z",
        ]

    def test_writes_into_a_device_or_a_pipe_and_leaves_it_there(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """As `--out /dev/null`, which root could replace by a file, and `--out >(gzip)`."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        fd = os.open(pipe, os.O_RDWR)  # neither we nor the command waits for the other
        try:
            picture = str(picture_path("astronaut.png"))
            assert edge_agent(tmp_path, "replay", "--source", picture, "--out", "pipe", config=config).returncode == 0
            assert pipe.is_fifo()
            assert json.loads(os.read(fd, 65536))["detections"]
        finally:
            os.close(fd)

    def test_leaves_no_half_written_file(self, tmp_path: Path, config: dict[str, Any]) -> None:
        done = edge_agent(tmp_path, "replay", "--source", "nowhere.mp4", "--out", "out.jsonl", config=config)
        assert done.returncode == 4
        assert [] == list(tmp_path.glob("out.jsonl*"))

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path, config: dict[str, Any]) -> None:
        done = edge_agent(tmp_path, "replay", "--source", str(CLIP), "--out", "no/where.jsonl", config=config)
        assert (1, True) == (done.returncode, "no/where.jsonl" in one_line(done))


class TestCheck:
    def test_passes_where_everything_is_there(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        done = edge_agent(tmp_path, "check", "--json", config=make_config(tmp_path, broker.port, models))
        report = json.loads(done.stdout)
        assert [] == [check for check in report["checks"] if not check["ok"]]
        assert report["checks"][-1]["name"] == "devices"
        assert "`edge-agent discover`" in report["checks"][-1]["detail"]
        assert done.returncode == 0

    def test_says_what_fails_and_how_to_mend_it(self, tmp_path: Path, config: dict[str, Any]) -> None:
        config["pipelines"].append(make_pipeline("yard", source={"type": "camera", "device": "/dev/video250"}))
        config["pipelines"].append(make_pipeline("gate", model="gone"))
        done = edge_agent(tmp_path, "check", config=config)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
        assert [line.split(":")[0].removeprefix("FAIL  ") for line in failed] == ["source yard", "model gone", "broker"]
        assert done.returncode == 1

    def test_refuses_what_run_would_refuse(self, tmp_path: Path, config: dict[str, Any]) -> None:
        (tmp_path / "x").write_text("no trust document, and no folder")
        (tmp_path / "x.csv").write_text("t\n1\n2\n")
        config["models"]["trust"] = "x"
        config["outbox"] = {"dir": "x"}
        config["samples"] = {"dir": "x"}
        config["pipelines"][0] |= {"source": {"type": "csv", "path": "x.csv"}, "feedback": {"keep": "hard"}}
        done = edge_agent(tmp_path, "check", config=config)
        failed = dict(line[6:].split(": ", 1) for line in done.stdout.splitlines() if line.startswith("FAIL"))
        assert {"source door", "broker", "trust", "outbox", "samples"} == set(failed)
        assert failed["source door"] == "model face takes pictures, and the source gives t"
        assert failed["trust"].endswith("expected a trust.json that tools/trust.py made")
        assert failed["outbox"] == "x: is a file; name a folder as outbox.dir, or move the file away"
        assert done.returncode == 1

    def test_a_model_that_a_release_will_bring_is_not_missed(self, tmp_path: Path, config: dict[str, Any]) -> None:
        (tmp_path / "trust.json").write_bytes(Authority().trust_file)
        config["models"]["trust"] = "trust.json"
        config["pipelines"] = [make_pipeline("door", model="to-come")]
        lines = edge_agent(tmp_path, "check", config=config).stdout.splitlines()
        assert "ok    model to-come: not there yet; `run` waits for a release that brings it" in lines
        assert [line for line in lines if line.startswith("ok    trust: trust.json: fleet ")]

    def test_a_source_that_lacks_what_the_model_takes(self, tmp_path: Path, config: dict[str, Any]) -> None:
        make_bundle("swing", tmp_path)
        (tmp_path / "x.csv").write_text("accel_x_g,other\n1,2\n2,3\n")
        config["pipelines"] = [
            make_pipeline("arm", model="swing", source={"type": "csv", "path": "x.csv", "rate_hz": 50}),
            make_pipeline("door", model="swing"),
        ]
        done = edge_agent(tmp_path, "check", config=config)
        arm, door = [line for line in done.stdout.splitlines() if line.startswith("FAIL  source")]
        assert "accel_y_g" in arm
        assert door.endswith("model swing takes samples, and the source gives pictures")

    def test_leaves_no_folder_behind_that_belongs_to_the_wrong_user(
        self, tmp_path: Path, config: dict[str, Any]
    ) -> None:
        done = edge_agent(tmp_path, "check", config=config)
        assert "outbox: " in done.stdout
        assert "`run` makes it" in done.stdout
        assert not (tmp_path / "outbox").exists()

    def test_works_beside_a_running_daemon(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        config = make_config(tmp_path, broker.port, models)
        with Agent(tmp_path, config) as agent:
            agent.wait_for_status(lambda s: s["mqtt"]["connected"])
            done = edge_agent(tmp_path, "check")
            assert done.returncode == 0
            assert "in use by the running daemon" in done.stdout
            agent.wait_for_status(lambda s: s["mqtt"]["connects"] == 1)  # the check did not take its place


class TestStatus:
    def test_says_that_nothing_runs(self, tmp_path: Path, config: dict[str, Any]) -> None:
        done = edge_agent(tmp_path, "status", config=config)
        assert (1, True) == (done.returncode, "not running" in done.stdout)

    def test_shows_the_daemon_that_runs(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        with Agent(tmp_path, make_config(tmp_path, broker.port, models)) as agent:
            agent.wait_for_status(lambda s: s["pipelines"]["door"]["frames_inferred"])
            done = edge_agent(tmp_path, "status")
            assert done.returncode == 0
            assert "cam-1: online" in done.stdout
            assert "face 2026.11.1" in done.stdout
            assert json.loads(edge_agent(tmp_path, "status", "--json").stdout)["device"] == "cam-1"


class TestInspectAndSchema:
    def test_inspect_writes_a_manifest_that_loads(self, tmp_path: Path) -> None:
        model = model_path("face")
        done = edge_agent(tmp_path, "inspect", str(model), "--manifest", "manifest.yaml")
        assert done.returncode == 0
        assert "ssd_anchors" in (tmp_path / "manifest.yaml").read_text()
        again = edge_agent(tmp_path, "inspect", str(model), "--manifest", "manifest.yaml")
        assert (1, True) == (again.returncode, "is there already" in one_line(again))
        assert json.loads(edge_agent(tmp_path, "inspect", str(model), "--json").stdout)

    def test_inspect_shows_the_manifest_once(self, tmp_path: Path) -> None:
        done = edge_agent(tmp_path, "inspect", str(ROOT / "models" / "digits" / "2026.11.1" / "model.tflite"))
        assert done.returncode == 0
        assert done.stdout.count("task: classify") == 1

    def test_inspect_writes_no_manifest_where_none_fits(self, tmp_path: Path) -> None:
        (tmp_path / "x.tflite").write_bytes(make_model(TensorSpec("x", (1, 40))))
        done = edge_agent(tmp_path, "inspect", "x.tflite", "--manifest", "manifest.yaml")
        assert done.returncode == 1
        assert "x.tflite: no manifest fits: the input is no picture" in done.stderr
        assert not (tmp_path / "manifest.yaml").exists()

    def test_inspect_refuses_what_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "x.tflite").write_bytes(b"nonsense" * 10)
        done = edge_agent(tmp_path, "inspect", "x.tflite")
        assert (3, True) == (done.returncode, "x.tflite" in one_line(done))

    def test_schema_is_json_and_writes_those_of_the_messages(self, tmp_path: Path) -> None:
        assert json.loads(edge_agent(tmp_path, "schema").stdout)["title"] == "edge-agent configuration"
        assert edge_agent(tmp_path, "schema", "--messages", "s").returncode == 0
        assert len(list((tmp_path / "s").iterdir())) == len(MESSAGES)


class TestBench:
    def test_reports_every_field(self, tmp_path: Path, broker: Broker, models: Path) -> None:
        config = make_config(tmp_path, broker.port, models)
        done = edge_agent(tmp_path, "bench", "--json", "--seconds", "1", config=config)
        report = json.loads(done.stdout)
        fields = ("invoke_ms", "bound_fps", "pipeline_fps", "ratio", "latency_ms", "overhead_us", "cpu_s_per_frame")
        assert {*fields, "rss_bytes", "start_ms", "runtime"} <= set(report)
        assert {"package", "version", "threads", "delegate"} == set(report["runtime"])
        assert report["broker"]
        assert report["latency_ms"]["p50"] > report["invoke_ms"] * 0.5


class TestDemo:
    def test_prints_faces_that_came_over_mqtt_and_ends_in_order(self, tmp_path: Path, models: Path) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(make_config(tmp_path, NOWHERE, models)))
        assert load_config(tmp_path / "config.yaml")
        done = edge_agent(tmp_path, "demo", "--seconds", "12")
        assert done.returncode == 0, done.stderr
        assert "face 0.9" in done.stdout
        assert "event started: face" in done.stdout
        assert "ended" in done.stdout
