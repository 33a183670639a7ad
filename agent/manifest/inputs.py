"""How frames become a model's input: pictures, windows of sensor values, windows of sound."""

from typing import Annotated, Literal

from msgspec import Meta

from agent.manifest.section import Positive, Section, Share


class CropStep(Section, frozen=True, tag_field="op", tag="crop"):
    """Keep a region of the frame; edges as shares of its width and height."""

    xyxy: tuple[Share, Share, Share, Share]

    def __post_init__(self) -> None:
        if not (self.xyxy[0] < self.xyxy[2] and self.xyxy[1] < self.xyxy[3]):
            raise ValueError("expected left < right and top < bottom")


class RotateStep(Section, frozen=True, tag_field="op", tag="rotate"):
    """Turn the frame clockwise."""

    degrees: Literal[90, 180, 270]


class FlipStep(Section, frozen=True, tag_field="op", tag="flip"):
    """Mirror the frame: left and right change places (`horizontal`), or top and bottom (`vertical`)."""

    axis: Literal["horizontal", "vertical"]


class DenoiseStep(Section, frozen=True, tag_field="op", tag="denoise"):
    """Remove noise: a median filter, or fast non-local means (better, and very much slower)."""

    method: Literal["median", "nlm"] = "median"
    size_px: Literal[3, 5, 7] = 3
    """Side of the median's window, or of the patches that non-local means compares."""
    strength: Annotated[float, Meta(gt=0.0, le=100.0)] = 3.0
    """Filter strength h of non-local means, in gray levels; the median does not use it."""


class EqualizeStep(Section, frozen=True, tag_field="op", tag="equalize"):
    """Lift local contrast: CLAHE on the luma channel."""

    clip_limit: Annotated[float, Meta(gt=0.0, le=100.0)] = 2.0
    tiles: Annotated[int, Meta(ge=1, le=64)] = 8
    """Tiles a side."""


class GammaStep(Section, frozen=True, tag_field="op", tag="gamma"):
    """Brighten (over 1) or darken (under 1): out = 255 * (in / 255) ** (1 / gamma)."""

    gamma: Annotated[float, Meta(gt=0.0, le=10.0)]


Step = CropStep | RotateStep | FlipStep | DenoiseStep | EqualizeStep | GammaStep


Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 20)], ...], Meta(min_length=1, max_length=8)]


