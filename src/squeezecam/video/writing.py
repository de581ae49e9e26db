"""Writing clips: H.264 and AAC in an mp4, frames at their own times, the original's sound beside them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError
from squeezecam.files import atomic_path
from squeezecam.video.reading import decoded_sound, opened, pyav

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOCK = Fraction(1, 90_000)
"""Unit of the times that are written: fine enough for any frame rate."""
_SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_BT709 = 1


class ClipWriter:
    """An mp4 that is there whole or not at all: use as a context manager.

    Args:
        path: where to; the name must end in ``.mp4`` (or ``.m4v``, ``.mov``).
        size: width and height of the frames, both even.
        rate: average frames a second; the frames' own times are what is written.
        sound: a clip whose first audio track is taken over: AAC packet by packet, anything else encoded anew; None:
            silent.
        aspect: width of a pixel over its height.
        quality: constant rate factor of H.264, lower is better.

    Raises:
        InputError: a name or a size that does not do, or the file cannot be written.

    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        rate: Fraction,
        *,
        sound: str | Path | None = None,
        aspect: Fraction = Fraction(1),
        quality: int = 20,
    ) -> None:
        if Path(path).suffix.lower() not in (".mp4", ".m4v", ".mov"):
            raise InputError(f"cannot write a clip to {path}: its name must end in .mp4 (or .m4v, .mov)")
        if size[0] % 2 or size[1] % 2 or min(size) < 2:
            raise InputError(f"H.264 needs an even width and height, got {size[0]} x {size[1]}")
        self.path, self.size, self.rate, self.aspect, self.quality = Path(path), size, rate, aspect, quality
        self.sound = sound
        self.notes: list[str] = []
        self._av = pyav()
        self._last = -1

    def __enter__(self) -> ClipWriter:
        self._file = atomic_path(self.path)
        self._container: Any = None
        self._source: Any = None
        temporary = self._file.__enter__()
        try:
            self._container = self._av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
            self._video = self._add_video()
            self._add_sound()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """One frame ``(H, W, 3)``, shown from ``seconds`` on; times must rise."""
        self._pump(seconds)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        self._last = max(round(seconds / CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, CLOCK
        self._mux(self._video.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._mux(self._video.encode(None))
                self._pump(None)
            if self._source is not None:
                self._source.__exit__(None, None, None)
            if self._container is not None:
                self._container.close()
        except BaseException as later:
            self._file.__exit__(type(later), later, later.__traceback__)
            if kind is None:
                raise
            return
        self._file.__exit__(kind, error, trace)

    def _add_video(self) -> Any:
        stream = self._container.add_stream(
            "libx264", rate=self.rate, options={"crf": str(self.quality), "preset": "veryfast"}
        )
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = CLOCK
        stream.codec_context.sample_aspect_ratio = self.aspect
        stream.codec_context.max_b_frames = 0  # times of display and of decoding agree: nothing to shift the picture by
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, name, _BT709)
        return stream

    # --- sound ------------------------------------------------------------------------------------------

    def _add_sound(self) -> None:
        self._next: Any = None
        self._pieces: Any = iter(())
        if self.sound is None:
            return
        self._source = opened(self.sound)
        container = self._source.__enter__()
        if not container.streams.audio:
            return
        source = container.streams.audio[0]
        if source.codec_context.name == "aac" and source.codec_context.extradata:
            target = self._container.add_stream_from_template(source)
            self._pieces = self._copied(container, source, target)
        else:
            self._pieces = self._encoded(container, source)
        self._next = next(self._pieces, None)

    def _copied(self, container: Any, source: Any, target: Any) -> Any:
        packets = container.demux(source)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.FFmpegError:
                self.notes.append("the sound breaks off: the rest of it is damaged")
                return
            if packet.dts is None or packet.size == 0:
                continue
            packet.stream = target
            yield float(packet.dts * packet.time_base), [packet]

    def _encoded(self, container: Any, source: Any) -> Any:
        rate = min(_SOUND_RATES, key=lambda known: abs(known - source.rate))
        layout = "mono" if source.codec_context.channels == 1 else "stereo"
        target = self._container.add_stream("aac", rate=rate)
        target.layout = layout
        target.bit_rate = 96_000 * (1 if layout == "mono" else 2)
        target.time_base = Fraction(1, rate)

        def pieces() -> Any:
            end = 0.0
            for seconds, samples in decoded_sound(container, rate, layout):
                frame = self._av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = rate, round(seconds * rate), Fraction(1, rate)
                end = seconds
                yield seconds, target.encode(frame)
            yield end, target.encode(None)

        return pieces()

    def _pump(self, until: float | None) -> None:
        """Write the sound up to ``until`` seconds (None: all of it): the two tracks lie side by side in the file."""
        while self._next is not None and (until is None or self._next[0] <= until):
            self._mux(self._next[1])
            self._next = next(self._pieces, None)

    def _mux(self, packets: Any) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except self._av.error.FFmpegError as error:
            raise InputError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from error
