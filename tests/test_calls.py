"""The methods of a Squeeze name every option of the functions behind them, and hand each on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import squeezecam
from conftest import ConvNet
from squeezecam import Squeeze
from squeezecam.explanation import explain
from squeezecam.fit import fit
from squeezecam.fit.locating import locate
from squeezecam.fit.refining import refine
from squeezecam.fit.tuning import tune

BEHIND = {
    "explain": ("squeezecam.explanation.explain", explain),
    "fit": ("squeezecam.fit.fit", fit),
    "tune": ("squeezecam.fit.tuning.tune", tune),
    "refine": ("squeezecam.fit.refining.refine", refine),
    "locate": ("squeezecam.fit.locating.locate", locate),
}


@pytest.mark.parametrize("name", BEHIND)
def test_names_order_and_defaults_are_those_of_the_function(name: str) -> None:
    _, function = BEHIND[name]
    own = list(inspect.signature(getattr(Squeeze, name)).parameters.values())[1:]
    other = list(inspect.signature(function).parameters.values())[1:]
    assert [(p.name, p.kind, p.default) for p in own] == [(p.name, p.kind, p.default) for p in other]


@pytest.mark.parametrize("name", BEHIND)
def test_every_option_is_handed_on_under_its_own_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, function = BEHIND[name]
    seen: dict[str, Any] = {}
    monkeypatch.setattr(place, lambda *given, **options: seen.update(options, given=given))
    options = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    squeeze = squeezecam.attach(ConvNet(), torch.randn(2, 2, 14, 18))
    getattr(squeeze, name)("batch", **{option: f"value of {option}" for option in options})
    assert seen.pop("given") == (squeeze, "batch")
    assert seen == {option: f"value of {option}" for option in options}


def test_an_unknown_option_is_refused_at_once() -> None:
    squeeze = squeezecam.attach(ConvNet(), torch.randn(2, 2, 14, 18))
    with pytest.raises(TypeError, match="'methd'"):
        squeeze.explain(torch.randn(2, 2, 14, 18), methd="class")  # type: ignore[call-arg]
