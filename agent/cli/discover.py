"""`edge-agent discover`: the devices of this computer, each with the YAML that uses it."""

import argparse
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import yaml

from agent.capture.discover import Found, Kind, Search, discover
from agent.logs import configure_logs

_YAML_WIDTH = 110
_PLACES = {"source": "    ", "gps": ""}
"""How far in each section stands in the configuration: a source below its pipeline."""
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "camera": ("camera", "cameras"),
    "microphone": ("microphone", "microphones"),
    "sensor": ("sensor", "sensors"),
    "serial": ("serial port", "serial ports"),
    "gpsd": ("gpsd", "gpsd"),
}
"""One, and several."""


def main(args: argparse.Namespace) -> int:
    """Always 0: a computer without devices is none the worse."""
    configure_logs("warning", "auto")  # to stderr
    searches = discover()
    if args.json:
        print(json.dumps(report(searches)))
    else:
        print("\n\n".join(blocks(searches)))
    return 0


def report(searches: Iterable[Search]) -> dict[str, object]:
    """All in one object: `devices`, each with its kind and with `settings` as they stand in `section`; and why there is
    `nothing` of the other kinds."""
    devices = [{"kind": search.kind, **asdict(found)} for search in searches for found in search.found]
    return {"devices": devices, "nothing": {search.kind: search.nothing for search in searches if not search.found}}


def blocks(searches: Iterable[Search]) -> Iterator[str]:
    """The same for people: all but the YAML is a comment of YAML, so that a block can be pasted as it is."""
    nothing = []
    for search in searches:
        one, _ = _WORDS[search.kind]
        if not search.found:
            nothing.append(f"# no {one}: {search.nothing}")
        for found in search.found:
            lines = [f"# {one}: {found.name}", *(f"#   {detail}" for detail in found.details)]
            lines += [f"# ! {found.problem}"] if found.problem else []
            yield "\n".join([*lines, snippet(found)])
    if nothing:
        yield "\n".join(nothing)


def snippet(found: Found) -> str:
    """The part of the configuration that uses a device, indented as it stands there."""
    text = yaml.safe_dump(
        {found.section: dict(found.settings)},
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=_YAML_WIDTH,
    )
    return textwrap.indent(text.rstrip(), _PLACES[found.section])


def summary(searches: Iterable[Search]) -> str:
    """How many there are of each kind: `2 cameras, 1 microphone`."""
    numbers = {search.kind: len(search.found) for search in searches}
    found = [f"{number} {_WORDS[kind][number > 1]}" for kind, number in numbers.items() if number]
    if not found:
        return "none found; `edge-agent discover` says why that may be"
    return f"{', '.join(found)}; `edge-agent discover` prints the YAML of each"
