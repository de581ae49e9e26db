"""What was fitted on other weights than the model has now is said to be so, and nothing else is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from conftest import ConvNet, leave_identity
from squeezecam import Squeeze, SqueezeWarning
from squeezecam.origin import FIT, LOCATE, REFINE, rough
from squeezecam.refiner import Refiner
from test_waiting import waits

SAID = "no longer those that the block was fitted on"


def batches(count: int = 4) -> list[Tensor]:
    return list(torch.randn(count, 8, 2, 14, 18, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def squeeze() -> Squeeze:
    found = squeezecam.attach(ConvNet(), torch.randn(2, 2, 14, 18))
    found.fit(batches(), progress=False)
    return found


@pytest.fixture
def x() -> Tensor:
    return batches(1)[0][:2]


def statuses(squeeze: Squeeze, x: Tensor, method: str = "published") -> list[str]:
    return squeeze.explain(x, method=method).status


def as_data(layer: nn.Linear) -> None:
    layer.weight.data = torch.randn_like(layer.weight) * 3


def in_place(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight)


def as_parameter(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def by_state(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.randn_like(layer.weight), "bias": layer.bias.detach()})


def by_assignment(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.randn_like(layer.weight), "bias": layer.bias.detach()}, assign=True)


def twice(layer: nn.Linear) -> None:
    for _ in range(2):  # the second one may get the memory of the first
        layer.weight.data = torch.randn_like(layer.weight) * 3


def by_a_step(layer: nn.Linear) -> None:
    optimiser = torch.optim.Adam(layer.parameters(), 0.1)
    layer(torch.randn(3, layer.in_features)).square().sum().backward()
    optimiser.step()
    layer.zero_grad()


CHANGES = [as_data, in_place, as_parameter, by_state, by_assignment, twice, by_a_step]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_changed_after_the_fit_is_a_doubt(
    squeeze: Squeeze, x: Tensor, change: Callable[[nn.Linear], None]
) -> None:
    before = copy.deepcopy(squeeze.model.state_dict())
    assert statuses(squeeze, x) == ["ok"] * 2
    change(squeeze.model.fc)  # type: ignore[arg-type]
    assert all(SAID in line for line in statuses(squeeze, x))
    assert all(SAID in line for line in statuses(squeeze, x, method="contribution"))
    assert statuses(squeeze, x, method="class") == ["ok"] * 2  # read off the weights as they are
    squeeze.model.load_state_dict(before)
    assert statuses(squeeze, x) == ["ok"] * 2
    change(squeeze.model.fc)  # type: ignore[arg-type]
    squeeze.fit(batches(), progress=False)
    assert statuses(squeeze, x) == ["ok"] * 2


def test_the_same_weights_in_another_form_are_no_doubt(squeeze: Squeeze, x: Tensor) -> None:
    squeeze.model.load_state_dict(copy.deepcopy(squeeze.model.state_dict()))
    assert statuses(squeeze, x) == ["ok"] * 2
    for other in (copy.deepcopy(squeeze), pickle.loads(pickle.dumps(squeeze))):
        assert statuses(other, x) == ["ok"] * 2
        as_data(other.model.fc)
        assert all(SAID in line for line in statuses(other, x))
    assert statuses(squeeze, x) == ["ok"] * 2  # it is the copies that were changed
    assert statuses(squeeze.double(), x.double()) == ["ok"] * 2
    assert statuses(squeeze.bfloat16(), x.bfloat16()) == ["ok"] * 2
    as_data(squeeze.model.fc)  # type: ignore[arg-type]
    assert all(SAID in line for line in statuses(squeeze, x.bfloat16()))


def test_a_block_that_was_never_fitted_on_anything_has_no_such_doubt(x: Tensor) -> None:
    found = leave_identity(squeezecam.attach(ConvNet(), x))
    as_data(found.model.fc)  # type: ignore[arg-type]
    assert statuses(found, x) == ["ok"] * 2


def test_trained_together_with_its_block_a_model_may_change(x: Tensor) -> None:
    labelled = [(given, torch.arange(8) % 5) for given in batches()]
    found = squeezecam.attach(ConvNet(), x, apply="gate")
    for train in ("block", "head", "all"):
        found.fit(labelled, objective="task", train=train, epochs=2, progress=False)  # type: ignore[arg-type]
        assert not any(SAID in line for line in statuses(found, x))
    optimiser = torch.optim.SGD(found.parameters(), 0.5)
    for given, labels in labelled:  # one's own loop: the block goes along
        optimiser.zero_grad()
        nn.functional.cross_entropy(found(given), labels).backward()
        optimiser.step()
    assert not any(SAID in line for line in statuses(found, x))


def test_each_part_belongs_to_the_weights_that_it_was_fitted_on(squeeze: Squeeze, x: Tensor) -> None:
    squeeze.set_refiner(Refiner(squeeze.default_output, squeeze.places["map"].channels))
    squeeze.origins.mark(squeeze, REFINE)
    assert statuses(squeeze, x, method="refined") == ["ok"] * 2
    in_place(squeeze.model.fc)  # type: ignore[arg-type]
    assert all("refiner was fitted on" in line and SAID not in line for line in statuses(squeeze, x, method="refined"))
    squeeze.origins.mark(squeeze, REFINE)
    assert not any("refiner" in line for line in statuses(squeeze, x, method="refined"))
    assert all(SAID in line for line in statuses(squeeze, x, method="published"))
    assert statuses(squeeze, x, method="focus") == ["ok"] * 2  # there is no locator
    assert squeeze.origins.lines(squeeze, LOCATE) == []


def test_explaining_waits_for_nothing_also_when_weights_have_moved(squeeze: Squeeze, x: Tensor) -> None:
    squeeze.explain(x, method="published")  # whether a block has left its start is read once
    assert waits(lambda: squeeze.explain(x, method="published")) == []
    in_place(squeeze.model.fc)  # type: ignore[arg-type]
    assert waits(lambda: squeeze.explain(x, method="published")) == []
    explained = squeeze.explain(x, method="published")
    squeeze.fit(batches(), progress=False)  # after the call, which tells of what was then
    assert all(SAID in line for line in explained.status)


def test_weights_are_looked_at_again_only_where_they_have_moved(
    squeeze: Squeeze, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[int, ...]] = []

    def counted(tensor: Tensor) -> Tensor:
        looked.append(tuple(tensor.shape))
        return rough(tensor)

    monkeypatch.setattr("squeezecam.origin.rough", counted)
    squeeze.explain(x, method="published")
    assert looked == []
    in_place(squeeze.model.fc)  # type: ignore[arg-type]
    squeeze.explain(x, method="published")
    squeeze.explain(x, method="published")
    assert looked == [(5, 32)]


def test_an_adapter_brings_along_the_weights_it_was_fitted_on(squeeze: Squeeze, x: Tensor, tmp_path: Path) -> None:
    file, model = tmp_path / "a.safetensors", copy.deepcopy(squeeze.model)
    squeeze.save(file)
    loaded = squeezecam.load(file, model, x)
    assert statuses(loaded, x) == ["ok"] * 2
    in_place(model.fc)  # type: ignore[arg-type]
    assert all(SAID in line for line in statuses(loaded, x))
    with pytest.warns(SqueezeWarning, match="other weights"):
        again = squeezecam.load(file, model, x)
    assert all(SAID in line for line in statuses(again, x))


def test_saving_after_a_change_keeps_the_weights_of_the_fit(squeeze: Squeeze, x: Tensor, tmp_path: Path) -> None:
    file, before = tmp_path / "a.safetensors", copy.deepcopy(squeeze.model)
    in_place(squeeze.model.fc)  # type: ignore[arg-type]
    squeeze.save(file)
    with pytest.warns(SqueezeWarning, match="other weights"):
        squeezecam.load(file, copy.deepcopy(squeeze.model), x)
    assert statuses(squeezecam.load(file, before, x), x) == ["ok"] * 2
    squeeze.fit(batches(), progress=False)
    squeeze.save(file)
    assert squeezecam.load(file, squeeze.model, x).origins.lines(squeeze, FIT) == []
