"""What is doubtful about the maps of squeezecam's own methods, beside figures and pictures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezecam.change import AGGREGATE as CHANGE
from squeezecam.methods import METHODS, options_of
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod
from squeezecam.status import notice_of
from squeezecam.tap import evaluating
from squeezecam.wording import number_of

Doubtful = Mapping[str, Sequence[str]]
"""Per method, one line a sample, empty where nothing is doubtful; methods without any doubt are left out."""


def doubts_of(
    squeeze: Squeeze,
    inputs: Any,
    methods: Iterable[MapMethod],
    target: Tensor,
    output: str,
) -> dict[str, list[str]]:
    """The doubts about the maps of ``methods`` for ``inputs``, in one pass for all of them; of all streams together.

    Methods that know no classes are not asked for one: that their map is the same for every class is what they are, and
    not a doubt about each.
    """
    own = [method.name for method in methods if method.kind == "own" and method.name in (*METHODS, CHANGE)]
    if not own:
        return {}
    with torch.no_grad(), evaluating(squeeze):
        captured = squeeze.capture(inputs)
    found = {}
    for name in own:
        goal = target if name != CHANGE and METHODS[name].of_class else None
        options: dict[str, Any] = dict(options_of(name))
        explained = squeeze.explain(inputs, target=goal, output=output, captured=captured, **options)
        lines = [notice_of(status) for status in explained.status]
        if any(lines):
            found[name] = lines
    return found


def joined_doubts(parts: Sequence[Doubtful], sizes: Sequence[int] | None = None) -> dict[str, list[str]]:
    """Those of several batches of ``sizes`` samples (None: one each) after each other."""
    counts = sizes or [1] * len(parts)
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: [line for part, count in zip(parts, counts, strict=True) for line in part.get(name, [""] * count)]
        for name in names
    }


def counted(doubts: Iterable[Doubtful]) -> dict[str, dict[str, int]]:
    """``{method: {doubt: number of samples}}``, the most frequent first."""
    found: dict[str, Counter[str]] = {}
    for part in doubts:
        for name, lines in part.items():
            found.setdefault(name, Counter()).update(line for line in lines if line)
    return {name: dict(counter.most_common()) for name, counter in found.items() if counter}


def in_words(found: Mapping[str, Mapping[str, int]], labels: Mapping[str, str], total: int, noun: str) -> list[str]:
    """One line per doubt: ``Published, Contribution: block not fitted (all 5 pictures)``; like ones together."""
    together: dict[tuple[str, int], list[str]] = {}
    for name, doubts in found.items():
        for doubt, count in doubts.items():
            together.setdefault((doubt, count), []).append(labels[name])
    return [f"{', '.join(names)}: {doubt} ({_share(count, total, noun)})" for (doubt, count), names in together.items()]


def _share(count: int, total: int, noun: str) -> str:
    return f"all {number_of(total, noun)}" if count == total else f"{count} of {number_of(total, noun)}"