class InputSpec(Section, frozen=True, tag_field="type", tag="image"):
    """How a picture becomes the model's input. `type: image` may be left out."""

    width_px: Annotated[int, Meta(ge=1, le=4096)]
    height_px: Annotated[int, Meta(ge=1, le=4096)]
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Literal["letterbox", "crop", "stretch"] = "letterbox"
    """`letterbox` keeps everything and pads; `crop` fills and cuts off what sticks out, evenly; `stretch` distorts."""
    sampling: Literal["half_pixel", "corner"] = "half_pixel"
    """Where the resize takes its samples: as OpenCV and TensorFlow 2 do, or as MediaPipe does."""
    pad_value: Annotated[int, Meta(ge=0, le=255)] = 0
    """Gray level of the letterbox's border."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (0.0,)
    """Subtracted from the pixel values 0-255: one for all channels, or one for each."""
    std: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=3)] = (1.0,)
    """What the difference is divided by: one for all channels, or one for each."""
    steps: tuple[Step, ...] = ()
    """Done in this order, on the whole frame, before the resize."""
    shape: Shape | None = None
    """Of the input tensor, for models that leave it open: it is resized to this before its memory is allocated."""

    def __post_init__(self) -> None:
        channels = 1 if self.color == "gray" else 3
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{key}: expected 1 value or {channels} for color {self.color}, got {len(values)}")


class SeriesInput(Section, frozen=True, kw_only=True, tag_field="type", tag="series"):
    """How windows of sensor values become the model's input: samples x channels, (value - mean) / std.

    A tensor with fewer samples than a window is fed step by step, and the model's state begins anew in each window.
    """

    channels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(min_length=1, max_length=256)
    ]
    """Which of the source's channels, in this order."""
    samples: Annotated[int, Meta(ge=1, le=65536)]
    """Length of a window."""
    stride: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """Samples from one window to the next. Default: windows do not overlap."""
    rate_hz: Positive | None = None
    """Readings are averaged to this rate. Default: each reading is a sample, as it comes."""
    max_gap_s: Positive = 5.0
    """A channel that gives nothing keeps its last value for so long."""
    missing: Literal["skip", "mean"] = "skip"
    """A window with values that are missing after that: `skip` leaves it out, `mean` puts in the channel's mean."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (0.0,)
    """One for all channels, or one for each."""
    std: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=256)] = (1.0,)
    """One for all channels, or one for each."""
    shape: Shape | None = None
    """As for pictures."""

    def __post_init__(self) -> None:
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("channels: a name is there twice")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(self.channels)):
                raise ValueError(f"{key}: expected 1 value or {len(self.channels)}, got {len(values)}")


class RawFrontEnd(Section, frozen=True, tag_field="type", tag="raw"):
    """The samples themselves."""


class LogMelFrontEnd(Section, frozen=True, tag_field="type", tag="log_mel"):
    """log(mel spectrogram + offset), magnitudes over Hann windows; defaults and formula are YAMNet's.

    (tensorflow/models, research/audioset/yamnet: params.py, features.py)
    """

    frame_s: Positive = 0.025
    hop_s: Positive = 0.010
    bands: Annotated[int, Meta(ge=1, le=512)] = 64
    low_hz: Annotated[float, Meta(ge=0.0)] = 125.0
    high_hz: Positive = 7500.0
    offset: Positive = 0.001


class MicroFrontEnd(Section, frozen=True, tag_field="type", tag="micro"):
    """TensorFlow Lite Micro's audio front end, as microWakeWord models take it: 40 features every 10 ms.

    Needs the package pymicro-features (`pip install 'edge-agent[audio]'`).
    """


FrontEnd = RawFrontEnd | LogMelFrontEnd | MicroFrontEnd


class AudioInput(Section, frozen=True, kw_only=True, tag_field="type", tag="audio"):
    """How windows of sound become the model's input: (feature - mean) / std, features x bands.

    A tensor with fewer features than a window is fed step by step, and the model's state begins anew in each window.
    """

    rate_hz: Annotated[int, Meta(ge=4000, le=192000)] = 16000
    """Of the samples that the model takes; a microphone with another rate is resampled."""
    window_s: Annotated[float, Meta(gt=0.0, le=60.0)]
    """Length of a window."""
    stride_s: Annotated[float, Meta(gt=0.0, le=60.0)] | None = None
    """From one window to the next. Default: a quarter of a window."""
    front_end: FrontEnd = RawFrontEnd()
    mean: float = 0.0
    std: Positive = 1.0
    """For raw sound, which lies between -1 and 1: 0.000030517578125 makes 16-bit numbers of it."""
    average_steps: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Fed step by step: answers are averaged over so many steps, and the highest mean of the window counts."""
    settle_steps: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Fed step by step: answers of the first so many steps do not count, as front end and state begin anew."""
    shape: Shape | None = None
    """As for pictures."""

    def __post_init__(self) -> None:
        if round(self.window_s * self.rate_hz) < 1:
            raise ValueError(f"window_s: expected at least a sample ({1 / self.rate_hz:g} s)")


ModelInputSpec = InputSpec | SeriesInput | AudioInput


class Constant(Section, frozen=True, tag_field="from", tag="constant"):
    """The same numbers for every frame."""

    value: float | tuple[float, ...]


class Feedback(Section, frozen=True, tag_field="from", tag="output"):
    """What an output was at the step before; zeros at the first step of a window."""

    name: str
    """Of the output."""


MoreInput = Constant | Feedback
