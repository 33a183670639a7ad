"""A microphone without hardware: a real PulseAudio server with a null sink, whose monitor ALSA's `pulse` device hears.

The way from `arecord` on is the real one, clock included. What is played before the recorder's first bytes is lost to
it: they can take two seconds.
"""

import os
import subprocess
from pathlib import Path
from typing import Self

from tests.sim import require_program, wait_until

_SETUP = """load-module module-null-sink sink_name=room rate=16000 channels=1
set-default-source room.monitor
load-module module-native-protocol-unix socket={folder}/native auth-anonymous=1
"""


class Pulse:
    """The server; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find it, and nothing else of sound on this machine."""
        folder = str(self.folder)
        return {
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "PULSE_RUNTIME_PATH": folder,
            "PULSE_SERVER": f"unix:{folder}/native",
        }

    def __enter__(self) -> Self:
        pulseaudio = require_program("pulseaudio", "apt install pulseaudio libasound2-plugins")
        self.folder.mkdir(mode=0o700)
        setup = self.folder / "setup.pa"
        setup.write_text(_SETUP.format(folder=self.folder))
        command = [pulseaudio, "-n", f"--file={setup}", "--exit-idle-time=-1", "--use-pid-file=no"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=log, env={**os.environ, **self.environment}
            )
        wait_until((self.folder / "native").exists, 10.0, "PulseAudio")
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once; recorders lose their device."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def play(self, *paths: Path) -> None:
        """Play recordings one after the other; comes back at the end."""
        paplay = require_program("paplay", "apt install pulseaudio-utils")
        for path in paths:
            subprocess.run(
                [paplay, "--device=room", str(path)], check=True, timeout=300, env={**os.environ, **self.environment}
            )
