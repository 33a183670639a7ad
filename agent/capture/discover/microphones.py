"""Microphones: the sound devices of ALSA that record."""

import re
from pathlib import Path

from agent.capture.discover.found import Found, Search, access_problem, printable, read

_CARD = re.compile(r"^ *([0-9]{1,3}) \[([\w-]+) *\] *: *(.*)$", re.MULTILINE)
_DEVICE = re.compile(r"^([0-9]{2,3})-([0-9]{2,3}): (.*)$", re.MULTILINE)
_MAX_MICROPHONES = 32
_CROSSBAR = "XBAR-ADMAIF"
"""The audio processor of a Jetson has twenty of these; what is behind them is up to a mixer."""


def find_microphones(root: Path) -> Search:
    """Every device of every card that records; names as `arecord -L` gives them, which stay when a card moves."""
    cards = {int(number): (name, long) for number, name, long in _CARD.findall(read(root / "proc/asound/cards"))}
    found = []
    for card, device, text in _DEVICE.findall(read(root / "proc/asound/pcm"))[: 4 * _MAX_MICROPHONES]:
        name, _, rest = text.partition(" : ")
        if int(card) in cards and "capture" in rest and _CROSSBAR not in name:
            found.append(_microphone(root, *cards[int(card)], int(card), int(device), name))
    nothing = "no sound card records; USB microphones appear by themselves, in a container with `--device /dev/snd`"
    return Search("microphone", tuple(found[:_MAX_MICROPHONES]), nothing)


def _microphone(root: Path, card_id: str, long: str, card: int, device: int, name: str) -> Found:
    _, _, product = long.partition(" - ")
    settings = {"type": "microphone", "device": f"plughw:CARD={card_id},DEV={device}"}
    problem = access_problem(root / f"dev/snd/pcmC{card}D{device}c", root, "audio")
    return Found(f"{printable(product or long)}, {printable(name)}", settings, problem=problem)
