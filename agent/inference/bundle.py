"""A model version with all it needs: manifest, labels, preprocess, interpreter, decoder; loaded and swapped as one.

Runs inside a worker; the daemon itself never loads one.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.config import Delegate
from agent.decode import make_decoder
from agent.errors import ModelError
from agent.inference.features import Features, Read
from agent.inference.interpreter import Interpreter
from agent.inference.preprocess import Preprocess
from agent.inference.protocol import EVIDENCE_FROM, Answer, BundleInfo, Evidence
from agent.inference.series import AudioPreprocess, SeriesPreprocess, rows_and_columns, step_rows, window_of
from agent.inference.stepped import Stepped
from agent.manifest import (
    AnomalyDecoder,
    AudioInput,
    ClassifyDecoder,
    DecoderSpec,
    InputSpec,
    Manifest,
    ModelInputSpec,
    SeriesInput,
    complete_decoder,
    load_labels,
    load_manifest,
)
from agent.values import Image, Samples, Tensor, TensorInfo, Transform

MAX_MODEL_BYTES = 1 << 30
MAX_HEAD_BYTES = 64 << 20


class Bundle:
    """One loaded model version. Not thread-safe: one bundle, one thread."""

    def __init__(
        self,
        info: BundleInfo,
        manifest: Manifest,
        interpreter: Interpreter | Stepped,
        labels: tuple[str, ...],
        head: bytes | None = None,
    ) -> None:
        self.info = info
        self.manifest = manifest
        self.interpreter = interpreter
        self.preprocess = _make_preprocess(manifest.input, interpreter.inputs[0])
        # A model that takes a whole window at once may have a state too: layers of LSTM and the like keep theirs.
        takes_windows = not isinstance(manifest.input, InputSpec)
        self._begins_anew = interpreter if takes_windows and isinstance(interpreter, Interpreter) else None
        self._compares = isinstance(manifest.decoder, AnomalyDecoder)
        self._features = Features(manifest, interpreter.outputs, labels, head)
        outputs = [*self._features.infos, *([interpreter.inputs[0]] if self._compares else [])]
        spec = self._features.complete(complete_decoder(manifest))
        self.decode = make_decoder(spec, labels, _input_wh(manifest.input), outputs)
        self._decode_evidence = make_decoder(_with_second(spec), labels, _input_wh(manifest.input), outputs)

    def run(self, data: Image | Samples, min_confidence: float, *, evidence: bool = False) -> Answer:
        """Frame in, answer out: the whole work of a worker. With `evidence`, also what stands behind the answer.

        Raises:
            ModelError: the model failed on this frame; the next one may work.
        """
        start_ns = time.perf_counter_ns()
        if self._begins_anew is not None:
            self._begins_anew.reset()  # before the input is written: a model may be loaded anew for it
        transform = self.preprocess(data, self.interpreter.input_view())
        ready_ns = time.perf_counter_ns()
        self.interpreter.invoke()
        invoked_ns = time.perf_counter_ns()
        read = self._features.read(self.interpreter.output_views(), evidence=evidence)
        if self._compares:
            read.outputs.append(self.interpreter.input_view())
        found = self.decode(read.outputs, transform, min_confidence)
        more = None
        if evidence:
            more = Evidence(self._decode_evidence(read.outputs, transform, EVIDENCE_FROM), *_bytes_of(read))
        del read  # views that are held would make the next `invoke` fail
        done_ns = time.perf_counter_ns()
        return Answer(
            found=found,
            preprocess_ms=_ms(ready_ns - start_ns),
            infer_ms=_ms(invoked_ns - ready_ns),
            decode_ms=_ms(done_ns - invoked_ns),
            evidence=more,
        )


def _with_second(spec: DecoderSpec) -> DecoderSpec:
    """How sure the best class is, its lead over the second says, whether or not that is an answer."""
    return msgspec.structs.replace(spec, top_k=max(2, spec.top_k)) if isinstance(spec, ClassifyDecoder) else spec


def _bytes_of(read: Read) -> Iterator[bytes]:
    for values in (read.embedding, read.log_confidences):
        yield b"" if values is None else values.astype("<f4").tobytes()


class _MakesInputs(Protocol):
    """Writes a frame into the model's input."""

    def __call__(self, data: Any, view: Tensor, /) -> Transform: ...


def _make_preprocess(spec: ModelInputSpec, tensor: TensorInfo) -> _MakesInputs:
    if isinstance(spec, InputSpec):
        return Preprocess(spec, tensor)
    return SeriesPreprocess(spec, tensor) if isinstance(spec, SeriesInput) else AudioPreprocess(spec, tensor)


def _input_wh(spec: ModelInputSpec) -> tuple[int, int]:
    if isinstance(spec, InputSpec):
        return spec.width_px, spec.height_px
    rows, columns = rows_and_columns(spec)
    return columns, rows


def _stepped(interpreter: Interpreter, spec: ModelInputSpec) -> Interpreter | Stepped:
    """A model that takes less than a window at a time is fed step by step."""
    if isinstance(spec, InputSpec):
        return interpreter
    rows, columns = rows_and_columns(spec)
    at_a_time = step_rows(interpreter.inputs[0], rows, columns)
    if at_a_time is None:
        return interpreter
    if isinstance(spec, AudioInput):
        return Stepped(interpreter, rows, columns, at_a_time, spec.average_steps, spec.settle_steps)
    return Stepped(interpreter, rows, columns, at_a_time, None)


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)


def load_bundle(
    folder: Path, *, threads: int | None = None, delegate: Delegate | None = None, manifest: Manifest | None = None
) -> Bundle:
    """Read, check and load a bundle; `manifest` is its own, if it was read before.

    The model is read once and handed over as bytes: a mapped file that changes later crashes the process or, worse,
    quietly changes the answers.

    Raises:
        ModelError: a file is missing or too large, the manifest is wrong, or the model has other tensors than it says.
    """
    manifest = manifest or load_manifest(folder / "manifest.yaml")
    labels = load_labels(folder / manifest.labels) if manifest.labels else ()
    model = _read(folder / "model.tflite", MAX_MODEL_BYTES)
    try:
        interpreter = Interpreter(
            model,
            threads=threads or manifest.threads,
            delegate=delegate,
            shape=manifest.input.shape,
            more_inputs=manifest.more_inputs,
        )
        runtime = interpreter.runtime
        info = BundleInfo(
            name=manifest.name,
            version=manifest.version,
            sha256=hashlib.sha256(model).hexdigest(),
            task=manifest.task,
            runtime=f"{runtime.package} {runtime.version}",
            threads=runtime.threads,
            delegate=runtime.delegate,
            warning=interpreter.warning,
            window=window_of(manifest.input),
        )
        head = _read(folder / manifest.head, MAX_HEAD_BYTES) if manifest.head else None
        return Bundle(info, manifest, _stepped(interpreter, manifest.input), labels, head)
    except ModelError as exc:
        raise ModelError(f"{folder / 'model.tflite'}: {exc}") from exc


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size  # first: read(n) sets n bytes aside before it looks how many there are
        if size > max_bytes:
            raise ModelError(f"{path}: larger than {max_bytes} bytes")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as exc:
        mend = "; `make models` fetches the ones of this repository" if path.name == "model.tflite" else ""
        raise ModelError(f"{path}: {(exc.strerror or str(exc)).lower()}{mend}") from exc
