"""Training, other people's loops and the study of what a block costs, on an accelerator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import squeezecam
from devices import agree, explained_alike, generator_state
from patches import patches
from squeezecam.models.torchvision_guard import ensure_torchvision
from squeezecam.parity import Recipe, parity
from test_integrations import COUNT, Classifier, data
from test_parity import Dropping, pictures


class Net(nn.Module):
    """A convolution, batch statistics, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.features(x).mean((2, 3))))


def gated(device: torch.device) -> squeezecam.Squeeze:
    torch.manual_seed(0)
    return squeezecam.attach(Net().to(device), patches(2).to(device), apply="gate", hidden=8)


def loader(count: int = 48) -> DataLoader[Any]:
    return DataLoader(TensorDataset(patches(count), torch.arange(count) % 3), batch_size=8, shuffle=True)


def trained(squeeze: nn.Module, **options: Any) -> Any:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from squeezecam.training import train

    optimiser = torch.optim.SGD(squeeze.parameters(), lr=0.1, momentum=0.9)
    settings = {"epochs": 3, "optimiser": optimiser, "progress": False, **options}
    return train(squeeze, loader(), loss=F.cross_entropy, **settings)


@pytest.mark.parametrize("precision", [None, "bf16", "fp16"])
def test_a_block_in_the_path_learns_there_in_every_precision(device: torch.device, precision: Any) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 is for accelerators")
    squeeze = gated(device)
    report = trained(squeeze, precision=precision, clip=1.0, ema=0.5)
    losses = [epoch.loss for epoch in report.epochs]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert report.precision == (precision or "no")
    assert {p.device for p in squeeze.parameters()} == {device}
    assert all(p.dtype == torch.float32 for p in squeeze.parameters())
    assert squeeze.fitted
    assert bool(squeeze.explain(patches(2).to(device)).heatmap.isfinite().all())


def test_a_module_on_the_cpu_stays_there_beside_an_accelerator(device: torch.device) -> None:
    for d in (torch.device("cpu"), device, torch.device("cpu")):  # nor does one training decide for the next
        squeeze = gated(d)
        trained(squeeze, epochs=1, precision="bf16")
        assert {p.device for p in squeeze.parameters()} == {d}


def test_an_interrupted_training_goes_on_there_and_random_numbers_stay(device: torch.device, tmp_path: Path) -> None:
    whole, again = gated(device), gated(device)
    torch.rand(3, device=device)
    before = generator_state(device)
    trained(whole)
    assert torch.equal(generator_state(device), before)
    trained(gated(device), epochs=1, checkpoints=tmp_path)
    report = trained(again, checkpoints=tmp_path)
    assert report.resumed_at == 6
    agree(
        [again.model.fc.weight, again.block().expand.weight], [whole.model.fc.weight, whole.block().expand.weight], 1e-2
    )


def test_what_was_trained_there_loads_on_the_cpu(device: torch.device, tmp_path: Path) -> None:
    squeeze, fresh = gated(device), gated(torch.device("cpu")).model
    trained(squeeze)
    squeeze.save(tmp_path / "net.squeeze.safetensors")
    on_cpu = squeezecam.load(tmp_path / "net.squeeze.safetensors", fresh, patches(2))
    x = patches(4, seed=2)
    explained_alike(squeeze.explain(x.to(device)), on_cpu.explain(x), 1e-3)


def test_the_trainer_of_transformers_trains_the_block_there(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    ensure_torchvision()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from squeezecam.integrations.transformers import SqueezeTrainerCallback, for_trainer

    x, y = data()
    squeeze = for_trainer(squeezecam.attach(Classifier(), {"pixel_values": x[:2]}, apply="gate"))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), remove_unused_columns=False, label_names=["labels"], num_train_epochs=2,
        per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], use_cpu=device.type == "cpu",
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    rows = [{"pixel_values": x[i], "labels": y[i]} for i in range(COUNT)]
    callback = SqueezeTrainerCallback({"pixel_values": x[:3]}, pictures=x[:3].clamp(0, 1))
    trainer = transformers.Trainer(model=squeeze, args=arguments, train_dataset=rows, callbacks=[callback])
    trainer.train()
    assert squeeze.fitted
    assert next(squeeze.parameters()).device.type == device.type
    assert any("gates/map/std" in entry for entry in trainer.state.log_history)
    assert (tmp_path / "squeezecam" / "model.squeeze.safetensors").is_file()


@pytest.mark.parametrize("given", ["trained", "function"])
def test_a_study_runs_where_the_network_is(device: torch.device, given: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dropping().to(device) if given == "trained" else lambda: Dropping().to(device)
    before = generator_state(device)
    recipe = Recipe(epochs=1, batch_size=16, lr=5e-3, augment="flip-shift")
    found = parity(
        model, pictures(48), pictures(30, 1), seeds=2, recipe=recipe, fine_tune=recipe, maps=6, out=tmp_path,
        progress=False, say=lambda line: None,
    )  # fmt: skip
    assert torch.equal(generator_state(device), before)
    records = [record for runs in found.runs.values() for name, record in runs.items() if name != "check"]
    assert len(records) >= 8
    assert all(math.isfinite(record["score"]) for record in records)
