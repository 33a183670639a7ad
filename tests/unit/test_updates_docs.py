"""docs/updates.md against the code: reason codes, states, topics, and the commands that it tells to type."""

import re
import shlex
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import tools.push_model
import tools.trust
from agent.__main__ import make_parser
from agent.manifest import Golden
from agent.runtime.starts import SAFE_MODE_S
from agent.wire.messages import ModelState
from agent.wire.releases import REASONS, State
from agent.wire.topics import Topics

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "updates.md").read_text()


def rows(first_column: str) -> dict[str, str]:
    """Code and text of the table whose first column is called so."""
    table = TEXT.split(f"| {first_column} |")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))


def test_every_reason_code_is_in_the_guide_with_its_meaning() -> None:
    assert rows("code") == REASONS


def test_every_state_is_in_the_guide_in_order() -> None:
    assert list(rows("state")) == list(get_args(State))


def test_the_quarantining_codes_are_the_codes() -> None:
    from agent.updates.standing import TO_BLAME

    sentence = TEXT.split("bytes are *quarantined*")[0].rsplit("\n\n", 1)[1]
    assert set(re.findall(r"`(\w+)`", sentence)) == TO_BLAME


def test_the_guides_model_state_is_one() -> None:
    example = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0]
    stamp = '"device":"hall-cam","boot":"0","time":"2026-11-22T08:00:00.000Z","clock":"synced",'
    filled = example.replace('"device":"hall-cam",', stamp).replace("…", "0" * 64)
    state = msgspec.json.decode(filled, type=ModelState)
    assert state.candidate is not None
    assert state.candidate.state == "receiving"


def test_topics_and_settings_are_called_so() -> None:
    topics = Topics("P", "{id}")
    assert f"`{topics.model_state('{model}').removeprefix('P/')}`" in TEXT
    assert f"`{topics.trust().removeprefix('P/')}`" in TEXT
    assert f"golden: {{dir: {Golden().dir}," in TEXT
    assert SAFE_MODE_S == 600  # "for ten minutes"


@pytest.mark.parametrize("line", re.findall(r"python3 tools/(.*)", TEXT))
def test_commands_of_the_tools_are_understood(line: str) -> None:
    program, *words = shlex.split(line)
    tool = {"trust.py": tools.trust, "push_model.py": tools.push_model}[program]
    tool.make_parser().parse_args([word.replace("5be1…", "5" * 64) for word in words])


@pytest.mark.parametrize("line", re.findall(r"edge-agent (models [^`\n]*)", TEXT))
def test_commands_of_the_agent_are_understood(line: str) -> None:
    words = shlex.split(line.split("#", maxsplit=1)[0])
    words = words if words[1:] else [*words, "list"]
    assert make_parser().parse_args(words).command == "models"
