"""Metrics, controls, tables and the randomisation check: the figures of the CPU, from tensors on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezecam
from conftest import ConvNet
from devices import agree, demo_on, demo_pictures, generator_state, lies_on, moved, quietly_fitted
from squeezecam import metrics
from squeezecam.data.demo import DemoImages
from squeezecam.evaluation.randomising import randomise
from squeezecam.metrics.model_randomisation import reinitialise
from squeezecam.peers import choose

CPU = torch.device("cpu")
CONTROLS = ("all-channel-mean", "random-channels", "random-map", "centred-gaussian")


class Case:
    """A model, pictures, maps with a clear order of the pixels, masks, boxes and channels, all on one device."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(4)
        torch.manual_seed(0)
        self.model = ConvNet().eval().to(device)
        count, side = 5, 16
        order = torch.stack([torch.randperm(side * side, generator=generator) for _ in range(count)])
        values = {
            "x": torch.rand(count, 2, side, side, generator=generator),
            "maps": (order.float() / order.shape[1]).view(count, side, side),
            "mask": torch.rand(count, side, side, generator=generator) > 0.7,
            "target": torch.arange(count) % 5,
            "features": torch.rand(count, 12, 4, 4, generator=generator),
            "score": torch.rand(count, 12, generator=generator),
            "full": torch.rand(count, generator=generator),
            "masked": torch.rand(count, generator=generator),
            "weight": torch.randn(5, 12, generator=generator),
        }
        self.maps = values["maps"].to(device)
        self.given = {name: tensor.to(device) for name, tensor in values.items()}
        self.boxes = [torch.tensor([[1.0, 2.0, 9.0, 12.0]]).to(device)] * count

    def __getattr__(self, name: str) -> Tensor:
        return self.given[name]

    def again(self, x: Tensor) -> Tensor:
        """Maps of the pictures, without a model."""
        return (x * torch.linspace(0, 1, x.shape[-1], device=x.device)).mean(1)

    def head(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) @ self.weight.T

    def boxes_reached(self, *, every: bool) -> Tensor:
        return metrics.box_ious(self.maps, self.boxes, every_component=every)


FIGURES: dict[str, Callable[[Case], Any]] = {
    "insertion": lambda c: [*metrics.insertion(c.model, c.x, c.maps, c.target, steps=6)],
    "deletion": lambda c: [*metrics.deletion(c.model, c.x, c.maps, c.target, steps=6, base="mean")],
    "average_drop": lambda c: metrics.average_drop(c.full, c.masked),
    "increase_in_confidence": lambda c: metrics.increase_in_confidence(c.full, c.masked),
    "average_gain": lambda c: metrics.average_gain(c.full, c.masked),
    "coherency": lambda c: metrics.coherency(c.maps, c.again(c.x)),
    "adcc": lambda c: [*metrics.adcc_parts(c.model, c.again, c.x, c.target)],
    "road": lambda c: [*metrics.road(c.model, c.x, c.maps, c.target)],
    "road_combined": lambda c: metrics.road_combined(c.model, c.x, c.maps, c.target),
    "pointing_game": lambda c: metrics.pointing_game(c.maps, c.mask, tolerance=2),
    "energy_pointing_game": lambda c: metrics.energy_pointing_game(c.maps, c.mask),
    "mask_iou": lambda c: metrics.mask_iou(c.maps, c.mask),
    "max_box_acc": lambda c: [c.boxes_reached(every=False), _value(metrics.max_box_acc(c.boxes_reached(every=False)))],
    "max_box_acc_v2": lambda c: [
        c.boxes_reached(every=True), _value(metrics.max_box_acc_v2(c.boxes_reached(every=True)))
    ],
    "sensitivity_max": lambda c: metrics.sensitivity_max(c.again, c.x, samples=3),
    "sparseness": lambda c: metrics.sparseness(c.maps),
    "complexity": lambda c: metrics.complexity(c.maps),
    "map_area": lambda c: metrics.map_area(c.maps),
    "channel_faithfulness": lambda c: [
        *metrics.channel_faithfulness(c.head, c.features, c.score > 0.6, c.score, c.target, outputs="scores")
    ],
    "opposing_share": lambda c: metrics.opposing_share(
        c.score > 0.6, metrics.channel_evidence(c.features.mean((2, 3)), c.weight, c.target)
    ),
}  # fmt: skip


def _value(found: metrics.BoxAccuracy) -> Tensor:
    return torch.tensor(found.value)


def test_every_metric_is_measured_here() -> None:
    elsewhere = {"model_randomisation"}  # its new weights are drawn on the device: below
    assert set(FIGURES) | elsewhere == set(metrics.METRICS)


@pytest.mark.parametrize("name", FIGURES)
def test_a_metric_gives_the_figures_of_the_cpu(device: torch.device, name: str) -> None:
    agree(FIGURES[name](Case(device)), FIGURES[name](Case(CPU)), 1e-3)


@pytest.mark.parametrize("name", ["insertion", "pointing_game", "mask_iou", "max_box_acc", "road"])
def test_truth_and_targets_may_lie_on_the_cpu(device: torch.device, name: str) -> None:
    case = Case(device)
    case.given |= {key: case.given[key].cpu() for key in ("mask", "target")}
    case.boxes = [box.cpu() for box in case.boxes]
    agree(FIGURES[name](case), FIGURES[name](Case(CPU)), 1e-3)


