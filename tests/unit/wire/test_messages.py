"""Messages and their published schemas."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.clock import Clock
from agent.values import Classification, Detection, Segment, Timing
from agent.wire.messages import MESSAGES, Event, FrameInfo, Gap, ModelInfo, Reply, Result, Stamp, Status, encode
from agent.wire.schemas import message_schema
from agent.wire.topics import Topics

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schema"
STAMP = Stamp("cam-1", Clock(), boot="0" * 16)


def result(**found: Any) -> dict[str, Any]:
    message = Result(
        **STAMP(),
        pipeline="door",
        captured_at="2026-11-22T08:00:00.123Z",
        frame=FrameInfo(3, 640, 480),
        model=ModelInfo("face", "1", "ab"),
        timing_ms=Timing(0.1, 2.0, 0.1, 2.4),
        **found,
    )
    return json.loads(encode(message))


def complete(message: dict[str, Any]) -> dict[str, Any]:
    """As the outbox completes a message of the stream."""
    return {**message, "seq": 4294967297, "prev": 0}


@pytest.mark.parametrize("name", MESSAGES)
def test_docs_hold_the_schema_of_the_code(name: str) -> None:
    """`make schemas` writes them."""
    assert message_schema(name) == json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def test_docs_hold_no_other_schema() -> None:
    assert {f"{name}.schema.json" for name in MESSAGES} == {path.name for path in SCHEMAS.iterdir()}


@pytest.mark.parametrize(
    "found",
    [
        {"detections": [Detection("face", 0, 0.9, (1.0, 2.0, 3.0, 4.0), ((1.0, 2.0),))]},
        {"detections": []},
        {"classes": [Classification("cat", 1, 0.5)]},
        {"values": [1.5]},
        {"segments": [Segment("person", 1, 0.25, (0.0, 0.0, 1.0, 1.0))]},
    ],
)
def test_a_result_says_what_its_task_found_and_nothing_else(found: dict[str, Any]) -> None:
    message = complete(result(**found))
    jsonschema.validate(message, message_schema("result"))
    assert set(found) == {"detections", "classes", "values", "segments"} & set(message)


def test_a_stream_message_without_its_place_in_the_stream_is_not_valid() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(result(values=[]), message_schema("result"))


def test_other_messages_are_valid_too() -> None:
    event = Event(
        **STAMP(),
        pipeline="door",
        type="started",
        event_id="ab",
        label="face",
        confidence=0.9,
        started_at="2026-11-22T08:00:00.123Z",
        frames=3,
    )
    gap = Gap(**STAMP(), from_=1, to=3, count=3, reason="max_bytes")
    status = Status(**STAMP(), state="online", reasons=[], version="1", started_at="2026-11-22T08:00:00.123Z")
    reply = Reply(**STAMP(), command="ping", ok=True)
    jsonschema.validate(complete(json.loads(encode(event))), message_schema("event"))
    jsonschema.validate(complete(json.loads(encode(gap))), message_schema("gap"))
    jsonschema.validate(json.loads(encode(status)), message_schema("status"))
    jsonschema.validate(json.loads(encode(reply)), message_schema("reply"))
    assert {"from": 1, "to": 3}.items() <= json.loads(encode(gap)).items()


def test_a_reader_ignores_fields_that_it_does_not_know() -> None:
    message = complete(result(values=[2.0])) | {"new_field": 1}
    assert [2.0] == msgspec.convert(message, Result).values


class TestTopics:
    topics = Topics("plant/edge", "cam-1", ("yard",))

    def test_all_lie_in_the_devices_own_branch(self) -> None:
        topics = self.topics
        every = [topics.status(), topics.telemetry(), topics.gap(), topics.model_state("face")]
        every += [topics.results("door"), topics.events("door"), topics.snapshots("door")]
        assert all(topic.startswith("plant/edge/devices/cam-1/") for topic in every)
        assert len(every) == len(set(every))

    def test_commands_come_to_the_device_and_to_its_groups(self) -> None:
        assert ["plant/edge/devices/cam-1/commands/+", "plant/edge/groups/yard/commands/+"] == (
            self.topics.command_filters()
        )
        assert "ping" == self.topics.command_of("plant/edge/devices/cam-1/commands/ping")
        assert "ping" == self.topics.command_of("plant/edge/groups/yard/commands/ping")

    @pytest.mark.parametrize("owner", ["groups/hall", "devices/cam-2", "groups/cam-1", "devices/yard"])
    def test_a_command_to_others_is_none(self, owner: str) -> None:
        """The broker still sends those to groups that the device was in before: its session outlives the filters."""
        assert self.topics.command_of(f"plant/edge/{owner}/commands/restart") is None

    @given(st.text())
    def test_no_other_topic_is_a_command(self, topic: str) -> None:
        assert self.topics.command_of(topic) is None
