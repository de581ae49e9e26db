"""Which part of the original picture a preprocessing shows to the network, found by probing it with synthetic pictures.

A preprocessing is any function from a picture to a tensor; what it does to positions (resize, crop, pad) is nowhere
written down. Brightness is made to carry the position: a picture that gets brighter from left to right, sent through
the preprocessing, tells for every column of the result where in the original it comes from. Even pictures calibrate
the brightness (mean, deviation, range, channel order) and show which part of the result is padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Box: TypeAlias = tuple[float, float, float, float]
Floats: TypeAlias = NDArray[np.floating[Any]]

_LOW, _HIGH = 24.0, 231.0  # clear of 0 and 255, where the overshoot of bicubic and Lanczos filters is cut off
_SMALLEST, _LARGEST = 24, 2048  # sides in pixels that are probed at their true size
_MOST_PIXELS = 64_000_000
_REPEATS = 8
_NOT_LINEAR = "its values do not follow the brightness linearly; it may normalise each picture by itself"
_UNEVEN = "its positions {} are not evenly spaced: warped"
_BORDER = 2.5  # pixels of the original at its edges that resampling filters treat in their own way


class Seen(NamedTuple):
    """What `seen_box` found.

    Attributes:
        box: (x0, y0, x1, y1) in pixels of the original picture, edges not centres, so that the whole picture is
            (0, 0, width, height); what lies outside it is padding. None where there is no such box or it was not found.
        reason: why ``box`` is None; empty otherwise.
        mirrored: whether the box is shown left to right, and whether it is shown upside down. Both: turned by 180
            degrees. Maps have to be turned back before they are laid on the picture: see `upright`.
    """

    box: Box | None
    reason: str = ""
    mirrored: tuple[bool, bool] = (False, False)

    def upright(self, values: Any) -> Any:
        """What lies in the network's frame, a tensor or an array (..., h, w), as it lies on the picture; and back."""
        axes = [axis for axis, turned in zip((-1, -2), self.mirrored, strict=True) if turned]
        if not axes:
            return values
        return values.flip(axes) if isinstance(values, torch.Tensor) else np.flip(values, tuple(axes))

    def mirrored_words(self) -> str:
        """``the model sees the picture mirrored left to right``; empty where it does not."""
        across, down = self.mirrored
        way = (
            "turned upside down"
            if across and down
            else "mirrored left to right"
            if across
            else "mirrored top to bottom"
        )
        return f"the model sees the picture {way}" if across or down else ""


class Geometry:
    """`seen_box` of one preprocessing, remembered per size of picture.

    Args:
        preprocess: a ``PIL.Image`` (RGB) to a tensor (..., h, w).
    """

    def __init__(self, preprocess: Callable[[Any], Any]) -> None:
        self.preprocess = preprocess
        self._found: dict[tuple[int, int], Seen] = {}
        self._random: bool | None = None

    def seen(self, size: tuple[int, int]) -> Seen:
        """The box that is seen of a picture of ``size`` (width, height)."""
        size = (int(size[0]), int(size[1]))
        if size not in self._found:
            self._found[size] = self._find(size)
        return self._found[size]

    def _find(self, size: tuple[int, int]) -> Seen:
        if min(size) < 1:
            return Seen(None, f"a picture of {size[0]}x{size[1]} pixels has no area")
        try:
            if self._random is None:
                self._random = _is_random(self.preprocess, size)
            if self._random:
                raise _NoBoxError("it gives another result each time, as a random augmentation does")
            return _seen(self.preprocess, size)
        except _NoBoxError as error:
            return Seen(None, str(error))
        except Exception as error:  # somebody else's function, on a picture that it may not be made for
            reason = " ".join(str(error).split())[:160]
            return Seen(None, f"it fails on a synthetic picture of about {size[0]}x{size[1]} pixels: {reason}")


def seen_box(preprocess: Callable[[Any], Any], size: tuple[int, int]) -> Seen:
    """The rectangle of an original picture that its preprocessed tensor covers.

    Works for any deterministic function that resizes (each side on its own or both alike), crops and pads, in whatever
    order, with any affine change of the values and any order or mixture of the channels. Right to half a pixel of the
    original or of the network's input, whichever is coarser (usually to a twentieth).

    Pictures with a side over 2048 pixels are probed smaller, and those with one under 24 larger, if two such sizes
    agree that only the aspect ratio matters; where they do not, large ones are probed as they are.

    Args:
        preprocess: a ``PIL.Image`` (RGB) to a tensor (..., h, w). It is called about 15 times.
        size: (width, height) of the original.

    Returns:
        `Seen`: the box, and whether it is mirrored; or None and the reason: a random augmentation, a rotation or warp,
        several crops, values that do not follow the brightness linearly (normalised per picture, thresholded), or an
        error.
    """
    return Geometry(preprocess).seen(size)


