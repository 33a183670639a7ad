"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from agent.__main__ import make_parser
from agent.manifest import TASK_OF, Manifest, name_the_input
from agent.runtime.yamlfile import parse_document
from agent.wire.topics import Topics

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_topic_is_documented() -> None:
    text = (ROOT / "docs" / "topics.md").read_text()
    topics = Topics("P", "{id}")
    every = [topics.status(), topics.telemetry(), topics.gap(), topics.ack(), topics.results("{pipeline}")]
    every += [topics.events("{pipeline}"), topics.snapshots("{pipeline}"), topics.samples("{pipeline}")]
    assert [] == [topic for topic in every if f"`{topic.removeprefix('P/')}`" not in text]


def test_every_command_is_in_the_documents() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    commands = next(a for a in make_parser()._subparsers._group_actions if a.dest == "command").choices
    assert [] == [name for name in commands if f"edge-agent {name}" not in text and f"`{name}`" not in text]


def test_every_decoder_is_in_the_guide() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    assert [] == [kind for kind in TASK_OF if f"| `{kind.__struct_config__.tag}` |" not in text]


def test_the_guides_manifest_is_one() -> None:
    """The example of docs/models.md, completed where it says …"""
    text = (ROOT / "docs" / "models.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0].replace("ssd_anchors, …", "ssd_anchors")
    assert parse_document(example.encode(), Manifest, "docs/models.md", name_the_input).name == "face"
