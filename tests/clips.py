"""Small clips made on the spot, with a flash and a beep at a known moment."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BEEP = 0.6
LASTS = 0.2


def write_clip(
    path: Path,
    *,
    times: Sequence[float] | None = None,
    rate: int = 20,
    seconds: float = 1.2,
    size: tuple[int, int] = (64, 48),
    audio: str | None = "aac",
    sample_rate: int = 16000,
    later: float = 0.0,
    codec: str = "libx264",
    key_every: int | None = None,
    paint: Any = None,
) -> Path:
    """Dark frames, white from ``BEEP`` for ``LASTS`` seconds, a tone at the same time; the picture may come later."""
    import av

    times = [i / rate for i in range(round(seconds * rate))] if times is None else times
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=rate, options={"preset": "ultrafast"})
        if key_every is not None:
            video.codec_context.gop_size = key_every
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 90000)
        sound: Any = container.add_stream(audio, rate=sample_rate) if audio else None
        if sound is not None:
            sound.layout = "mono"
        for time in times:
            level = 235 if BEEP - 1e-9 <= time < BEEP + LASTS - 1e-9 else 20
            pixels = np.full((size[1], size[0], 3), level, np.uint8) if paint is None else paint(time)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round((time + later) * 90000), Fraction(1, 90000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            t = np.arange(round(seconds * sample_rate)) / sample_rate
            tone = np.where((t >= BEEP) & (t < BEEP + LASTS), 0.8 * np.sin(2 * np.pi * 1000 * t), 0.0)
            name = sound.codec_context.format.name
            data = (tone * 32767).astype(np.int16) if name.startswith("s16") else tone.astype(np.float32)
            heard = av.AudioFrame.from_ndarray(data[None], format=name, layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = sample_rate, 0, Fraction(1, sample_rate)
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
    return path


def turned(path: Path) -> Path:
    """The same file with the flag of a telephone held upright: to be shown turned a quarter clockwise."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + (52 if data[at] == 1 else 40)
    cells = [0, 1 << 16, 0, (-(1 << 16)) & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(cell.to_bytes(4, "big") for cell in cells)
    path.write_bytes(bytes(data))
    return path


def flash_and_beep(path: Path) -> tuple[float, float]:
    """When the picture gets bright and when the tone begins, in seconds."""
    from squeezecam.video.reading import read_frames, read_sound

    bright = [f.seconds for f in read_frames(path) if _middle(f.pixels) > 90]
    samples, rate, start = read_sound(path)
    return bright[0], start + float(np.flatnonzero(np.abs(samples) > 0.3)[0]) / rate


def _middle(pixels: np.ndarray) -> float:
    width = pixels.shape[1]
    return float(pixels[10:38, width // 2 - 20 : width // 2 + 20].mean())