def test_helpers_give_what_the_cpu_gives(device: torch.device) -> None:
    def all_of(c: Case) -> list[Tensor]:
        boxes = metrics.boxes_to_mask([b.to(c.maps.device) for b in c.boxes], 16, 16).to(c.maps.device)
        return [
            metrics.baseline(c.x, "blur"), metrics.spearman(c.maps, c.again(c.x)), metrics.ssim(c.maps, c.again(c.x)),
            metrics.pearson(c.maps, c.again(c.x)), metrics.linear_imputation(c.x, c.mask), boxes,
            metrics.mask_inputs(c.x, c.maps), *metrics.mask_to_boxes(c.mask),
        ]  # fmt: skip

    agree(all_of(Case(device)), all_of(Case(CPU)), 1e-3)


# --- controls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_draws_the_same_there(device: torch.device, name: str) -> None:
    x = demo_pictures(4)
    (method,) = choose([name])
    squeezes = {d: squeezecam.attach(demo_on(d), x[:2].to(d)) for d in (device, CPU)}
    found, expected = (method(squeezes[d], x.to(d), None, seeds=[3, 1, 4, 1]) for d in (device, CPU))
    lies_on(found, device)
    agree(found, expected, 1e-3)


def test_controls_by_hand(device: torch.device) -> None:
    features = torch.rand(3, 20, 4, 4)

    def drawn(d: torch.device) -> list[Tensor]:
        generator = torch.Generator().manual_seed(2)
        return [
            metrics.random_channels(features.to(d), 0.2, generator), metrics.all_channel_mean(features.to(d)),
            metrics.centred_gaussian(2, 5, 6, device=d),
        ]  # fmt: skip

    lies_on(drawn(device), device)
    agree(drawn(device), drawn(CPU), 1e-6)
    lies_on(metrics.random_map(2, (3, 4), torch.Generator(device).manual_seed(1)), device)


# --- tables ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def test_set() -> Any:
    return DemoImages("test", 8, seed=1).batch(range(8))


def test_the_table_is_that_of_the_cpu(device: torch.device, test_set: Any, tmp_path: Path) -> None:
    boxes = [box[None].float() for box in test_set.boxes]
    tables = {}
    for d in (device, CPU):
        squeeze = squeezecam.attach(demo_on(d), test_set.images[:2].to(d))
        found = squeezecam.evaluate(
            squeeze, test_set.images, ["class", "focus"], boxes=boxes, batch_size=4, steps=4, progress=False,
            out=tmp_path / d.type / str(d.index),
        )  # fmt: skip
        tables[d] = {
            (method, name): figure.value.mean for method, row in found.figures().items() for name, figure in row.items()
        }
    assert tables[device].keys() == tables[CPU].keys()
    gains = ("increase_in_confidence", "average_gain")  # of a probability that is all but 1, decided by rounding
    for cell, value in tables[CPU].items():
        if cell[1] in gains:
            continue
        # A pixel among equals may change places: no figure of a few pictures may move by more than a little.
        assert tables[device][cell] == pytest.approx(value, abs=0.05, rel=0.05, nan_ok=True), cell


def test_columns_of_channels_and_of_robustness(device: torch.device, test_set: Any) -> None:
    squeeze = squeezecam.attach(demo_on(device), test_set.images[:2].to(device))
    quietly_fitted(squeeze, list(demo_pictures(60, "train").split(20)))
    columns = ["channel_faithfulness", "opposing_share", "sensitivity_max", "road"]
    found = squeezecam.evaluate(squeeze, test_set.images[:4], ["published"], columns, progress=False)
    assert set(found.figures()["published"]) >= set(columns)


def test_methods_beside_each_other(device: torch.device) -> None:
    x = demo_pictures(2).to(device)
    found = squeezecam.compare(squeezecam.attach(demo_on(device), x), x, ["class", "focus", *CONTROLS], repeats=1)
    assert len(found) == 2
    assert all(bool((seconds > 0).all()) for seconds in found.seconds.values())
    assert found.plot().width > 0


# --- randomisation --------------------------------------------------------------------------------------


def test_new_weights_leave_model_and_random_numbers_alone(device: torch.device) -> None:
    model, x = demo_on(device), demo_pictures(3).to(device)
    squeeze = squeezecam.attach(model, x)
    before = {name: tensor.clone() for name, tensor in squeeze.state_dict().items()}

    def maps(changed: nn.Module) -> Tensor:
        heatmap: Tensor = squeezecam.attach(changed, x).explain(x, method="class", target=1).heatmap
        return heatmap

    names = ["head", "features.5"]
    first, second = (metrics.model_randomisation(maps, model, names, seed=1, ssim=True) for _ in range(2))
    agree([first.spearman, first.ssim], [second.spearman, second.ssim], 1e-5)
    assert bool((first.spearman.nan_to_num(0) < 0.99).all())  # NaN: a map that the new weights leave blank
    states = generator_state(device), torch.random.get_rng_state()
    randomise(squeeze, x.cpu(), ["class"], stage_count=3, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in squeeze.state_dict().items())
    assert torch.equal(generator_state(device), states[0])
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_new_weights_are_those_of_their_seed(device: torch.device) -> None:
    made = []
    for seed in (1, 1, 2):
        model = moved(ConvNet(), device)
        torch.rand(4, device=device)
        reinitialise(model, seed)
        made.append(model.fc.weight.detach().clone())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
