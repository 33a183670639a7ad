"""The daemon listens: real arecord, a real sound server, real wake word models, a real broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim import require_program
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import make_bundle
from tests.sim.pulse import Pulse
from tests.sim.speech import OTHER, length_s, say, with_pauses

WORDS = {"okay_nabu": ("okay nabu", 0.85), "alexa": ("alexa", 0.9), "hey_mycroft": ("hey mycroft", 0.95)}


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Pulse]:
    require_program("arecord", "apt install alsa-utils")
    with Pulse(tmp_path / "pulse") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, broker: Broker, room: Pulse) -> Iterator[Agent]:
    """Three pipelines that listen to one microphone; it is listening already."""
    for name in WORDS:
        models = make_bundle(name, tmp_path)
    pipelines = [
        {
            "name": name,
            "source": {"type": "microphone", "device": "pulse"},
            "model": name,
            "min_confidence": min_confidence,
            "events": {"min_frames": 2, "cooldown_s": 1.5},
        }
        for name, (_, min_confidence) in WORDS.items()
    ]
    agent = Agent(tmp_path, make_config(tmp_path, broker.port, models, pipelines=pipelines))
    try:
        agent.start(**room.environment)
        agent.wait_for_status(lambda s: are_listening(s) and all(p["frames_inferred"] for p in s["pipelines"].values()))
        yield agent
    finally:
        agent.kill()


def are_listening(status: dict[str, Any]) -> bool:
    return all(pipeline["source_state"] == "running" for pipeline in status["pipelines"].values())


def of_type(listener: Listener, kind: str) -> list[tuple[str, str]]:
    """Topic's last word and label of each event of a type, in order."""
    events = [(message.topic.rpartition("/")[2], json.loads(message.payload)) for message in listener.messages]
    return [(pipeline, event["label"]) for pipeline, event in events if event["type"] == kind]


def test_each_word_is_one_event_and_a_microphone_that_was_away_is_listened_to_again(
    tmp_path: Path, broker: Broker, room: Pulse, agent: Agent
) -> None:
    listener = broker.listen("edge/devices/cam-1/events/+")
    words = [with_pauses(say(word, tmp_path / f"{name}.wav"), 0, 2) for name, (word, _) in WORDS.items()]
    room.play(*words)
    listener.wait_for(lambda _: len(of_type(listener, "ended")) == len(WORDS))
    assert of_type(listener, "started") == [(name, word) for name, (word, _) in WORDS.items()]

    room.kill()
    status = agent.wait_for_status(lambda s: all(p["source_state"] == "lost" for p in s["pipelines"].values()))
    assert "microphone pulse: arecord" in status["reasons"][0]
    (tmp_path / "pulse").rename(tmp_path / "pulse-before")
    with Pulse(tmp_path / "pulse"):
        agent.wait_for_status(are_listening)
        assert agent.end() == 0


@pytest.mark.slow
def test_a_minute_of_other_speech_makes_no_event(tmp_path: Path, broker: Broker, room: Pulse, agent: Agent) -> None:
    listener = broker.listen("edge/devices/cam-1/events/+")
    speech = say(OTHER, tmp_path / "other.wav")
    assert length_s(speech) > 60
    room.play(speech)
    assert listener.messages == []
    status = agent.status()
    assert {pipeline["frames_dropped"] for pipeline in status["pipelines"].values()} == {0}
