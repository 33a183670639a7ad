"""Speech as WAV files, from espeak-ng; the same text gives the same sound."""

import subprocess
import wave
from pathlib import Path

from tests.sim import require_program

OTHER = """The weather is nice today, and the children play in the garden. Please remember to buy bread, milk and a
dozen eggs on your way home. The train to the city leaves at half past seven from platform two. My neighbour repairs old
clocks and sells them at the market on Sunday. She told me that the library will be closed until the end of the month.
We walked along the river for two hours before it started to rain. He plays the piano every evening, although his
fingers are no longer young. There are many stars in the sky when the lights of the town go out. Yesterday the postman
brought a parcel from my sister in Canada. In the kitchen a kettle whistles and somebody laughs. Nobody knows who left
the gate open, but the sheep are in the meadow. Next summer they want to travel by bicycle through the mountains. The
teacher asked a question and waited for an answer. When the concert was over, the audience stood up and clapped. Could
you pass me the salt, and the pepper as well? The report has to be finished by Thursday afternoon. Turn the lights off,
and set an alarm for six in the morning. A small dog barked at the yellow bus. I would like a cup of tea without
sugar."""
"""Over a minute, without a wake word."""


def say(text: str, path: Path) -> Path:
    """Speak a text into a file: 22,050 Hz, 16 bit, mono."""
    espeak = require_program("espeak-ng", "apt install espeak-ng")
    flat = " ".join(text.split())
    subprocess.run([espeak, "-v", "en-us", "-s", "150", "-w", str(path), flat], check=True, timeout=60)
    return path


def length_s(path: Path) -> float:
    """How long a recording lasts."""
    with wave.open(str(path)) as recording:
        return recording.getnframes() / recording.getframerate()


def with_pauses(path: Path, before_s: float, after_s: float) -> Path:
    """Put silence around a recording, in place."""
    with wave.open(str(path)) as recording:
        form, sound = recording.getparams(), recording.readframes(recording.getnframes())
    second = bytes(form.framerate * form.sampwidth * form.nchannels)
    with wave.open(str(path), "wb") as recording:
        recording.setparams(form)
        recording.writeframes(second * round(before_s) + sound + second * round(after_s))
    return path
