"""Reading clips: pictures upright and in order, each with its time, at any frame rate; the sound as one signal."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_RATE = Fraction(25)
"""Frames a second where a file does not say."""
LEAST_MISSING, LEAST_SHARE = 0.3, 0.03
"""Seconds, and share of a clip, that are missing at its end before it is said to break off."""
_GAP = 0.03  # seconds of sound that may be missing or doubled before silence is put in or samples are left out


@dataclass(frozen=True)
class ClipInfo:
    """What a file says about itself.

    Attributes:
        path: the file.
        size: width and height in pixels of an upright frame.
        rate: average frames a second.
        frames: how many frames there should be, 0 where it is not known.
        seconds: length, 0 where it is not known.
        sound: whether there is an audio track.
        aspect: width of a pixel over its height, upright.

    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    frames: int
    seconds: float
    sound: bool
    aspect: Fraction


@dataclass(frozen=True)
class Frame:
    """One frame: its number from 0, its time in seconds on the file's own clock, upright uint8 pixels ``(H, W, 3)``."""

    index: int
    seconds: float
    pixels: NDArray[np.uint8]


def pyav() -> Any:
    """The PyAV package.

    Raises:
        InputError: it is not installed.

    """
    try:
        import av
        import av.error
    except ImportError:
        raise InputError('clips are read and written with PyAV: pip install "squeezecam[video]"') from None
    av.logging.set_level(None)  # damage is reported once, by this module
    return av


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """An open container; FFmpeg's errors become one line that names the file.

    Raises:
        InputError: no such file, or FFmpeg cannot read it.

    """
    av, place = pyav(), Path(path).expanduser()
    if not place.is_file():
        raise InputError(f"cannot read the clip {path}: {'it is a folder' if place.is_dir() else 'no such file'}")
    try:
        container = av.open(str(place))
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a clip: {_reason(error)}; it may be damaged or no video") from None
    with container:
        yield container


def probe(path: str | Path) -> ClipInfo:
    """What the file says about itself; its first frame is decoded.

    Raises:
        InputError: no such file, no video in it, or not one frame that can be decoded.

    """
    first = next(read_frames(path), None)
    if first is None:
        raise InputError(f"{path} holds no frame that can be decoded: it may be damaged or cut off")
    with opened(path) as container:
        stream = video_of(container, path)
        rate = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
        length = stream.duration * stream.time_base if stream.duration else None
        if length is None and container.duration:
            length = Fraction(container.duration, 1_000_000)
        seconds = float(length or 0)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        upright = (stream.codec_context.width, stream.codec_context.height) == first.pixels.shape[1::-1]
        return ClipInfo(
            Path(path),
            (first.pixels.shape[1], first.pixels.shape[0]),
            rate,
            stream.frames or round(seconds * rate),
            seconds,
            bool(container.streams.audio),
            aspect if upright or not aspect else 1 / aspect,
        )


def video_of(container: Any, path: str | Path) -> Any:
    """The video stream; a cover picture does not count."""
    av = pyav()
    cover = getattr(getattr(av.stream, "Disposition", None), "attached_pic", None)
    for stream in container.streams.video:
        if cover is None or not stream.disposition & cover:
            return stream
    raise InputError(f"{path} has no video in it")


def read_from(path: str | Path, start: float, count: int) -> list[Frame]:
    """Up to ``count`` frames from ``start`` seconds after the first on, decoded from the last key frame before it.

    Raises:
        InputError: no such file, or no video in it.

    """
    found = list(itertools.islice(read_frames(path, start=start), count))
    # A file whose index is wrong may lead past the place; then all that comes before is decoded.
    return found or list(itertools.islice((f for f in read_frames(path) if f.seconds >= start), count))


