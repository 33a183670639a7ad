"""Samples as devices send them."""

import json
from typing import Any

import cv2
import numpy as np

from agent.values import Image


def told(number: int, **fields: Any) -> str:
    """What is told of a sample."""
    return json.dumps(
        {
            "id": f"{number:016x}",
            "device": "cam-1",
            "pipeline": "door",
            "captured_at": f"2026-11-27T10:{number // 60 % 60:02}:{number % 60:02}.000Z",
            "frame_index": number,
            "reasons": ["unsure"],
            "model": "digits",
            "version": "1",
            "predicted": "3",
            "confidence": 0.6,
            "margin": 0.1,
            "suffix": ".png",
            **fields,
        }
    )


def png(picture: Image | int = 0) -> bytes:
    """A picture as PNG; a number: a small one of this gray."""
    if isinstance(picture, int):
        picture = np.full((8, 8), picture, np.uint8)
    return cv2.imencode(".png", picture)[1].tobytes()
