"""`replay` of sound through real models. Wake word models hear their own word and nothing else, and all give what the
bare interpreter gives when it is fed by hand."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.cli.replay import replay
from agent.config import Config, MicrophoneSource, Models, Pipeline
from agent.inference.interpreter import Interpreter
from tests.sim.bundles import make_bundle, model_path
from tests.sim.speech import OTHER, length_s, say, with_pauses
from tests.sim.wavs import write_wav

pytestmark = pytest.mark.runtime

WORDS = {"okay_nabu": ("okay nabu", 0.85), "alexa": ("alexa", 0.9), "hey_mycroft": ("hey mycroft", 0.95)}
"""Models, with the word and the confidence from which it counts, as the models' own descriptions say."""


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recording of each word, and a minute of other ones."""
    folder = tmp_path_factory.mktemp("speech")
    spoken = {name: with_pauses(say(word, folder / f"{name}.wav"), 3, 3) for name, (word, _) in WORDS.items()}
    return {**spoken, "other": say(OTHER, folder / "other.wav")}


def replayed(name: str, tmp_path: Path, recording: Path, min_confidence: float) -> list[dict[str, Any]]:
    """The results, one for each window."""
    models = tmp_path / "models"
    if not models.exists():
        make_bundle(name, tmp_path)
    pipeline = Pipeline(name="p", source=MicrophoneSource(), model=name, min_confidence=min_confidence)
    config = Config(models=Models(dir=str(models)), pipelines=(pipeline,))
    file = io.BytesIO()
    windows, broken = replay(config, pipeline, str(recording), file)
    results = [json.loads(line) for line in file.getvalue().splitlines()]
    assert (len(results), broken) == (windows, 0)
    return results


@pytest.mark.parametrize("name", WORDS)
def test_a_model_hears_its_word_for_as_long_as_that_is_in_the_window(name, speech, tmp_path):
    word, min_confidence = WORDS[name]
    results = replayed(name, tmp_path, speech[name], min_confidence)
    heard = [turn for turn, result in enumerate(results) if result["classes"]]
    assert 3 <= len(heard) <= 12
    assert heard[-1] - heard[0] <= len(heard)  # one stretch, with at most one window without it
    assert {found["label"] for result in results for found in result["classes"]} == {word}


@pytest.mark.parametrize("name", WORDS)
def test_a_model_hears_nothing_in_a_minute_of_other_speech_or_in_the_other_words(name, speech, tmp_path):
    assert length_s(speech["other"]) > 60
    for other in speech.keys() - {name}:
        results = replayed(name, tmp_path, speech[other], WORDS[name][1])
        assert [result for result in results if result["classes"]] == []


def test_windows_are_a_quarter_of_a_second_apart(speech, tmp_path):
    results = replayed("alexa", tmp_path, speech["other"], 0.9)
    assert len(results) == (round(length_s(speech["other"]) * 1000) - 3000) // 250 + 1


def by_hand(model: Path, window: np.ndarray) -> float:
    """The model's answer to a window of 16-bit numbers."""
    from pymicro_features import MicroFrontend

    interpreter, front_end = Interpreter(model.read_bytes(), threads=1), MicroFrontend()
    scale, zero_point = interpreter.inputs[0].scale, interpreter.inputs[0].zero_point
    features, confidences = [], []
    for start in range(0, len(window) - 159, 160):
        features += (
            [made] if (made := front_end.process_samples(window[start : start + 160].tobytes()).features) else []
        )
        if len(features) == 3:
            quantised = np.clip(np.rint(np.array(features) / scale + zero_point), -128, 127)
            interpreter.input_view()[...] = quantised.reshape(1, 3, 40)
            interpreter.invoke()
            confidences.append(float(interpreter.output_views()[0].item()) / 256)
            features = []
    return max(np.convolve(confidences[33:], np.ones(5) / 5, "valid"))


@pytest.mark.parametrize("name", WORDS)
def test_confidences_are_those_of_the_bare_model(name, tmp_path):
    """Of noise, which makes all the features busy; below any threshold."""
    sound = np.random.default_rng(5).normal(0, 3000, 56000).astype("<i2")
    results = replayed(name, tmp_path, write_wav(tmp_path / "a.wav", sound / 32768), 0.0)
    expected = [by_hand(model_path(name), sound[start : start + 48000]) for start in (0, 4000, 8000)]
    assert np.allclose([result["classes"][0]["confidence"] for result in results], expected, atol=1e-3)


def test_a_model_that_leaves_its_input_open_gets_the_shape_of_the_manifest(tmp_path):
    sound = np.random.default_rng(6).normal(0, 3000, 16000).astype("<i2")
    results = replayed("melspectrogram", tmp_path, write_wav(tmp_path / "a.wav", sound / 32768), 0.0)
    interpreter = Interpreter(model_path("melspectrogram").read_bytes(), threads=1, shape=(1, 1760))
    for result, start in zip(results, range(0, 16000 - 1759, 1280), strict=True):
        interpreter.input_view()[0] = sound[start : start + 1760]
        interpreter.invoke()
        assert np.allclose(result["values"], interpreter.output_views()[0].reshape(-1), atol=1e-3)
