"""A stand-in for `arecord`: a program of its own that gives a sine, keeps time, and can misbehave.

It reads the same options as the real one, and shows by its sound that they arrived: channel c has the tone (c + 1) kHz.
"""

import json
import os
import stat
import sys
from pathlib import Path

_PROGRAM = """#!{python}
import argparse, array, json, math, os, sys, time
p = argparse.ArgumentParser()
for name in ("device", "file-type", "format", "buffer-time", "period-time"):
    p.add_argument("--" + name)
p.add_argument("--rate", type=int)
p.add_argument("--channels", type=int)
p.add_argument("--quiet", action="store_true")
p.add_argument("--fatal-errors", action="store_true")
o = p.parse_args()
how = json.loads({how!r})
assert (o.file_type, o.format, o.quiet, o.fatal_errors) == ("raw", "S16_LE", True, True)
unplugged, silent = (os.path.join(os.path.dirname(sys.argv[0]), name) for name in ("unplugged", "silent"))
if how["refuses"] or o.device == "nothing" or os.path.exists(unplugged):
    sys.exit("arecord: main:831: audio open error: " + (how["refuses"] or "No such file or directory"))
start, done = time.monotonic(), 0
while (how["samples"] is None or done < how["samples"]) and not os.path.exists(unplugged):
    slice_ = array.array("h")
    for n in range(done, done + o.rate // 100):
        for c in range(o.channels):
            slice_.append(round(16384 * math.sin(2 * math.pi * 1000 * (c + 1) * n / o.rate)))
    data = slice_.tobytes()
    if not os.path.exists(silent):
        os.write(1, data[:3])
        os.write(1, data[3:])
    done += o.rate // 100
    time.sleep(max(0.0, start + done / o.rate / how["speed"] - time.monotonic()))
if how["stalls"]:
    time.sleep(3600)
sys.exit(how["last_words"])
"""


def put_arecord(
    folder: Path,
    *,
    refuses: str = "",
    samples: int | None = None,
    speed: float = 1.0,
    stalls: bool = False,
    last_words: str = "arecord: pcm_read:2221: read error: No such device",
) -> None:
    """Make it, as `folder/arecord`.

    While there is a file `unplugged` beside it, its device is gone; while there is one called `silent`, nothing comes.
    There is no device `nothing`.

    Args:
        folder: belongs into PATH.
        refuses: why it can't open the device.
        samples: after so many the device is gone; None: never.
        speed: how many times as fast as it should be.
        stalls: at the end it gives nothing more, but stays.
        last_words: at the end.
    """
    how = {"refuses": refuses, "samples": samples, "speed": speed, "stalls": stalls, "last_words": last_words}
    program = folder / "arecord"
    program.write_text(_PROGRAM.format(python=sys.executable, how=json.dumps(how)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def path_with(folder: Path) -> str:
    """PATH with this folder first."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
