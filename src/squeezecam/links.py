"""What the numbers of an output are: logits of classes that compete, logits of labels that do not, or probabilities.

What the model does last is read from its graph, so a softmax or a sigmoid behind a hidden layer is seen too. Logits of
independent labels look like those of classes: whoever knows says so (``task="multi-label"``), or the labels of a fit
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from squeezecam.graph import Graph

if TYPE_CHECKING:
    from squeezecam.metrics.predict import Outputs
    from squeezecam.module import Squeeze

MULTI_LABEL = "multi-label"
_LAST = {"_softmax": "softmax", "softmax": "softmax", "sigmoid": "sigmoid", "_log_softmax": "log-softmax"}
_JOINED = ("cat", "stack")
_PASSED = (
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "squeeze",
    "select",
    "clone",
    "alias",
    "_to_copy",
    "clamp",
)


def last_links(graph: Graph, leaves: Mapping[str, int]) -> dict[str, str]:
    """What the outputs ``{name: node}`` are made by last: ``softmax``, ``log-softmax``, ``sigmoid`` or ``identity``."""
    return {name: _last(graph, leaf) for name, leaf in leaves.items()}


def _last(graph: Graph, node: int) -> str:
    while graph.nodes[node].op in _PASSED and graph.nodes[node].parents:
        node = graph.nodes[node].parents[0]
    if graph.nodes[node].op in _JOINED:  # a head for each label: of a softmax, what is joined adds up to more than 1
        parts = {_last(graph, parent) for parent in graph.nodes[node].parents}
        return "sigmoid" if parts == {"sigmoid"} else "identity"
    return _LAST.get(graph.nodes[node].op, "identity")


def last_of(squeeze: Squeeze, output: str) -> str:
    """What ``output`` is made by last, as its graph says or the formula of its head; of two sides their logits."""
    if output in squeeze.binary:
        return "identity"
    found, evidence = squeeze.links.get(output, "identity"), squeeze.evidence(output)
    return evidence.link if found == "identity" and evidence is not None else found


def said_alone(squeeze: Squeeze, output: str) -> bool:
    """Whether each of several values is a label by itself: as told, or as a sigmoid at the end has it."""
    return output in squeeze.independent or (output not in squeeze.single and last_of(squeeze, output) == "sigmoid")


def score_kind(squeeze: Squeeze, output: str) -> Outputs:
    """What the scores of ``output`` are, as :func:`squeezecam.metrics.predict.class_scores` takes them."""
    if output in squeeze.binary:  # read as the logits of two sides
        return "logits"
    if last_of(squeeze, output) in ("softmax", "sigmoid"):
        return "probabilities"
    return "sigmoid" if output in squeeze.independent else "logits"


def read_as_labels(squeeze: Squeeze, output: str, labels: bool = True) -> None:
    """Read the scores of ``output`` as independent labels from now on, or as classes that compete."""
    (squeeze.independent.add if labels else squeeze.independent.discard)(output)
    if output in squeeze.heads:
        squeeze.heads[output] = replace(squeeze.heads[output], labels=labels)
    squeeze.set_readouts(squeeze.readouts.values())


def in_words(kind: Outputs) -> str:
    """How a probability was made of scores of this kind."""
    return {
        "logits": "softmax over the classes",
        "sigmoid": "sigmoid of each label by itself",
        "probabilities": "what the model itself ends with",
        "scores": "the score itself",
    }[kind]


def probability_in_words(squeeze: Squeeze, output: str) -> str | None:
    """The same for an output; None: it is one value, and no decision."""
    return None if output in squeeze.single.keys() - squeeze.binary else in_words(score_kind(squeeze, output))


def seen_kind(kind: Outputs, scores: Tensor) -> Outputs:
    """``kind``, or probabilities in place of logits where all rows of ``scores (..., K)`` are such: made by something
    that the graph does not tell, a mean of several softmaxes say.
    """
    likely = kind == "logits" and bool((scores >= 0).all()) and bool(((scores.float().sum(-1) - 1).abs() < 1e-3).all())
    return "probabilities" if likely else kind


def probabilities(scores: Tensor, kind: Outputs) -> Tensor:
    """Scores ``(..., K)`` as probabilities."""
    kind = seen_kind(kind, scores)
    if kind == "sigmoid":
        return scores.sigmoid()
    return scores.softmax(-1) if kind == "logits" else scores
