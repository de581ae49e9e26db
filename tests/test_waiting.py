"""Explaining only queues work: nothing in it waits for a device to have computed a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import squeezecam
from conftest import ConvNet, leave_identity
from squeezecam import Squeeze
from squeezecam.methods import METHODS
from squeezecam.refiner import Refiner

CALLS = {"item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__"}
OPERATIONS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}


class Calls(TorchFunctionMode):
    """Notes the methods of tensors that hand numbers to Python."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in CALLS:
            self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Notes the operations whose result has to be known on the host: numbers, and shapes that depend on values."""

    def __init__(self, seen: list[str], also: set[str]) -> None:
        super().__init__()
        self.seen, self.noted = seen, OPERATIONS | also

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], (list, tuple)) else [])
        )
        if by_mask or name in self.noted:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def waits(run: Callable[[], Any], also: set[str] | None = None) -> list[str]:
    """What in ``run`` would wait for a device, by name, and the operations ``also``."""
    seen: list[str] = []
    with Calls(seen), Operations(seen, also or set()):
        run()
    return seen


@pytest.fixture
def squeeze() -> Squeeze:
    """Fitted, with a refiner, and has explained before."""
    found = leave_identity(squeezecam.attach(ConvNet(), torch.randn(3, 2, 14, 18)))
    found.set_refiner(
        Refiner(found.default_output, found.places["map"].channels, found.finer.channels if found.finer else 0)
    )
    for method in METHODS:
        found.explain(torch.randn(3, 2, 14, 18), method=method)
    return found


@pytest.mark.parametrize("method", [None, *METHODS])
def test_explaining_waits_for_nothing(squeeze: Squeeze, method: str | None) -> None:
    x = torch.randn(4, 2, 14, 18)
    assert waits(lambda: squeeze.explain(x, method=method)) == []


@pytest.mark.parametrize("options", [
    {"keep": "topk:3"}, {"keep": "quantile"}, {"keep": "all"}, {"score": "class"}, {"aggregate": "energy"},
    {"aggregate": "peaks"}, {"upsample": "spline"}, {"size": 9},
], ids=str)  # fmt: skip
def test_nor_do_its_options(squeeze: Squeeze, options: dict[str, Any]) -> None:
    x = torch.randn(4, 2, 14, 18)
    assert waits(lambda: squeeze.explain(x, method="published", **options)) == []


def test_the_status_is_what_waits_and_once(squeeze: Squeeze) -> None:
    explained = squeeze.explain(torch.randn(4, 2, 14, 18), method="published")
    assert waits(lambda: len(explained)) == []
    assert waits(lambda: explained.status)
    assert waits(lambda: explained.status) == []


def test_the_weights_of_a_spline_are_made_once(squeeze: Squeeze) -> None:
    x = torch.randn(4, 2, 14, 18)
    made = {"scatter_add_"}
    first = waits(lambda: squeeze.explain(x, method="class", size=(31, 37)), made)
    assert set(first) == made
    assert waits(lambda: squeeze.explain(x, method="class", size=(31, 37)), made) == []


def test_weights_made_without_gradients_serve_where_gradients_are_wanted(squeeze: Squeeze) -> None:
    x, size = torch.randn(4, 2, 14, 18), (33, 39)
    with torch.inference_mode():
        found = squeeze.explain(x, method="class", size=size).raw
    maps = found.clone().requires_grad_()
    squeezecam.heatmap.upsample(maps, size, "spline").sum().backward()
    assert maps.grad is not None


def test_a_status_tells_of_the_call_whatever_happens_before_it_is_looked_at(squeeze: Squeeze) -> None:
    x = torch.randn(3, 2, 14, 18)
    x[1] = torch.nan
    expected = squeeze.explain(x, method="published").status
    assert ["not finite" in line for line in expected] == [False, True, False]
    explained = squeeze.explain(x, method="published")
    squeeze.block().reset_parameters()
    for tensor in (explained.raw, explained.heatmap, explained.output, explained.gates):
        tensor.zero_()
    assert explained.status == expected
