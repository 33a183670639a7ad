"""A device that sees other pictures than its model knows: drift, samples, labels, a head of its own, and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import msgspec
import numpy as np
import pytest

from agent.feedback.service import decode_frame
from agent.wire.samples import PROPERTY, SampleInfo
from agent.wire.schemas import message_schema
from tests.paths.test_daemon import BRANCH, ask
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker, Listener
from tests.sim.digit_sets import make_set, write_pictures
from tests.sim.embedded import embedded_digits
from tools.reference import write_reference

ANGLES = (38.0, 44.0, 50.0, 56.0)
SAMPLES = f"{BRANCH}/samples/digits"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Models, turned pictures with a white corner, and what they show."""
    home = tmp_path_factory.mktemp("world")
    bundle = embedded_digits(home / "models")
    write_reference(bundle, make_set(home / "data", (-6.0, 0.0, 6.0), (-1, 0, 1)), "validation")
    labels = write_pictures(home / "turned", ANGLES)
    for path in (home / "turned").iterdir():
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        picture[0, 0] = 255
        cv2.imwrite(str(path), picture)
    return home / "models", home / "turned", labels


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, world: tuple[Path, Path, list[str]]) -> Iterator[Agent]:
    models, pictures, _ = world
    pipeline = {
        "name": "digits",
        "model": "digits",
        "source": {"type": "file", "path": str(pictures), "loop": True, "fps": 20},
        "privacy_masks": [[0.0, 0.0, 0.03, 0.03]],
        "feedback": {"keep": "hard", "margin": 1.0, "max_per_min": 6000, "personalize": True},
        "drift": {"window_frames": 40, "every_s": 0},
        "snapshots": {"on": "none"},
    }
    config = make_config(
        tmp_path, broker.port, models, pipelines=[pipeline], samples={"dir": str(tmp_path / "samples")}
    )
    with Agent(tmp_path, config) as agent:
        yield agent


def events(listener: Listener) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in listener.payloads(f"{BRANCH}/events/digits")]


def versions(listener: Listener) -> list[str]:
    return [json.loads(payload)["model"]["version"] for payload in listener.payloads(f"{BRANCH}/results/digits")]


def infos(listener: Listener) -> dict[str, tuple[SampleInfo, bytes]]:
    """What came, by the sample's id."""
    came = {}
    for message in listener.wait_for(lambda _: True):
        if message.topic == SAMPLES:
            info = msgspec.json.decode(dict(message.properties.UserProperty)[PROPERTY], type=SampleInfo)
            came[info.id] = (info, bytes(message.payload))
    return came


def test_from_drift_to_a_head_of_its_own_and_back(
    broker: Broker, agent: Agent, world: tuple[Path, Path, list[str]]
) -> None:
    truths = world[2]
    listener = broker.listen("edge/#", "answers/test")
    wait_until(lambda: any(one["label"] == "drift" for one in events(listener)), 60, what="drift")
    drift = next(one for one in events(listener) if one["label"] == "drift")
    jsonschema.validate(drift, message_schema("event"))
    assert drift["type"] == "started"
    assert max(drift["drift"]["psi"].values()) >= 0.25

    wait_until(lambda: agent.status()["pipelines"]["digits"]["samples"]["kept"] >= 160, 60, what="samples")
    sent = ask(listener, "samples", {"max_bytes": 20_000_000})["data"]
    assert sent["sent"] >= 160
    wait_until(lambda: len(infos(listener)) >= sent["sent"], 30, what="all samples")
    came = infos(listener)
    pictures = [decode_frame(info.suffix, data) for info, data in came.values()]
    assert {picture.shape for picture in pictures} == {(28, 28, 3)}
    assert not np.any([picture[0, 0] for picture in pictures]), "the mask comes before everything"
    assert {reason for info, _ in came.values() for reason in info.reasons} >= {"unsure", "drift"}

    refused = ask(listener, "personalize")
    assert "at least 10 are needed" in refused["error"]
    for sample_id, (info, _) in list(came.items())[:160]:
        answer = ask(listener, "label", {"sample": sample_id, "label": truths[info.frame_index % len(truths)]})
        assert answer["ok"], answer
    assert "none with the id" in ask(listener, "label", {"sample": "0" * 16, "right": True})["error"]

    learnt = ask(listener, "personalize")
    assert learnt["ok"], learnt
    wait_until(lambda: versions(listener)[-1] == "1+p1", 60, what="the head answers")
    figures = learnt["data"]
    if "started" not in figures:  # on a slow machine the answer does not wait for the end
        assert figures["accuracy"] > figures["accuracy_before"] + 0.1
    assert ask(listener, "model-rollback")["data"]["version"] == "1"
    wait_until(lambda: versions(listener)[-1] == "1", 30, what="the model before answers")