class _NoBoxError(Exception):
    """As far as the probes can tell, the result is no upright box of the picture."""


class _MirroredError(_NoBoxError):
    """The result runs against the picture along ``axis`` (0: x)."""

    def __init__(self, axis: int) -> None:
        super().__init__(f"it flips the picture {'left to right' if axis == 0 else 'upside down'}")
        self.axis = axis


def _seen(preprocess: Callable[[Any], Any], size: tuple[int, int]) -> Seen:
    """The box; where the result is mirrored, that of the result turned back."""
    mirrored = (False, False)
    while True:
        so_far = Seen(None, mirrored=mirrored)
        try:
            return so_far._replace(box=_box(_turned(preprocess, so_far), size))
        except _MirroredError as error:
            if mirrored[error.axis]:  # turned back it runs against the picture again: both ways in one result
                raise _NoBoxError(str(error)) from None
            mirrored = (True, mirrored[1]) if error.axis == 0 else (mirrored[0], True)


def _turned(preprocess: Callable[[Any], Any], seen: Seen) -> Callable[[Any], Any]:
    return lambda picture: seen.upright(torch.as_tensor(preprocess(picture)))


def _is_random(preprocess: Callable[[Any], Any], size: tuple[int, int]) -> bool:
    """Whether the same picture gives different results; a flip in every second call escapes once in 128."""

    def differs(width: int, height: int) -> bool:
        picture = _picture(40 + 127 * np.arange(width) / width + 63 * np.arange(height)[:, None] / height)
        first, *others = (_values(preprocess(picture)) for _ in range(_REPEATS))
        return any(other.shape != first.shape or not np.array_equal(first, other, equal_nan=True) for other in others)

    try:
        return differs(64, 48)
    except Exception:  # made for larger pictures only
        return differs(*size)


