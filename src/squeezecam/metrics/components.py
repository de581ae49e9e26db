"""Connected components of binary masks, as bounding boxes and areas; plain tensors, any device, many masks at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import shape_of


class Components(NamedTuple):
    """One row per component, ordered by mask and then by its first pixel in row-major order."""

    mask: Tensor
    """(R,): index of the mask that the component lies in."""
    boxes: Tensor
    """(R, 4): x0, y0, x1, y1 in pixels; x1 and y1 are one past the last pixel."""
    area: Tensor
    """(R,): pixels."""


class _Runs(NamedTuple):
    """Horizontal runs of pixels, sorted by mask, row and column; each (R,)."""

    mask: Tensor
    row: Tensor
    x0: Tensor
    x1: Tensor


def connected_components(masks: Tensor, *, connectivity: int = 8) -> Components:
    """Components of bool masks (M, H, W).

    The masks are cut into horizontal runs of pixels. Runs that touch in neighbouring rows are joined by repeatedly
    hooking each group onto the lowest-numbered group it touches. Work grows with the number of runs, not of pixels.
    ``connectivity`` is 8 (corners touch) or 4.
    """
    if masks.ndim != 3 or connectivity not in (4, 8):
        raise InputError(
            f"masks have shape {shape_of(masks)} and connectivity is {connectivity}: expected (M, H, W) and 4 or 8"
        )
    height, width = masks.shape[1:]
    edges = F.pad(masks.bool(), (1, 1))
    places = (edges[..., 1:] ^ edges[..., :-1]).flatten().nonzero()[:, 0]
    return _components(_pair_up(places, height, width), height, width, connectivity)


def threshold_components(values: Tensor, levels: Tensor, *, connectivity: int = 8) -> Components:
    """Components of the masks ``values >= level`` for one map (H, W) and rising levels (T,), without making the masks.

    Between two neighbours in a row, a run begins or ends at just those levels that lie between their values. The work
    grows with the number of these events, which is far below T H W.
    """
    if values.ndim != 2 or levels.ndim != 1 or bool((levels.diff() < 0).any()):
        raise InputError(
            f"values have shape {shape_of(values)}, levels {shape_of(levels)}: expected (H, W) and rising (T,)"
        )
    height, width = values.shape
    passed = F.pad(torch.bucketize(values.contiguous(), levels.contiguous(), right=True), (1, 1))
    here, before = passed[:, 1:].flatten(), passed[:, :-1].flatten()
    events = (here - before).abs()
    pair = torch.arange(events.numel(), device=values.device).repeat_interleave(events)
    number = torch.arange(pair.numel(), device=values.device) - (events.cumsum(0) - events)[pair]
    places = (torch.minimum(here, before)[pair] + number) * events.numel() + pair
    return _components(_pair_up(places.sort().values, height, width), height, width, connectivity)


def _pair_up(places: Tensor, height: int, width: int) -> _Runs:
    """Runs from the sorted places where masks change along their rows, each with ``width + 1`` such places."""
    begin, end = places[0::2], places[1::2]
    line = begin.div(width + 1, rounding_mode="floor")
    mask = line.div(max(height, 1), rounding_mode="floor")
    return _Runs(mask, line - mask * height, begin - line * (width + 1), end - line * (width + 1))


def _components(runs: _Runs, height: int, width: int, connectivity: int) -> Components:
    mask, row, x0, x1 = runs
    if not mask.numel():
        return Components(mask, mask.new_zeros(0, 4), mask)
    first, second = _touching_runs(mask * (height + 1) + row, x0, x1, width, 1 if connectivity == 8 else 0)
    root = _merge(mask.numel(), first, second)
    own = root == torch.arange(root.numel(), device=root.device)
    group, number = (own.cumsum(0) - 1)[root], own.nonzero()[:, 0]

    def reduce(values: Tensor, how: str) -> Tensor:
        return torch.zeros_like(number).scatter_reduce(0, group, values, reduce=how, include_self=False)

    # A component's first run lies in its top row.
    boxes = [reduce(x0, "amin"), row[number], reduce(x1, "amax"), reduce(row, "amax") + 1]
    return Components(mask[number], torch.stack(boxes, dim=1), torch.zeros_like(number).scatter_add(0, group, x1 - x0))


def _touching_runs(line: Tensor, x0: Tensor, x1: Tensor, width: int, reach: int) -> tuple[Tensor, Tensor]:
    """Pairs of runs that touch between a line and the next; lines of different masks are numbered with a gap."""
    stride = width + 3
    below = (line + 1) * stride
    # Runs are sorted by line and position, so those below that touch a run are one contiguous stretch.
    low = torch.searchsorted(line * stride + x1, below + x0 - reach, right=True)
    high = torch.searchsorted(line * stride + x0, below + x1 + reach, right=False)
    touching = (high - low).clamp_min(0)
    first = torch.arange(line.numel(), device=line.device).repeat_interleave(touching)
    offset = torch.arange(first.numel(), device=line.device) - (touching.cumsum(0) - touching)[first]
    return first, low[first] + offset


def _merge(count: int, first: Tensor, second: Tensor) -> Tensor:
    """Lowest node (count,) that each node is connected to, for the edges ``first``-``second``."""
    root = torch.arange(count, device=first.device)
    while True:
        a, b = root[first], root[second]
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        apart = low != high
        if not bool(apart.any()):
            return root
        # Only roots are hooked, and only onto lower ones: no cycle can arise.
        root = root.scatter_reduce(0, high[apart], low[apart], reduce="amin")
        while True:
            jumped = root[root]
            if torch.equal(jumped, root):
                break
            root = jumped
