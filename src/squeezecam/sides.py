"""An output of one value that is a decision: yes above 0, no below.

One logit ``v`` says as much as two scores ``-v/2`` and ``v/2``, whose softmax is the sigmoid of ``v``. Read like that,
the output has two classes, 0 for no and 1 for yes, and everything that explains classes explains the side that was
decided for. Nobody can tell such an output from a regression by its numbers, so it is read as one only when told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from squeezecam.errors import FitError, InputError
from squeezecam.graph import Graph
from squeezecam.links import last_links
from squeezecam.methods import METHODS
from squeezecam.readout import Readout, ReadoutHead

if TYPE_CHECKING:
    from squeezecam.module import Squeeze

BINARY = "binary"
SIDES = ("negative side", "positive side")
"""What the two classes are called where nobody names them."""


def two_sides(values: Tensor, link: str) -> Tensor:
    """``(N,)``, ``(N, 1)`` or ``(N, T, 1)`` as the scores of no and yes, ``(N, 2)`` or ``(N, T, 2)``.

    ``link`` is ``"sigmoid"`` where the values are probabilities: then the scores are those of their logits.
    """
    if values.ndim == 1:
        values = values[:, None]
    if link == "sigmoid":
        values = torch.logit(values, torch.finfo(values.dtype).eps)
    return torch.cat([-values, values], -1) / 2


def links_of_single(graph: Graph, leaves: dict[str, int]) -> dict[str, str]:
    """Of the outputs ``{name: node}`` those of one value: ``"sigmoid"`` where that is a probability, or
    ``"identity"``.
    """
    shapes = {name: graph.nodes[leaf].shape for name, leaf in leaves.items()}
    single = {name: leaf for name, leaf in leaves.items() if len(shapes[name]) < 2 or shapes[name][-1] == 1}
    return {name: "sigmoid" if link == "sigmoid" else "identity" for name, link in last_links(graph, single).items()}


def read_as_binary(squeeze: Squeeze, output: str | None = None) -> None:
    """Read ``output`` as a decision between two sides from now on: classes 0 and 1 in place of one value.

    Raises:
        InputError: it has more than one value.

    """
    name = squeeze.output_name(output)
    if name in squeeze.binary:
        return
    if name not in squeeze.single:
        raise InputError(
            f"task='binary' is for an output of one value, and '{name}' has several: classes with one score each are "
            "task='classification', independent labels task='multi-label'"
        )
    squeeze.binary.add(name)
    head = squeeze.heads.pop(name, None)
    if head is not None and head.activation == "none":  # behind a ReLU there is no evidence for the other side
        squeeze.heads[name] = replace(head, sides=True, link="identity")
    squeeze.set_readouts([_both(old) if key == name else old for key, old in squeeze.readouts.items()])


def declare(squeeze: Squeeze, outputs: Iterable[str]) -> None:
    """:func:`read_as_binary` of several outputs, as a file names them; those that the model has not are left out."""
    for name in outputs:
        if name in squeeze.single:
            read_as_binary(squeeze, name)


def as_classes(labels: Tensor) -> Tensor:
    """Labels 0 and 1 of any type and shape ``(N,)`` or ``(N, 1)`` as class indices ``(N,)``.

    Raises:
        FitError: other values.

    """
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1 or not bool(((flat == 0) | (flat == 1)).all()):
        raise FitError(
            f"task='binary' needs one label a sample, 0 or 1; got shape {tuple(labels.shape)}, values from "
            f"{float(flat.min()):.4g} to {float(flat.max()):.4g}"
        )
    return flat[:, 0].long()


def heat_of_value(method: str) -> str:
    """What the heat of a map by ``method`` says of an output of one value; empty where it has no direction."""
    known = METHODS.get(method.split(",")[0])
    return "heat: what raises it" if known is not None and known.of_class else ""


def _both(readout: Readout) -> Readout:
    """A read-out of one value as one of the two sides."""
    return Readout(
        {
            stream: ReadoutHead(one.output, one.path, _two_rows(one.weight), _two_rows(one.bias), one.r2, one.pool)
            for stream in readout
            if isinstance(one := readout[stream], ReadoutHead)
        }
    )


def _two_rows(rows: Tensor) -> Tensor:
    return torch.cat([-rows, rows]) / 2
