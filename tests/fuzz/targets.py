"""One table of everything that reads bytes from outside. Hypothesis tries each for a moment in `make test`
(tests/property/test_hostile_input.py), atheris for as long as you like (`make fuzz SECONDS=600`).

A target takes any bytes and comes back, or raises one of the errors that its reader promises: one line for people.
Anything else is a finding: another exception, a broken assertion, a crash, a hang, memory without bound.
"""

import functools

from agent.errors import UpdateRefused
from agent.wire.releases import REASONS
from tests.fuzz import commands, devices, disk, files, signed, sources, workers
from tests.fuzz.bench import Target, check_line

PARTS = (files, signed, commands, disk, workers, sources, devices)
TARGETS: dict[str, Target] = {name: target for part in PARTS for name, target in part.TARGETS.items()}
"""By name, as in `make fuzz TARGET=command`."""


def attempt(name: str, data: bytes) -> bool:
    """Try one input; whether it was taken. Raises whatever is a finding."""
    target = TARGETS[name]
    try:
        target.body(data)
        return True
    except target.errors as exc:
        error = exc
    check_line(str(error))
    assert not isinstance(error, UpdateRefused) or error.reason_code in REASONS
    return False


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[name].seeds())
