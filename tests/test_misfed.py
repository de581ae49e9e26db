"""Inputs that a model does not take: one line that says what was given, what was expected and what to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import squeezecam
from conftest import ConvNet
from squeezecam.errors import InputError, SiteError

X = torch.randn(4, 2, 14, 18)
BATCHES = [torch.randn(16, 2, 14, 18) for _ in range(2)]


class Age(nn.Module):
    """A picture and a number for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU()), nn.Linear(9, 3)

    def forward(self, picture: Tensor, age: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.fc(torch.cat([self.features(picture).mean((2, 3)), age], 1)) * scale


@pytest.fixture(scope="module")
def squeeze() -> squeezecam.Squeeze:
    return squeezecam.attach(ConvNet().eval(), X)


class Picture:
    """What Pillow's class looks like from outside."""

    __module__ = "PIL.Image"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([X[0], X[1]], r"takes x; got a list of 2 \(each a tensor of shape \(2, 14, 18\)\).*torch\.stack\(x\)"),
        ([X, X], r"takes x; got a list of 2 .*torch\.cat\(x\)"),
        (
            X.numpy(),
            r"takes tensors, .*\(4, 2, 14, 18\); got a NumPy array of shape \(4, 2, 14, 18\): .*from_numpy\(x\)",
        ),
        ([X[0].numpy(), X[1].numpy()], r"a list of 2 \(each a NumPy array .*from_numpy\(numpy\.stack\(x\)\)"),
        (Picture(), r"got an object of type Picture: try preprocess\(picture\)\[None\]"),
        ([Picture(), Picture()], r"got a list of 2 .*try preprocess\(picture\)\[None\]"),
        ("a.jpg", "got an object of type str: give what the model takes"),
        (None, "got None"),
        (X[0], r"shape \(2, 14, 18\), that of the example was \(4, 2, 14, 18\): an axis is missing.*x\[None\]"),
        ([X[0]], r"shape \(2, 14, 18\), that of the example"),
        (X[None], "expected are 4 axes, the batch first"),
        (X.byte(), r"is torch\.uint8, that of the example was torch\.float32: try x\.to\(torch\.float32\)"),
        (X.double(), r"is torch\.float64, .*try x\.to\(torch\.float32\)"),
        ({"image": X, "label": X}, "takes x; got a dict with the keys image, label: name the keys as these"),
    ],
)
def test_explain_says_what_it_was_given_and_what_to_try(squeeze: squeezecam.Squeeze, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        squeeze.explain(given)
    assert "\n" not in str(raised.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in squeeze.modules())


@pytest.mark.parametrize("how", ["fit", "refine", "locate", "tune"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (BATCHES[0], r"got a tensor of shape \(16, 2, 14, 18\): give \[x\] or \[\(x, y\)\]"),
        (BATCHES[0].numpy(), "got a NumPy array"),
        ({"x": X}, "got a dict with the keys x"),
        ("photos/", "got an object of type str"),
        (None, "got None"),
    ],
)
def test_what_is_no_iterable_of_batches_is_refused_before_anything_runs(
    squeeze: squeezecam.Squeeze, how: str, given: Any, said: str
) -> None:
    with pytest.raises(InputError, match="batches must be an iterable of batches.*" + said):
        getattr(squeeze, how)(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            [{"image": batch, "label": torch.zeros(16)} for batch in BATCHES],
            r"forward takes x; got a dict with the keys image: .*batch is a dict with the keys image, label.*inputs=",
        ),
        (
            TensorDataset(BATCHES[0], torch.zeros(16)),
            r"shape \(2, 14, 18\).*axis is missing.*a tuple of 2 .*DataLoader",
        ),
        ((BATCHES[0], torch.zeros(16)), r"shape \(16,\), that of the example was \(4, 2, 14, 18\).*or \(x, y\)"),
    ],
)
def test_batches_that_the_model_does_not_take(squeeze: squeezecam.Squeeze, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        squeeze.fit(given, progress=False)


def test_a_refiner_says_what_it_found_in_the_batch(squeeze: squeezecam.Squeeze) -> None:
    with pytest.raises(
        InputError, match=r"expected a float tensor \(N, C, H, W\).*keys image; the batch is .* image, y"
    ):
        squeeze.refine([{"image": batch, "y": torch.zeros(16)} for batch in BATCHES], progress=False)


def test_a_stack_of_batches_is_an_iterable_of_batches() -> None:
    assert squeezecam.attach(ConvNet().eval(), X).fit(torch.stack(BATCHES), progress=False).samples > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X, r"forward takes picture, age, scale; got a tensor .*: give a tuple \(picture, age\)"),
        ({"picture": X}, "takes picture, age, scale; got a dict with the keys picture"),
        ({"picture": X, "years": torch.ones(4, 1)}, "got a dict with the keys picture, years"),
        ((X, torch.ones(4)), r"shape \(4,\), that of the example was \(4, 1\)"),
    ],
)
def test_a_model_of_two_inputs(given: Any, said: str) -> None:
    squeeze = squeezecam.attach(Age().eval(), (X, torch.ones(4, 1)))
    with pytest.raises(InputError, match=said):
        squeeze.explain(given)


def fails(error: Exception) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any) -> None:
        raise error

    return hook


@pytest.mark.parametrize(
    "error", [ValueError("too dark"), RuntimeError("mine"), SiteError("no place"), InputError("x")]
)
def test_the_models_own_error_goes_through_where_the_inputs_are_as_they_should_be(error: Exception) -> None:
    model = ConvNet().eval()
    squeeze = squeezecam.attach(model, X)
    model.register_forward_pre_hook(fails(error))
    for inputs in (X, X[:, :, :9]):  # another size is another size, not another form
        with pytest.raises(type(error)) as raised:
            squeeze.explain(inputs)
        assert raised.value is error


def test_running_out_of_memory_is_no_matter_of_form() -> None:
    model = ConvNet().eval()
    squeeze = squeezecam.attach(model, X)
    model.register_forward_pre_hook(fails(torch.cuda.OutOfMemoryError("full")))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        squeeze.explain(X.double())


def test_nothing_is_looked_at_where_nothing_fails(squeeze: squeezecam.Squeeze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeezecam.misfed._wrong", lambda *given: pytest.fail("looked"))
    squeeze.explain(X)
    squeeze.explain({"x": X})
    squeeze.explain(np.float32(0) + X)
