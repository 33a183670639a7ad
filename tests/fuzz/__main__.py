"""Coverage-guided fuzzing with atheris (libFuzzer): `make fuzz SECONDS=600 TARGET=command`.

Each target runs in a process of its own. What it learns stays in .cache/fuzz/NAME/corpus and is gone on from the next
time; an input that is a finding lies beside it, and `python -m tests.fuzz --try NAME FILE` tries it again.
"""

import argparse
import contextlib
import functools
import logging
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TimeElapsedColumn

from tests.fuzz.mutate import WORDS, mutate

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "fuzz"
MAX_INPUT_BYTES = 70_000
"""A little more than the largest message that is looked at."""
HANG_S = 120
"""A second is long for any input; so much is for machines with other work."""
MAX_RSS_MB = 2048


@dataclass(frozen=True)
class Outcome:
    """How a target did."""

    name: str
    inputs: int
    seconds: float
    finding: str
    """Empty: none."""


def fuzz_here(name: str, libfuzzer_args: list[str]) -> None:
    """Body of a target's process; libFuzzer ends it."""
    import atheris  # the extra `fuzz`: only here, as it changes how modules are imported

    with atheris.instrument_imports(include=["agent", "tools"]):
        from agent.logs import configure_logs
        from tests.fuzz.targets import attempt

    def try_one(data: bytes) -> None:
        attempt(name, data)

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        """libFuzzer's own changes, and ours."""
        if seed % 2:
            return bytes(atheris.Mutate(data, max_bytes))
        return mutate(data, random.Random(seed))[:max_bytes]

    configure_logs("error", "json")
    logging.disable()
    atheris.Setup([sys.argv[0], *libfuzzer_args], try_one, custom_mutator=change)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, tick: Callable[[], None]) -> Outcome:
    """Run a target for so long, or until its first finding; `tick` is called once a second."""
    home = HOME / name
    began_s = time.monotonic()
    with (home / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.fuzz", "--child", name, *_lay_out(home, name, seconds)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            tick()
    text = (home / "log").read_text(errors="replace")
    counts = re.findall(r"^(?:stat::number_of_executed_units: |#)(\d+)", text, re.MULTILINE)
    inputs = max(map(int, counts), default=0)
    return Outcome(name, inputs, time.monotonic() - began_s, _finding(text) if process.returncode else "")


def _lay_out(home: Path, name: str, seconds: int) -> list[str]:
    """Write seeds and words; gives libFuzzer's arguments."""
    from tests.fuzz.targets import seeds

    corpus, words = home / "corpus", home / "words"
    corpus.mkdir(parents=True, exist_ok=True)
    quoted = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS if len(word) < 64]
    words.write_text("".join(f'"{word}"\n' for word in quoted))
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed[:MAX_INPUT_BYTES])
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={HANG_S}"]
    limits += [f"-rss_limit_mb={MAX_RSS_MB}", f"-dict={words}", f"-artifact_prefix={home}/", "-print_final_stats=1"]
    return [*limits, str(corpus)]


def _finding(text: str) -> str:
    python = re.findall(r"Uncaught Python exception: ===\n(.*)", text)
    native = re.findall(r"ERROR: libFuzzer: (.*)", text)
    last = text.strip().splitlines()[-1:]
    return (python or native or last or ["it ended"])[0]


def main() -> int:
    """The command line."""
    from tests.fuzz.targets import TARGETS, attempt

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--try", nargs=2, metavar=("NAME", "FILE"), dest="again", help="try one input, without atheris")
    options = parser.parse_args()
    if options.again:
        name, file = options.again
        print("taken" if attempt(name, Path(file).read_bytes()) else "refused")
        return 0
    return fuzz_all(options.target or list(TARGETS), options.seconds)


def fuzz_all(names: list[str], seconds: int) -> int:
    """One after the other; 1 when there was a finding."""
    found = 0
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
        for name in names:
            (HOME / name).mkdir(parents=True, exist_ok=True)
            task = progress.add_task(name, total=seconds)
            outcome = fuzz(name, seconds, functools.partial(progress.advance, task))
            progress.remove_task(task)
            found += bool(outcome.finding)
            verdict = f"FOUND {outcome.finding} (see {HOME / name})" if outcome.finding else "nothing found"
            rate = outcome.inputs / outcome.seconds
            line = f"{name:16} {outcome.inputs:10,} inputs {rate:8,.0f}/s  {verdict}"
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
    sys.exit(main())
