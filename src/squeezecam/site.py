"""Where a block goes: as users say it (:class:`Site`), and resolved on one model (:class:`Place`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from squeezecam import tree
from squeezecam.layout import Layout


@dataclass(frozen=True)
class Site:
    """Where a block goes.

    Args:
        module: a module of the model, or its dotted name.
        when: at the module's ``"output"`` or at its ``"input"``.
        layout: axes of the tensor, for instance ``"n c h w"`` or ``"n (1+ h w) c"``; None: inferred.
        grid: sizes of the positions, needed where several share an axis; None: inferred.
        item: keys that lead to the tensor where the module takes or returns several; None: inferred.
        call: which call of a module that runs more than once in a pass; -1 is the last.

    """

    module: str | nn.Module
    when: Literal["input", "output"] = "output"
    layout: str | None = None
    grid: tuple[int, ...] | None = None
    item: tree.Path | None = None
    call: int = -1

    def __repr__(self) -> str:
        name = self.module if isinstance(self.module, str) else type(self.module).__name__
        parts = [repr(name), repr(self.when)]
        parts += [f"layout={self.layout!r}"] if self.layout else []
        parts += [f"grid={self.grid!r}"] if self.grid else []
        parts += [f"item={self.item!r}"] if self.item else []
        parts += [f"call={self.call}"] if self.call != -1 else []
        return f"Site({', '.join(parts)})"


@dataclass(frozen=True)
class Place:
    """A :class:`Site` resolved on one model: everything that is needed to read and to scale the map there."""

    module: str
    when: Literal["input", "output"]
    layout: Layout
    grid: tuple[int, ...]
    channels: int
    item: tree.Path
    call: int
    last: bool
    node: int

    @property
    def site(self) -> Site:
        """The same place in the form that ``attach(at=...)`` takes."""
        folded = any(len(axis.names) > 1 and "n" not in axis.names for axis in self.layout.axes)
        item = self.item if self.item not in ((), (0,)) else None
        return Site(
            self.module,
            self.when,
            self.layout.text,
            self.grid if folded else None,
            item,
            -1 if self.last else self.call,
        )

    def describe(self) -> str:
        """One line: where, layout, channels, grid."""
        name = self.module or "the model"
        grid = " x ".join(map(str, self.grid))
        return f"{self.when} of {name}: layout '{self.layout}', {self.channels} channels, grid {grid}"


@dataclass(frozen=True)
class Candidate:
    """A feature map that was considered, with the verdict in words."""

    place: Place
    verdict: str
    taken: bool = False