def _box(preprocess: Callable[[Any], Any], size: tuple[int, int]) -> Box:
    width, height = size
    if min(size) >= _SMALLEST and max(size) <= _LARGEST:
        return _Probe(preprocess, size).box()
    if min(size) < _SMALLEST:
        factor = -(-_SMALLEST // min(size))
        proxies = [(width * k, height * k) for k in (factor, 2 * factor)]
    else:
        proxies = [(round(width * k), round(height * k)) for k in (_LARGEST / max(size), 0.7 * _LARGEST / max(size))]
    reason = f"what it shows of a picture of {width}x{height} pixels cannot be probed"
    if all(min(proxy) >= _SMALLEST and proxy[0] * proxy[1] <= _MOST_PIXELS for proxy in proxies):
        try:
            one, two = (np.array(_Probe(preprocess, proxy).box()) / (proxy * 2) for proxy in proxies)
        except _MirroredError:
            raise
        except _NoBoxError as error:
            reason = str(error)
        else:
            if (np.abs(one - two) <= 0.01 * np.tile(one[2:] - one[:2], 2)).all():
                x0, y0, x1, y1 = (float(edge) for edge in one * (size * 2))
                return x0, y0, x1, y1
    if min(size) >= _SMALLEST and width * height <= _MOST_PIXELS:
        return _Probe(preprocess, size).box()
    raise _NoBoxError(reason)


class _Probe:
    """One preprocessing at exactly one size of picture (width, height).

    ``valid`` (h, w) marks where the result shows the picture, rather than padding; ``dark`` is the result of an even
    picture and ``gain`` what each channel adds from the darkest level to the lightest.
    """

    def __init__(self, preprocess: Callable[[Any], Any], size: tuple[int, int]) -> None:
        self.preprocess, self.size = preprocess, size
        middle = (_LOW + _HIGH) // 2
        dark, mean, light = (self._result(np.full(size[::-1], level)) for level in (_LOW, middle, _HIGH))
        if not dark.shape == mean.shape == light.shape:
            raise _NoBoxError("the shape of its result depends on what the picture shows")
        span = light - dark
        if not np.isfinite(span).all() or np.abs(span).max() <= 1e-5 * max(np.abs(light).max(), np.abs(dark).max()):
            raise _NoBoxError(_NOT_LINEAR)
        strength = np.abs(span).max(axis=(1, 2))
        self.responding = strength > 0.01 * strength.max()
        span, dark, mean = span[self.responding], dark[self.responding], mean[self.responding]
        gain = np.array([np.median(c[np.abs(c) > 0.5 * np.abs(c).max()]) for c in span])[:, None, None]
        self.valid: NDArray[np.bool_] = (np.abs(span - gain) < 0.03 * np.abs(gain)).all(axis=0)
        if self.valid.mean() < 0.02:
            raise _NoBoxError("hardly any of its result follows the brightness of the picture")
        share = np.median(((mean - dark) / gain)[:, self.valid], axis=1)
        if not np.abs(share - (middle - _LOW) / (_HIGH - _LOW)).max() < 0.02:
            raise _NoBoxError(_NOT_LINEAR)
        self.dark, self.gain = dark, gain

    def box(self) -> Box:
        edges: list[tuple[float, float]] = []
        for axis, length in enumerate(self.size):
            first, last = self._extent(axis, 0, length)
            margin = 8 + length // 100  # two levels of the first ramp, and the reach of the filters
            start, stop = max(0, int(first) - margin), min(length, int(last) + margin)
            if _SMALLEST <= stop - start < 0.7 * length:
                first, last = self._extent(axis, start, stop)  # the small part in view now has all of the brightness
            edges.append((first, last))
        (x0, x1), (y0, y1) = edges
        return x0, y0, x1, y1

    def _extent(self, axis: int, start: int, stop: int) -> tuple[float, float]:
        """First and last edge of the result along ``axis`` (0: x), by ramps from ``start`` to ``stop`` (pixels)."""
        up, down = (self._positions(axis, start, stop, rising) for rising in (True, False))
        shown = np.stack([up, down])[:, :, self.valid]
        beyond = max(start - shown.min(), shown.max() - stop) > 0.03 * (stop - start)  # contrast was stretched
        if beyond or np.median(np.abs(shown[0] - shown[1])) > max(1.0, 0.04 * (stop - start)):
            raise _NoBoxError(_NOT_LINEAR)
        field, valid = (up + down) / 2, self.valid  # the rounding of the two directions partly cancels
        if axis == 1:
            field, valid = field.transpose(0, 2, 1), valid.T
        extent = self.grid[1 - axis]
        centres = np.arange(field.shape[2]) * _stride(extent) + 0.5
        slope, first = _fit(field, valid, centres, (start, stop), "across" if axis == 0 else "down")
        last, close = first + slope * extent, 0.1 * max(1.0, slope)  # within the error of the method
        end = float(self.size[axis])
        return 0.0 if abs(first) < close else first, end if abs(last - end) < close else last

    def _positions(self, axis: int, start: int, stop: int, rising: bool) -> Floats:
        """Where each value of the result comes from: (channels, h, w), in pixels of the original."""
        values = self._result(_ramp(self.size, axis, start, stop, rising))
        if values.shape[1:] != self.valid.shape or len(values) != len(self.responding):
            raise _NoBoxError("the shape of its result depends on what the picture shows")
        share = (values[self.responding] - self.dark) / self.gain
        return np.asarray(start + (share if rising else 1 - share) * (stop - start), np.float32)

    def _result(self, levels: NDArray[Any]) -> Floats:
        values = _values(self.preprocess(_picture(levels)))
        self.grid = (values.shape[1], values.shape[2])
        return values[:, :: _stride(self.grid[0]), :: _stride(self.grid[1])]


def _fit(
    field: Floats, valid: NDArray[np.bool_], centres: Floats, bounds: tuple[int, int], way: str
) -> tuple[float, float]:
    """Slope and value at 0 of the line that most columns of ``field`` (channels, rows, columns) agree on.

    Columns that show a repeated edge (flat) or a mirrored one (another line) are outvoted; that all rows and channels
    agree with the line is checked.
    """
    counts = valid.sum(axis=0)
    shown = np.flatnonzero(counts >= max(1, 0.2 * counts.max()))
    place, centre = (field.mean(axis=0) * valid).sum(axis=0)[shown] / counts[shown], centres[shown]
    if len(shown) < 4:
        raise _NoBoxError(f"only {len(shown)} of its values {way} show the picture")
    level = (bounds[1] - bounds[0]) / (_HIGH - _LOW)
    step = max(1, len(shown) // 16)
    slopes = np.abs(place[2 * step :] - place[: -2 * step]) / (centre[2 * step :] - centre[: -2 * step])
    local = np.interp(centre, centre[step:-step], slopes)
    typical = float(np.quantile(local, 0.9))
    border = max(_BORDER, typical)  # also one value of the result, where filters that shrink are cut off
    keep = (local > 0.3 * typical) & (place > bounds[0] + border) & (place < bounds[1] - border)
    if keep.sum() < 4 or np.ptp(place[keep]) < 2 * level:
        raise _NoBoxError(f"its positions {way} do not follow those of the picture: rotated, or several crops")
    columns, places = centre, place
    place, centre, shown = place[keep], centre[keep], shown[keep]
    slope, first = _consensus(centre, place, 2 * level)
    if slope < 0:
        raise _MirroredError(0 if way == "across" else 1)
    tolerance = max(1.0, 1.5 * slope, 2 * level)
    for _ in range(3):
        inside = np.abs(place - first - slope * centre) <= tolerance
        if inside.sum() < 4:
            raise _NoBoxError(_UNEVEN.format(way))
        slope, first = (float(value) for value in np.polyfit(centre[inside], place[inside], 1))
    line = first + slope * columns
    within = (line > bounds[0] + border) & (line < bounds[1] - border)  # elsewhere padding may show anything
    if not within.any() or (np.abs(places - line) <= tolerance)[within].mean() < 0.95:
        raise _NoBoxError(_UNEVEN.format(way))
    shown, centre = shown[inside], centre[inside]
    off = np.abs(field[:, :, shown] - (first + slope * centre).astype(np.float32)) > 2 * tolerance
    if (off & valid[:, shown]).sum() > 0.05 * valid[:, shown].sum() * len(field):
        raise _NoBoxError(f"its rows or channels show different positions {way}: rotated, warped or several crops")
    return slope, first


def _consensus(x: Floats, y: Floats, tolerance: float) -> tuple[float, float]:
    """Slope and intercept of the line through two of the points that passes by most of the others."""
    every = max(1, len(x) // 128)
    x, y = x[::every], y[::every]
    pairs = [(i, i + gap) for gap in {len(x) // 4, len(x) // 2, 3 * len(x) // 4} if gap for i in range(len(x) - gap)]
    one, two = np.array(pairs).T
    slopes = (y[two] - y[one]) / (x[two] - x[one])
    firsts = y[one] - slopes * x[one]
    votes = (np.abs(y - firsts[:, None] - slopes[:, None] * x) <= np.maximum(tolerance, np.abs(slopes))[:, None]).sum(
        axis=1
    )
    best = votes == votes.max()
    return float(np.median(slopes[best])), float(np.median(firsts[best]))


def _ramp(size: tuple[int, int], axis: int, start: int, stop: int, rising: bool) -> NDArray[np.uint8]:
    """A picture (height, width) whose level runs from `_LOW` at pixel ``start`` to `_HIGH` at ``stop``, or back.

    Levels between two whole ones are dithered along the other axis, so that their mean is exact.
    """
    length, other = size[axis], size[1 - axis]
    share = np.clip((np.arange(length) + 0.5 - start) / (stop - start), 0, 1)
    level = _LOW + (_HIGH - _LOW) * (share if rising else 1 - share)
    rows = (np.arange(64) * 39 % 64 + 0.5) / 64
    block = np.floor(level + (rows[:, None] + 0.7548776662 * np.arange(length)) % 1).astype(np.uint8)
    whole = np.tile(block, (-(-other // 64), 1))[:other]
    return whole if axis == 0 else whole.T


def _picture(levels: NDArray[Any]) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(levels, np.uint8)).convert("RGB")


def _values(result: Any) -> Floats:
    """A result (..., h, w) as (channels, h, w)."""
    array = torch.as_tensor(result).detach().float().cpu().numpy()
    if array.ndim < 2 or not array.size:
        raise _NoBoxError(f"its result has the shape {array.shape}; (C, h, w) is expected")
    return np.asarray(array.reshape(-1, *array.shape[-2:]))


def _stride(length: int) -> int:
    """Every how many-th value is looked at: a result as large as a photograph needs no more than these."""
    return 1 + (length - 1) // 512
