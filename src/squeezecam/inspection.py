"""What a model looks like to squeezecam: where a block would go, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from squeezecam.attach import attach
from squeezecam.fit.faithful import units_for
from squeezecam.links import said_alone
from squeezecam.module import Squeeze
from squeezecam.native_se import NativeBlock, find_native
from squeezecam.site import Candidate, Place, Site

if TYPE_CHECKING:
    from PIL.Image import Image

    from squeezecam.render.grid import Box

SHOWN = 8
"""Candidates that the text shows; all of them are in :attr:`Inspection.candidates`."""


@dataclass(frozen=True)
class Inspection:
    """Where blocks go in a model.

    Attributes:
        model: class of the model.
        model_parameters: how many it has.
        places: per stream, the place that was taken.
        candidates: every feature map that was considered, the last one of the pass first, each with the verdict.
        added: per stream, parameters of the block as it is attached.
        fitted: per stream, parameters of the block that takes its place once it is fitted without labels, for the
            default output; None where the number of classes is not known.
        heads: per output, what feeds its classification layer, in words.
        exact: per output, whether its class map needs no fit, and the mean of the signed map (``raw``) plus a constant
            is the logit.
        signed: per stream, whether the features can be negative, so that their plain mean would cancel.
        native: SE blocks that the model has already.

    """

    model: str
    model_parameters: int
    places: dict[str, Place]
    candidates: list[Candidate]
    added: dict[str, int]
    fitted: dict[str, int | None]
    heads: dict[str, str]
    exact: dict[str, bool]
    signed: dict[str, bool]
    native: list[NativeBlock]

    @property
    def sites(self) -> dict[str, Site]:
        """The places in the form that ``attach(at=...)`` takes."""
        return {stream: place.site for stream, place in self.places.items()}

    def paste(self) -> str:
        """The value of ``at`` to type."""
        sites = self.sites
        return repr(next(iter(sites.values()))) if len(sites) == 1 else repr(sites)

    def cells(self, stream: str | None = None) -> tuple[int, int]:
        """Rows and columns of the native grid; one row where the map has a single axis."""
        place = self.places[stream] if stream is not None else next(iter(self.places.values()))
        sizes = dict(zip(place.layout.positions, place.grid, strict=True))
        if "h" in sizes and "w" in sizes:
            return sizes["h"], sizes["w"]
        return (place.grid[-2], place.grid[-1]) if len(place.grid) > 1 else (1, place.grid[0])

    def grid_on(self, picture: Image, stream: str | None = None, box: Box | None = None) -> Image:
        """``picture`` with the lines of the native grid (height and width) drawn over it, as a new image of its size.

        ``box`` (x0, y0, x1, y1) is the part of the picture that the model sees, where that is not all of it.
        """
        from squeezecam.render.grid import lines_over

        return lines_over(picture, *self.cells(stream), box)

    def panel(
        self, picture: Image, stream: str | None = None, *, box: Box | None = None, name: str = "", reason: str = ""
    ) -> Image:
        """The same, large enough to be seen, with the size of the grid and the place in words."""
        from squeezecam.render.grid import grid_panel

        stream = stream if stream is not None else next(iter(self.places))
        place, (rows, columns) = self.places[stream], self.cells(stream)
        others = [f"{n} {s}" for n, s in zip(place.layout.positions, place.grid, strict=True) if n not in "hw"]
        beside = f", and {', '.join(others)}" if others and len(place.grid) > 2 else ""
        x0, y0, x1, y1 = box or (0, 0, *picture.size)
        cell = f"one cell is {(x1 - x0) / columns:.0f} x {(y1 - y0) / rows:.0f} pixels of the picture"
        title = f"{self.model}: {rows} x {columns} cells (height x width){beside}"
        which = f"{stream}: " if len(self.places) > 1 else ""
        lines = [f"{which}{place.describe()}", f"{name + ': ' if name else ''}{cell}"]
        if box is not None and (x0 > 0.5 or y0 > 0.5 or x1 < picture.width - 0.5 or y1 < picture.height - 0.5):
            lines.append("dimmed: the preprocessing cuts this away")
        if reason:
            lines.append(f"the grid lies over the whole picture: where the preprocessing looks is not known ({reason})")
        return grid_panel(picture, rows, columns, box=box, title=title, footer="\n".join(lines))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "model": self.model,
            "model_parameters": self.model_parameters,
            "at": self.paste(),
            "places": {
                stream: {**_plain(place), "added": self.added[stream], "fitted": self.fitted[stream]}
                for stream, place in self.places.items()
            },
            "candidates": [{**_plain(c.place), "verdict": c.verdict, "taken": c.taken} for c in self.candidates],
            "heads": {name: {"describe": text, "exact": self.exact[name]} for name, text in self.heads.items()},
            "signed": dict(self.signed),
            "native_blocks": [{"name": block.name, "kind": block.kind} for block in self.native],
        }

    def __str__(self) -> str:
        lines = [f"{self.model}, {self.model_parameters:,} parameters", ""]
        for stream, place in self.places.items():
            lines.append(f"{stream}: {place.describe()}")
            lines.append(f"  adds {self._counted(self.added[stream])} as it is attached")
            if (after := self.fitted[stream]) is not None:
                lines[-1] += f", {self._counted(after)} once it is fitted without labels"
            if self.signed.get(stream):
                lines.append("  features can be negative: a plain mean over channels would cancel")
        lines += ["", "what feeds the classifier"]
        lines += [f"  {name}: {text}" for name, text in self.heads.items()]
        lines += ["", "candidates, the last map first"]
        for candidate in self.candidates[:SHOWN]:
            lines.append(f"  {'*' if candidate.taken else ' '} {candidate.place.describe()}: {candidate.verdict}")
        if len(self.candidates) > SHOWN:
            lines.append(f"    and {len(self.candidates) - SHOWN} more")
        if self.native:
            last = self.native[-1]
            lines += [
                "",
                f"{len(self.native)} SE blocks of its own, the last one {last.name} ({last.kind}): "
                "squeezecam.native_se reads them",
            ]
        return "\n".join([*lines, "", f"at={self.paste()}"])

    def _counted(self, parameters: int) -> str:
        return f"{parameters:,} parameters ({parameters / max(1, self.model_parameters):.2%})"


def inspect(model: nn.Module, example: Any, at: Any = None) -> Inspection:
    """Where :func:`squeezecam.attach` would put blocks, and why. Costs what ``attach`` costs: two forward passes.

    Args:
        model: as for ``attach``.
        example: what the model takes: a tensor, a tuple or a dict.
        at: a place to look at in place of the one that is found, as for ``attach``.

    Raises:
        SiteError: no feature map with spatial extent, or ``at`` does not name one.
        InputError: something else than a module was given.

    """
    squeeze = attach(model, example, at=at)
    heads = {}
    for name in squeeze.outputs:
        head = squeeze.heads.get(name)
        last = squeeze.classifiers.get(name)
        heads[name] = (
            head.describe()
            if head is not None
            else f"not one of the known forms{f', last layer {last!r}' if last else ''}: fit makes a class read-out"
        )
    return Inspection(
        model=type(squeeze.model).__name__,
        model_parameters=sum(p.numel() for p in squeeze.model.parameters()),
        places=dict(squeeze.places),
        candidates=list(squeeze.candidates),
        added={stream: sum(p.numel() for p in squeeze.block(stream).parameters()) for stream in squeeze.places},
        fitted=_fitted(squeeze),
        heads=heads,
        exact={name: name in squeeze.heads and squeeze.heads[name].exact for name in squeeze.outputs},
        signed=dict(squeeze.signed),
        native=find_native(squeeze.model),
    )


def _fitted(squeeze: Squeeze) -> dict[str, int | None]:
    """Parameters of the blocks that a fit without labels would put in place of these."""
    output = squeeze.default_output
    alone = said_alone(squeeze, output)
    head, last = squeeze.heads.get(output), squeeze.classifiers.get(output)
    if head is not None:
        units = units_for(len(head.offsets(squeeze.model)), alone=alone)
    elif last is not None:
        units = units_for(len(squeeze.model.get_parameter(last)), alone=alone)
    else:
        return dict.fromkeys(squeeze.places)
    return {stream: 2 * place.channels * units for stream, place in squeeze.places.items()}


def _plain(place: Place) -> dict[str, Any]:
    return {
        "module": place.module,
        "when": place.when,
        "layout": place.layout.text,
        "grid": list(place.grid),
        "channels": place.channels,
        "item": list(place.item),
        "call": place.call,
        "site": repr(place.site),
    }
