"""Fitting on an accelerator: the same block as on the CPU, by every objective, and random numbers put back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from conftest import ConvNet
from devices import agree, correlation, demo_on, demo_pictures, generator_state, moved, quietly_fitted
from patches import patches
from test_locator import Net as TwoStages
from test_refiner import coloured
from test_tuning import Animals, animals

CPU = torch.device("cpu")


class Deep(nn.Module):
    """A head of no known form, which gets a read-out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def labelled(count: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of :func:`patches` with their colours."""
    return list(zip(patches(count).split(16), (torch.arange(count) % 3).split(16), strict=True))


def test_the_closed_form_gives_the_gates_and_maps_of_the_cpu(device: torch.device) -> None:
    batches, x = list(demo_pictures(120, "train").split(30)), demo_pictures(12)
    here, there = (squeezecam.attach(demo_on(d), x[:2].to(d)) for d in (CPU, device))
    reports = [squeeze.fit(batches, progress=False, seed=3) for squeeze in (here, there)]
    assert reports[0].mode == reports[1].mode
    assert (reports[0].samples, reports[0].held_out) == (reports[1].samples, reports[1].held_out)
    assert abs(reports[0].unchanged - reports[1].unchanged) <= 1 / reports[0].held_out + 1e-9
    expected, found = here.explain(x, method="published"), there.explain(x.to(device), method="published")
    agree(found.gates - 0.5, expected.gates - 0.5, 1e-2)  # what the gates say is how they differ from a half
    assert float((found.kept.cpu() != expected.kept).float().mean()) < 0.01
    assert correlation(found.heatmap, expected.heatmap) > 0.99


@pytest.mark.parametrize(
    ("train", "apply"), [("block", "observe"), ("block", "gate"), ("head", "gate"), ("all", "gate")]
)
def test_training_on_labels_learns_there(device: torch.device, train: str, apply: str) -> None:
    squeeze = squeezecam.attach(moved(TwoStages(), device), patches(2).to(device), apply=apply, reduction=1)
    report = squeeze.fit(labelled(), objective="task", train=train, epochs=6, lr=1e-2, progress=False)
    assert report.history
    assert all(math.isfinite(loss) for loss in report.history)
    assert min(report.history) <= report.history[0]
    assert squeeze.fitted
    assert {p.device for p in squeeze.parameters()} == {device}
    assert bool(squeeze.explain(patches(4).to(device)).heatmap.isfinite().all())


@pytest.mark.parametrize("hidden", [None, 4])
def test_a_read_out_stands_in_for_an_unknown_head(device: torch.device, hidden: int | None) -> None:
    pictures, x = list(patches(96).split(16)), patches(8, seed=9)
    here, there = (
        quietly_fitted(squeezecam.attach(moved(Deep(), d), x[:2].to(d)), pictures, hidden=hidden) for d in (CPU, device)
    )
    assert there.head() is None
    expected, found = here.readouts["output"].first, there.readouts["output"].first
    assert found.r2 == pytest.approx(expected.r2, abs=1e-2)
    maps = [s.explain(x.to(d), method="class", target=1).raw for s, d in ((there, device), (here, CPU))]
    assert correlation(*maps) > 0.99


def test_features_on_disk_serve_the_next_fit_on_any_device(device: torch.device, tmp_path: Path) -> None:
    batches, gates = list(patches(48).split(16)), []
    for d in (device, device, CPU):
        squeeze = squeezecam.attach(moved(TwoStages(), d), patches(2).to(d))
        squeeze.fit(batches, cache=tmp_path / "features", progress=False)
        gates.append(squeeze.explain(patches(4, seed=2).to(d), method="published").gates)
    assert torch.equal(gates[0], gates[1])
    agree(gates[2], gates[0], 1e-4)


def test_batches_that_lie_there_already_are_fitted_on(device: torch.device) -> None:
    batches = [(x.to(device), y.to(device)) for x, y in labelled()]
    squeeze = squeezecam.attach(moved(TwoStages(), device), batches[0][0])
    assert squeeze.fit(batches, progress=False).accuracy_before is not None


# --- what learns from masked pictures, and from windows ----------------------------------------------------


def animals_fitted(device: torch.device) -> squeezecam.Squeeze:
    squeeze = squeezecam.attach(moved(Animals(), device), animals(2).to(device))
    return quietly_fitted(squeeze, list(animals(96).split(16)))


LEARNERS: dict[str, Callable[[squeezecam.Squeeze, int], Any]] = {
    "tune": lambda squeeze, seed: squeeze.tune(list(animals(64).split(8)), epochs=2, seed=seed, progress=False),
    "refine": lambda squeeze, seed: squeeze.refine(list(animals(64).split(8)), epochs=2, seed=seed, progress=False),
    "locate": lambda squeeze, seed: squeeze.locate(list(patches(24).split(4)), epochs=2, seed=seed, progress=False),
}


def learner(name: str, device: torch.device) -> squeezecam.Squeeze:
    if name == "locate":
        return squeezecam.attach(moved(TwoStages(), device), patches(2).to(device))
    return animals_fitted(device)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_there_and_the_random_numbers_of_the_caller_stay(device: torch.device, name: str) -> None:
    squeeze = learner(name, device)
    torch.rand(3, device=device)
    before = generator_state(device), torch.random.get_rng_state()
    report = LEARNERS[name](squeeze, 1)
    assert torch.equal(generator_state(device), before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert all(math.isfinite(loss) for loss in report.history)
    assert min(report.history) <= report.history[0]
    assert {p.device for p in squeeze.parameters()} | {b.device for b in squeeze.buffers()} == {device}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_seed_gives_the_same_course_whatever_was_drawn_before(device: torch.device, name: str) -> None:
    histories = []
    for seed in (1, 1, 2):
        squeeze = learner(name, device)
        torch.rand(5, device=device)
        histories.append(LEARNERS[name](squeeze, seed).history)
    # Sums of gradients come in any order on a GPU: the same numbers, but for their last digits.
    assert histories[1] == pytest.approx(histories[0], rel=1e-2)
    assert histories[2][1:] != pytest.approx(histories[0][1:], rel=1e-6)


def test_a_refiner_learns_to_make_better_masks_there(device: torch.device) -> None:
    squeeze = squeezecam.attach(moved(coloured(), device), patches(2).to(device))
    report = squeeze.refine(list(patches(48).split(8)), epochs=6, lr=5e-3, seed=1, progress=False)
    assert report.after["adcc"] > report.before["adcc"]


def test_fit_leaves_the_random_numbers_of_the_device_alone(device: torch.device) -> None:
    squeeze = squeezecam.attach(moved(TwoStages(), device), patches(2).to(device))
    before = generator_state(device)
    squeeze.fit(list(patches(48).split(16)), progress=False)
    squeeze.fit(labelled(), objective="task", epochs=1, progress=False)
    assert torch.equal(generator_state(device), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_fitted(device: torch.device, dtype: torch.dtype) -> None:
    batches = [x.to(dtype) for x in patches(48).split(16)]
    squeeze = squeezecam.attach(moved(TwoStages(), device).to(dtype), batches[0].to(device))
    report = squeeze.fit(batches, progress=False)
    assert report.unchanged > 0.8
    assert bool(squeeze.explain(batches[0].to(device), method="published").heatmap.isfinite().all())


def test_a_plain_loop_trains_the_block_there_under_autocast(device: torch.device) -> None:
    torch.manual_seed(0)
    x, y = patches(48)[:, :2].to(device), (torch.arange(48) % 3).to(device)
    squeeze = squeezecam.attach(ConvNet(classes=3).to(device), x[:2], apply="gate").train()
    optimiser = torch.optim.AdamW(squeeze.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(squeeze(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert squeeze.fitted
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in squeeze.blocks.parameters())
