"""Build models that no package has as TFLite: EfficientNet-Lite0 in its variants, and an int8 SSD.

They go to .cache/models, for the tests. TensorFlow is needed only here, so it gets an environment of its own,
.venv-zoo. The models are not the same bit for bit on every machine: tests compare what they answer, not digests.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-zoo"
BUILDER = ROOT / "tools" / "zoo_models.py"
REPORT = ROOT / ".cache" / "zoo" / "report.json"

REQUIREMENTS = (
    "tensorflow-cpu==2.21.0" if platform.machine() in {"x86_64", "AMD64"} else "tensorflow==2.21.0",
    "keras==3.15.1",
    "ai-edge-litert==2.3.0",
    "litert-quantizer==0.11.0",
    "opencv-python-headless>=4.8",
)
PYTHONS = ((3, 10), (3, 13))
"""TensorFlow 2.21 has wheels for these and what is between."""

BUILT = ("efflite0_fp32", "efflite0_fp16", "efflite0_dyn", "efflite0_int8", "efflite0_uint8", "ssd_oidv4_int8")


class ZooError(Exception):
    """One line: what failed, and how to mend it."""


def make_venv() -> float:
    """Make .venv-zoo if it is not there with these requirements; returns the seconds that it took."""
    start = time.monotonic()
    ready = VENV / "ready.txt"
    wanted = "\n".join(REQUIREMENTS)
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return 0.0
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise ZooError(
            f"TensorFlow 2.21 is for Python 3.10 to 3.13, this is {platform.python_version()}: run it with one of those"
        )
    print("making .venv-zoo (700 MB to fetch, 1.9 GB on disk)", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(VENV)], "apt-get install python3-venv")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *REQUIREMENTS], "check the network and free space, then run this again")
    ready.write_text(wanted, encoding="utf-8")
    return time.monotonic() - start


def build(only: Sequence[str], force: bool) -> None:
    """Fetch what the models are made from, and make those that are missing or were made by another builder."""
    stamp = hashlib.sha256(BUILDER.read_bytes() + "\n".join(REQUIREMENTS).encode()).hexdigest()
    report = _load_report()
    models = ROOT / ".cache" / "models"
    stale = [
        name
        for name in only
        if force or report.get(name, {}).get("builder") != stamp or not (models / f"{name}.tflite").is_file()
    ]
    for name in sorted(set(only) - set(stale)):
        print(f"{name}: there already")
    if not stale:
        return
    venv_s = make_venv()
    groups = ["zoo", *(["test"] if "ssd_oidv4_int8" in stale else [])]
    _run([sys.executable, str(ROOT / "tools" / "fetch_models.py"), *groups], "see the lines above")
    start = time.monotonic()
    print(f"building {', '.join(stale)}", flush=True)
    _run([str(VENV / "bin" / "python"), str(BUILDER), *stale], f"see {REPORT.with_name('build.log')}")
    report = _load_report()
    for name in stale:
        report[name]["builder"] = stamp
    report["last"] = {"venv_s": round(venv_s, 1), "build_s": round(time.monotonic() - start, 1), "built": stale}
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"environment {venv_s:.0f} s, build {time.monotonic() - start:.0f} s; details in {REPORT}")


def _load_report() -> dict[str, dict[str, object]]:
    try:
        report: dict[str, dict[str, object]] = json.loads(REPORT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report


def _run(command: list[str], mend: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ZooError(f"{Path(command[0]).name} {Path(command[1]).name} failed with code {done.returncode}: {mend}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""What is there already is not built again.

exit codes: 0 all models are there, 1 something failed, 2 wrong arguments

examples:
  python3 tools/build_zoo.py                     everything, some minutes
  python3 tools/build_zoo.py efflite0_int8       one model
  python3 tools/build_zoo.py --only-venv         TensorFlow for your own experiments""",
    )
    parser.add_argument("model", nargs="*", help=f"which; default: all of {', '.join(BUILT)}")
    parser.add_argument("--force", action="store_true", help="build anew what is there")
    parser.add_argument("--only-venv", action="store_true", help="make the environment and build nothing")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.model) - set(BUILT)):
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(BUILT)}")
    try:
        if options.only_venv:
            make_venv()
        else:
            build(options.model or BUILT, options.force)
    except ZooError as exc:
        print(f"build_zoo: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
