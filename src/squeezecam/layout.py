"""Axis layouts of feature maps, written as einops users write them, and the way to and from ``(N, C, *S)``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from squeezecam.errors import SiteError

SPATIAL_NAMES = ("t", "d", "h", "w", "l", "f")
_GROUP = re.compile(r"\(\s*(?:(\d+)\s*\+)?\s*([a-z](?:\s+[a-z])*)\s*(?:\+\s*(\d+))?\s*\)|([a-z])")


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: the names folded into it, and extra tokens before and after the grid."""

    names: tuple[str, ...]
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Layout:
    """A parsed layout such as ``n c h w``, ``n (1+ h w) c`` or ``(n t) c h w``.

    ``n`` is the batch, ``c`` the channels, and ``t d h w l f`` are positions: time, depth, height, width, length,
    frequency. Names in parentheses share an axis; ``1+`` says that one token (a class token, say) stands before the
    grid.
    """

    text: str
    axes: tuple[Axis, ...]

    @property
    def positions(self) -> tuple[str, ...]:
        """Names of the position axes in the order in which canonical features carry them."""
        named = [name for axis in self.axes for name in axis.names if name not in "nc"]
        if "f" in named:  # a spectrogram is read by frequency and time
            return tuple(sorted(named, key=lambda name: (name != "f", named.index(name))))
        return tuple(sorted(named, key=lambda name: (name != "t", named.index(name))))

    @property
    def channel_axis(self) -> int:
        """Index of the tensor axis that holds the channels."""
        return next(i for i, axis in enumerate(self.axes) if "c" in axis.names)

    def sizes(self, shape: tuple[int, ...], batch: int, grid: tuple[int, ...] | None) -> dict[str, int]:
        """Size of every name for a tensor of ``shape``, given the batch size and the grid that the probe saw."""
        if len(shape) != len(self.axes):
            raise SiteError(f"layout '{self.text}' has {len(self.axes)} axes, the tensor has shape {shape}")
        known = dict(zip(self.positions, grid, strict=True)) if grid else {}
        sizes: dict[str, int] = {}
        for axis, size in zip(self.axes, shape, strict=True):
            size -= axis.before + axis.after
            if len(axis.names) == 1:
                sizes[axis.names[0]] = size
            elif "n" in axis.names:
                rest = [name for name in axis.names if name != "n"]
                if batch == 0:  # an empty batch has clips of the usual length
                    sizes["n"], sizes[rest[0]] = 0, known.get(rest[0], 1)
                    continue
                if len(rest) != 1 or size % batch:
                    raise SiteError(
                        f"layout '{self.text}': axis of size {size} is not a multiple of the batch size {batch}"
                    )
                sizes["n"], sizes[rest[0]] = batch, size // batch
            else:
                sizes.update(_split(axis.names, size, known, self.text, shape))
        return sizes

    def unpack(self, tensor: Tensor, batch: int, grid: tuple[int, ...] | None = None) -> Tensor:
        """A view or copy of ``tensor`` as canonical features ``(N, C, *S)``; extra tokens are left out."""
        sizes = self.sizes(tuple(tensor.shape), batch, grid)
        for i, axis in enumerate(self.axes):
            if axis.before or axis.after:
                tensor = tensor.narrow(i, axis.before, tensor.shape[i] - axis.before - axis.after)
        names = [name for axis in self.axes for name in axis.names]
        tensor = tensor.reshape([sizes[name] for name in names])
        return tensor.permute([names.index(name) for name in ("n", "c", *self.positions)])

    def pack(self, features: Tensor) -> Tensor:
        """Canonical features ``(N, C, *S)`` laid out as this layout says: the inverse of :meth:`unpack` without extra
        tokens.
        """
        if any(axis.before or axis.after for axis in self.axes):
            raise SiteError(
                f"layout '{self.text}' has tokens beside the grid, which cannot be made from the grid alone"
            )
        canonical = ("n", "c", *self.positions)
        names = [name for axis in self.axes for name in axis.names]
        laid = features.permute([canonical.index(name) for name in names])
        sizes = iter(laid.shape)
        return laid.reshape([math.prod(next(sizes) for _ in axis.names) for axis in self.axes])

    def scale(self, tensor: Tensor, factors: Tensor) -> Tensor:
        """``tensor`` with the channels of each sample multiplied by ``factors`` ``(N, C)``; extra tokens stay as they
        are.
        """
        factors = factors.to(tensor.dtype)
        shape = []
        for axis, size in zip(self.axes, tensor.shape, strict=True):
            if axis.names == ("c",):
                shape.append(factors.shape[1])
            elif "n" in axis.names:
                shape.append(size)
            else:
                shape.append(1)
        batch_axis = next(i for i, axis in enumerate(self.axes) if "n" in axis.names)
        order = self.axes[batch_axis].names
        if len(order) > 1:  # frames folded into the batch: each frame takes the gates of its clip
            repeats = tensor.shape[batch_axis] // factors.shape[0]
            factors = factors.repeat_interleave(repeats, 0) if order[0] == "n" else factors.repeat(repeats, 1)
        if batch_axis > self.channel_axis:
            factors = factors.t()
        factors = factors.reshape(shape)
        for i, axis in enumerate(self.axes):
            if axis.before or axis.after:
                count = tensor.shape[i] - axis.before - axis.after
                scaled = tensor.clone()
                scaled.narrow(i, axis.before, count).mul_(factors)
                return scaled
        return tensor * factors

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=256)
def parse_layout(text: str) -> Layout:
    """Parse a layout; raise :class:`SiteError` with the grammar where it is not one."""
    help_text = "write one name per axis, as in 'n c h w', 'n h w c', 'n (h w) c', 'n (1+ h w) c' or '(n t) c h w'"
    axes: list[Axis] = []
    position = 0
    stripped = text.strip()
    while position < len(stripped):
        match = _GROUP.match(stripped, position)
        if match is None:
            raise SiteError(f"layout '{text}' cannot be read at '{stripped[position:]}': {help_text}")
        before, group, after, single = match.groups()
        inside = (single,) if single else tuple(group.split())
        axes.append(Axis(inside, int(before or 0), int(after or 0)))
        position = match.end()
        while position < len(stripped) and stripped[position] == " ":
            position += 1
    names = [name for axis in axes for name in axis.names]
    unknown = [name for name in names if name not in ("n", "c", *SPATIAL_NAMES)]
    if unknown or len(set(names)) != len(names) or names.count("n") != 1 or names.count("c") != 1 or len(names) < 3:
        raise SiteError(
            f"layout '{text}' must name n and c once each and at least one position of t d h w l f: {help_text}"
        )
    return Layout(stripped, tuple(axes))


def _split(
    names: tuple[str, ...], size: int, known: dict[str, int], text: str, shape: tuple[int, ...]
) -> dict[str, int]:
    """Sizes of names that share an axis: as when the site was found, else the same proportions at another scale."""
    reference = [known.get(name, 0) for name in names]
    if all(reference) and math.prod(reference) == size:
        return dict(zip(names, reference, strict=True))
    if not all(reference):
        reference = [1] * len(names)
    ratio = (size / math.prod(reference)) ** (1 / len(names))
    guess = [max(1, round(value * ratio)) for value in reference]
    if math.prod(guess) != size:
        raise SiteError(
            f"layout '{text}': the axis '{' '.join(names)}' of size {size} in a tensor of shape {shape} does not split "
            f"into a grid like {'x'.join(map(str, reference))}; give Site(..., grid=(height, width))"
        )
    return dict(zip(names, guess, strict=True))
