"""What is doubtful about a map, in words: one line per sample, ``"ok"`` where nothing is."""

from __future__ import annotations

import torch
from torch import Tensor

from squeezecam.vector import FALLBACK_SHARE, Kept

_CAUSE = "(NaN or infinity in the input or the weights)"


def statuses(
    raws: dict[str, Tensor],
    kept: dict[str, Kept],
    values: Tensor,
    targets: Tensor | None,
    *,
    of_class: bool,
    gated: bool,
) -> list[list[str]]:
    """Doubts per sample that the numbers give rise to.

    Args:
        raws: per stream, native maps ``(N, K, *S)``.
        kept: per stream, the channels kept.
        values: the explained output, first axis N.
        targets: class indices ``(N, K)``.
        of_class: whether the maps are evidence for the targets.
        gated: whether the channels were chosen by gates that a fit has made.

    """
    n = len(values)
    said: list[list[str]] = [[] for _ in range(n)]
    for i, finite in enumerate(values[:, None].flatten(1).isfinite().all(1).tolist()):
        if not finite:
            said[i].append(f"the model's output is not finite {_CAUSE}")
    for stream, raw in raws.items():
        prefix = f"{stream}: " if len(raws) > 1 else ""
        flat = raw.flatten(2)
        high, low = flat.amax(2), flat.amin(2)
        finite, blank, constant = flat.isfinite().flatten(1).all(1), high <= 0, (high == low).any(1)
        flags = torch.stack([finite, constant, kept[stream].fallback, kept[stream].tied]).tolist()
        for i, blanks in enumerate(blank.tolist()):
            if not flags[0][i]:
                said[i].append(f"{prefix}the map is not finite {_CAUSE}")
                continue
            if any(blanks):
                said[i].append(prefix + _blank(blanks, targets[i].tolist() if targets is not None else [], of_class))
            elif flags[1][i]:
                said[i].append(f"{prefix}the map is the same everywhere")
            if flags[2][i]:
                said[i].append(f"{prefix}no channel passed the keep rule: the top {FALLBACK_SHARE:.0%} were taken")
            if flags[3][i] and gated:
                said[i].append(f"{prefix}all gates are equal: every channel was kept")
    return said


def _blank(blanks: list[bool], targets: list[int], of_class: bool) -> str:
    if not of_class:
        return "the map is blank: no kept channel is active"
    if len(blanks) == 1:
        return "no position speaks for this class: the map is blank"
    classes = ", ".join(str(t) for t, blank in zip(targets, blanks, strict=True) if blank)
    return f"no position speaks for class {classes}: that map is blank"
