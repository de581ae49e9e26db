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
_CLOSE = 1e-6  # seconds by which two times of one frame differ at most
_NO_INDEX = 0x0080 | 0x0100 | 0x0200  # FFmpeg's AVFMT_NOTIMESTAMPS, AVFMT_GENERIC_INDEX and AVFMT_TS_DISCONT
_BACK = 2.0  # seconds further back, where the last key frame before a place does not lead to it


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


def frame_times(path: str | Path, notes: list[str] | None = None) -> list[float]:
    """When each frame is shown, in seconds on the file's own clock, in order.

    What a file says of its length or of its rate does not enter: both may be wrong, or missing. The file is read, and
    decoded only where it does not say when each frame is shown. ``notes`` is told where it breaks off.

    Raises:
        InputError: no such file, or no video in it.

    """
    av = pyav()
    found: list[float] = []
    with opened(path) as container:
        stream = video_of(container, path)
        with contextlib.suppress(av.error.FFmpegError):  # what comes after the place where it breaks off is lost
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None or packet.time_base is None or _without_times(container, stream):
                    found = []
                    break
                found.append(float(packet.pts * packet.time_base))
        found.sort()
        if any(after <= before for before, after in itertools.pairwise(found)):
            found = []
        if found and notes is not None:
            end, shown = _end(container, stream, av), found[-1] + (found[-1] - found[0]) / max(1, len(found) - 1)
            notes += _broken(path, end, shown)
    return found or [frame.seconds for frame in read_frames(path, notes)]


def read_from(path: str | Path, start: float, count: int) -> list[Frame]:
    """Up to ``count`` frames from the one at ``start`` seconds on, on the file's own clock (see :func:`frame_times`).

    Decoding begins at the last key frame before it. Where that leads past the place, as in a file without an index, or
    into frames that need others before them, it begins earlier, at last at the beginning of the file.

    Raises:
        InputError: no such file, or no video in it.

    """
    found: list[Frame] = []
    for back in (0.0, _BACK, math.inf):
        found = list(itertools.islice(read_frames(path, start=start, back=back), count))
        if found and found[0].seconds <= start + _CLOSE:
            break
    return found


def read_frames(
    path: str | Path, notes: list[str] | None = None, *, start: float = -math.inf, back: float = math.inf
) -> Iterator[Frame]:
    """All frames of a clip, upright (rotation flags are obeyed), with strictly rising times.

    What cannot be decoded is left out, and ``notes`` says so. Frames of another size than the first are brought to that
    size. What is shown before ``start`` seconds on the file's own clock is left out; decoding begins at a key frame
    ``back`` seconds or more before it, at the beginning of the file if there is none.

    Raises:
        InputError: no such file, or no video in it.

    """
    av, said = pyav(), notes if notes is not None else []
    with opened(path) as container:
        stream = video_of(container, path)
        stream.thread_type = "AUTO"
        step = float(1 / Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE))
        index, last, shown, damaged, size = 0, -math.inf, step, 0, None
        sought = math.isfinite(start - back) and _seek(container, stream, av, start - back)
        for decoded in _decoded(container, stream, av):
            if decoded is None:
                damaged += 1
                continue
            if decoded.time is None and sought:
                return  # where in the file this is cannot be known
            seconds = decoded.time if decoded.time is not None else (0.0 if last == -math.inf else last + step)
            if seconds <= last:
                seconds = last + step / 1000  # damaged or missing time stamps: order is kept, the place is not
            last = seconds
            if not index and seconds < start - _CLOSE:
                continue
            size = size or (decoded.width, decoded.height)
            pixels = decoded.to_ndarray(format="rgb24", width=size[0], height=size[1])
            turns = round(decoded.rotation / 90) % 4
            yield Frame(index, seconds, np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)
            index += 1
            shown = max(step, float((getattr(decoded, "duration", None) or 0) * (decoded.time_base or 0)))
        if index:
            said += _broken(path, _end(container, stream, av), last + shown)
        if damaged:
            said.append(f"{damaged} damaged packets of {path} could not be decoded and were left out")


def _seek(container: Any, stream: Any, av: Any, place: float) -> bool:
    """Go to the last key frame before ``place`` seconds on the file's own clock; False: it stays at its beginning.

    It stays there where times cannot be relied on: behind a seek those of raw MPEG are a frame off.
    """
    if _without_times(container, stream):
        return False
    try:
        container.seek(round(place / (stream.time_base or Fraction(1, 1_000_000))), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _without_times(container: Any, stream: Any) -> bool:
    """Whether the file does not say when each frame is shown: raw MPEG, and AVI with frames stored out of order."""
    out_of_order = container.format.name == "avi" and stream.codec_context.has_b_frames
    return bool(container.format.flags & _NO_INDEX or out_of_order)


def _broken(path: str | Path, end: float | None, shown: float) -> list[str]:
    """What is to be said of a file whose last frame is shown up to ``shown``, where it should last up to ``end``."""
    if end is None or end - shown <= max(LEAST_MISSING, LEAST_SHARE * end):
        return []
    return [f"{path} says that it lasts {end:.2f} s, and breaks off at {shown:.2f} s"]


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
