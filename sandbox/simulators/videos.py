"""Draws a short video from a prompt: a real MP4 that any player opens."""

from __future__ import annotations

import io
from functools import lru_cache

import av
from PIL import Image, ImageEnhance

from sandbox.simulators import pictures

_WIDTH, _HEIGHT, _RATE, _FRAMES = 320, 176, 12, 12


def draw(prompt: str, seed: int) -> bytes:
    """A second of video: the picture of the prompt, brightening."""
    return _draw(pictures.words_of(prompt), seed)


@lru_cache(maxsize=64)
def _draw(prompt: str, seed: int) -> bytes:
    still = Image.open(io.BytesIO(pictures.draw(prompt, seed, _WIDTH, _HEIGHT, "png"))).convert("RGB")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for number in range(_FRAMES):
            picture = ImageEnhance.Brightness(still).enhance(0.4 + 0.6 * number / _FRAMES)
            frame = av.VideoFrame(_WIDTH, _HEIGHT, "rgb24")
            frame.planes[0].update(picture.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