def read_frames(path: str | Path, notes: list[str] | None = None, *, start: float = 0.0) -> Iterator[Frame]:
    """All frames of a clip, upright (rotation flags are obeyed), with strictly rising times.

    What cannot be decoded is left out, and ``notes`` says so. Frames of another size than the first are brought to that
    size. ``start`` leaves out what comes before so many seconds after the beginning of the video.

    Raises:
        InputError: no such file, or no video in it.

    """
    av, said = pyav(), notes if notes is not None else []
    with opened(path) as container:
        stream = video_of(container, path)
        stream.thread_type = "AUTO"
        step = float(1 / Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE))
        index, last, shown, damaged, size = 0, -math.inf, step, 0, None
        begin = _sought(container, stream, av, start) if start > 0 else -math.inf
        for decoded in _decoded(container, stream, av):
            if decoded is None:
                damaged += 1
                continue
            seconds = decoded.time if decoded.time is not None else (last + step if index else 0.0)
            if seconds < begin - step / 2:
                continue
            if seconds <= last:
                seconds = last + step / 1000  # damaged or missing time stamps: order is kept, the place is not
            size = size or (decoded.width, decoded.height)
            pixels = decoded.to_ndarray(format="rgb24", width=size[0], height=size[1])
            turns = round(decoded.rotation / 90) % 4
            yield Frame(index, seconds, np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)
            index, last = index + 1, seconds
            shown = max(step, float((getattr(decoded, "duration", None) or 0) * (decoded.time_base or 0)))
        end = _end(container, stream, av)
        if index and end is not None and end - last - shown > max(LEAST_MISSING, LEAST_SHARE * end):
            said.append(f"{path} says that it lasts {end:.2f} s, and breaks off at {last + shown:.2f} s")
        if damaged:
            said.append(f"{damaged} damaged packets of {path} could not be decoded and were left out")


def _sought(container: Any, stream: Any, av: Any, start: float) -> float:
    """Go to the last key frame before ``start`` seconds after the beginning; the place on the clock of the frames."""
    base = stream.time_base or Fraction(1, 1_000_000)
    begin = float((stream.start_time or 0) * base) + start
    with contextlib.suppress(av.error.FFmpegError):  # a file without an index is read from its beginning
        container.seek(int(begin / base), stream=stream, backward=True)
    return begin


def _end(container: Any, stream: Any, av: Any) -> float | None:
    """Where the video ends by what the file says of itself, in seconds; None where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    if container.duration is None or container.streams.audio:  # the sound may be the longer one
        return None
    return float(container.duration / av.time_base)


def _decoded(container: Any, stream: Any, av: Any) -> Iterator[Any]:
    """Decoded frames; None for a packet that could not be decoded or for the point where the file breaks off."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            yield None
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            yield None
            continue
        yield from frames


def read_sound(path: str | Path, rate: int | None = None) -> tuple[NDArray[np.float32], int, float]:
    """The sound as one signal: samples ``(n,)`` in [-1, 1], channels averaged, their rate, the time of the first.

    Gaps are silence, so that sample ``i`` is heard at ``start + i / rate`` seconds on the clock of the frames.

    Raises:
        InputError: no such file, or no sound in it.

    """
    with opened(path) as container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound: an audio-visual model needs the voice")
        start: float | None = None
        parts: list[NDArray[np.float32]] = []
        used = rate or container.streams.audio[0].rate
        for begin, samples in decoded_sound(container, used, "mono"):
            start = begin if start is None else start
            parts.append(samples[0])
    if start is None:
        raise InputError(f"{path}: its sound cannot be decoded")
    return np.concatenate(parts), used, start


def decoded_sound(container: Any, rate: int, layout: str) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Pieces of the first audio track, gapless: the time of each, and its samples ``(channels, n)``, float32."""
    av = pyav()
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    start: float | None = None
    position = 0
    for frame in _with_end(_decoded(container, stream, av)):
        if frame is not None and not frame.samples:
            continue
        time = None if frame is None else frame.time
        for made in resampler.resample(frame):
            samples = made.to_ndarray().astype(np.float32, copy=False)
            if start is None:
                start = time if time is not None else 0.0
            ahead = 0 if time is None else round((time - start) * rate) - position
            if abs(ahead) > _GAP * rate + samples.shape[1]:  # the resampler itself holds back up to a frame
                if ahead > 0:
                    yield start + position / rate, np.zeros((len(samples), ahead), np.float32)
                    position += ahead
                else:
                    samples = samples[:, -ahead:]
            if samples.shape[1]:
                yield start + position / rate, samples
                position += samples.shape[1]


def _with_end(frames: Iterator[Any]) -> Iterator[Any]:
    """The frames that are there, and at the end None, which flushes a resampler."""
    yield from (frame for frame in frames if frame is not None)
    yield None


def _reason(error: Any) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
