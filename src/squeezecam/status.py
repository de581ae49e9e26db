"""What is doubtful about a map, in words: one line per sample, ``"ok"`` where nothing is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from squeezecam.origin import Moved
from squeezecam.vector import FALLBACK_SHARE, Kept

# True of every map without an adapter and no doubt about any: said once below a figure, not as a warning on each.
NO_FIT_NEEDED = "block not fitted: the class map"
STRAYED = (
    "the classification layer does not do here what was verified when the block was attached, so the map is not the "
    "evidence that the model goes by: attach again if the model has changed since"
)
_CAUSE = "(NaN or infinity in the input or the weights)"


@dataclass(frozen=True, eq=False)
class Range:
    """Lowest and highest of some numbers, along one axis: NaN where one of them is NaN."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Range:
        """That of the last axis."""
        return cls(*torch.aminmax(numbers.detach(), dim=-1))

    def cpu(self) -> Range:
        """The same where looking at it costs nothing."""
        return Range(self.low.cpu(), self.high.cpu())

    @property
    def finite(self) -> Tensor:
        """Whether all of the numbers are."""
        return self.low.isfinite() & self.high.isfinite()


@dataclass(frozen=True, eq=False)
class Doubts:
    """The few numbers that the lines are read from, wherever they were computed.

    Whoever reads a number has to wait until a device has computed it. So they stay there until the lines are asked for,
    and explaining does not wait.

    Attributes:
        output: range of each sample's outputs, ``(N,)``.
        maps: per stream, ranges of the native maps, ``(N, K)``.
        kept: per stream, the flags ``fallback`` and ``tied`` of the channels kept, ``(N,)`` each.
        targets: class indices ``(N, K)``.
        of_class: whether the maps are evidence for the targets.
        gated: whether the channels were chosen by gates that a fit has made.
        always: what is doubtful about every sample.
        moved: numbers of the weights, to be held against those of the fit; None where there is nothing to compare.
        strayed: of which samples the classification layer does not do what its formula says, ``(N,)``; None: not asked.

    """

    output: Range
    maps: dict[str, Range]
    kept: dict[str, tuple[Tensor, Tensor]]
    targets: Tensor | None
    of_class: bool
    gated: bool
    always: list[str]
    moved: Moved | None = None
    strayed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.output.low)

    def lines(self) -> list[str]:
        """One line per sample."""
        said: list[list[str]] = [[] for _ in range(len(self))]
        for i, finite in enumerate(self.output.cpu().finite.tolist()):
            if not finite:
                said[i].append(f"the model's output is not finite {_CAUSE}")
        for i, strayed in enumerate([] if self.strayed is None else self.strayed.cpu().tolist()):
            if strayed:
                said[i].append(STRAYED)
        for stream in self.maps:
            prefix = f"{stream}: " if len(self.maps) > 1 else ""
            for i, doubts in enumerate(self._of_stream(stream)):
                said[i] += [prefix + doubt for doubt in doubts]
        every = self.always + (self.moved.lines() if self.moved is not None else [])
        return ["; ".join(doubts + every) or "ok" for doubts in said]

    def _of_stream(self, stream: str) -> list[list[str]]:
        maps = self.maps[stream].cpu()
        finite, blank = maps.finite.all(1).tolist(), (maps.high <= 0).tolist()
        constant = (maps.high == maps.low).any(1).tolist()
        fallback, tied = (flags.tolist() for flags in self.kept[stream])
        targets = self.targets.tolist() if self.targets is not None else [[]] * len(self)
        said: list[list[str]] = [[] for _ in range(len(self))]
        for i, doubts in enumerate(said):
            if not finite[i]:
                doubts.append(f"the map is not finite {_CAUSE}")
                continue
            if any(blank[i]):
                doubts.append(_blank(blank[i], targets[i], self.of_class))
            elif constant[i]:
                doubts.append("the map is the same everywhere")
            if fallback[i]:
                doubts.append(f"no channel passed the keep rule: the top {FALLBACK_SHARE:.0%} were taken")
            if tied[i] and self.gated:
                doubts.append("all gates are equal: every channel was kept")
        return said


def doubts_about(
    raws: dict[str, Tensor],
    kept: dict[str, Kept],
    values: Tensor,
    targets: Tensor | None,
    *,
    of_class: bool,
    gated: bool,
    always: list[str],
    moved: Moved | None = None,
    strayed: Tensor | None = None,
) -> Doubts:
    """The doubts that the numbers give rise to: native maps ``(N, K, *S)`` and channels kept per stream, and the
    explained output, first axis N; the others are as in :class:`Doubts`.
    """
    maps = {stream: Range.of(raw.flatten(2)) for stream, raw in raws.items()}
    flags = {stream: (which.fallback, which.tied) for stream, which in kept.items()}
    return Doubts(Range.of(values[:, None].flatten(1)), maps, flags, targets, of_class, gated, always, moved, strayed)


def _blank(blanks: list[bool], targets: list[int], of_class: bool) -> str:
    if not of_class:
        return "the map is blank: no kept channel is active"
    if len(blanks) == 1:
        return "no position speaks for this class: the map is blank"
    classes = ", ".join(str(t) for t, blank in zip(targets, blanks, strict=True) if blank)
    return f"no position speaks for class {classes}: that map is blank"


def notice_of(status: str) -> str:
    """The part of a status that is a doubt about the map; empty where there is none."""
    return "; ".join(part for part in status.split("; ") if part != "ok" and not part.startswith(NO_FIT_NEEDED))


class Lines:
    """An attribute that holds one line per sample, or :class:`Doubts`, which become lines when first looked at."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __set__(self, instance: object, value: list[str] | Doubts) -> None:
        setattr(instance, self.name, value)

    def __get__(self, instance: object | None, owner: type | None = None) -> list[str]:
        if instance is None:
            raise AttributeError("there is no status without an explanation")  # so a dataclass sees no default either
        value: list[str] | Doubts = getattr(instance, self.name)
        if isinstance(value, Doubts):
            value = value.lines()
            setattr(instance, self.name, value)
        return value
