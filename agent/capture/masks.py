"""What must never be seen is black before anything looks."""

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

from agent.config import Mask
from agent.values import Frame, Image


def masked(frame: Frame, masks: Sequence[Mask]) -> Frame:
    """The frame with its masks black; pixels that a mask only touches are black too. Samples stay as they are."""
    if not masks or frame.channels:
        return frame
    picture = cast("Image", frame.data).copy()  # the source's own memory may be read only
    height, width = picture.shape[:2]
    for left, top, right, bottom in masks:
        rows = slice(math.floor(top * height), math.ceil(bottom * height))
        picture[rows, math.floor(left * width) : math.ceil(right * width)] = 0
    return dataclasses.replace(frame, data=picture)
