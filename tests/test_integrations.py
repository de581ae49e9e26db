"""The block trains where users train: a plain loop, Lightning, transformers' Trainer, Accelerate."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import squeezecam
from squeezecam.errors import InputError, SqueezeError
from squeezecam.models.torchvision_guard import ensure_torchvision

COUNT = 24


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Classifier(nn.Module):
    """What the Trainer expects: keywords in, a dict with loss and logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        found = {"logits": logits}
        return found if labels is None else {"loss": F.cross_entropy(logits, labels), **found}


def data() -> tuple[Tensor, Tensor]:
    y = torch.arange(COUNT) % 3
    x = torch.rand(COUNT, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    x[torch.arange(COUNT), y] += 1
    return x, y


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def loaded_again(path: Path, fresh: nn.Module, trained: squeezecam.Squeeze, x: Any, example: Any) -> None:
    """The adapter on the untrained model gives what the trained one gives."""
    again = squeezecam.load(path, fresh, example)
    assert again.apply_mode == "gate"
    assert torch.equal(again.block().expand.weight, trained.block().expand.weight)
    found, expected = again.explain(x), trained.explain(x)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.heatmap, expected.heatmap)


def test_a_plain_loop(tmp_path: Path) -> None:
    x, y = data()
    squeeze = squeezecam.attach(net(), x[:2], apply="gate")
    optimiser = torch.optim.AdamW(squeeze.parameters(), 1e-2)
    losses = []
    squeeze.train()
    for _ in range(20):
        loss = F.cross_entropy(squeeze(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert squeeze.fitted


def test_a_plain_loop_in_bf16_and_in_pieces() -> None:
    """Autocast on the CPU; gradients of two halves add up to those of the whole."""
    x, y = data()
    squeeze = squeezecam.attach(net().eval(), x[:2], apply="gate")
    with torch.no_grad():
        squeeze.block().expand.weight.normal_()

    def gradients(pieces: int, *, half: bool = False) -> Tensor:
        squeeze.zero_grad()
        for part, labels in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = F.cross_entropy(squeeze(part), labels) / pieces
            loss.backward()
        grads = [p.grad for p in squeeze.blocks.parameters()]
        assert all(g is not None and g.dtype == torch.float32 for g in grads)
        return torch.cat([g.flatten() for g in grads if g is not None]).clone()

    whole = gradients(1)
    torch.testing.assert_close(gradients(2), whole, rtol=1e-4, atol=1e-7)
    half = gradients(1, half=True)
    assert not torch.equal(half, whole)
    assert torch.cosine_similarity(half, whole, 0) > 0.99


def test_accelerate_by_hand() -> None:
    accelerate = pytest.importorskip("accelerate")
    x, y = data()
    accelerator = accelerate.Accelerator(cpu=True)
    try:
        squeeze = squeezecam.attach(net(), x[:2], apply="gate")
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
        model, optimiser, loader = accelerator.prepare(squeeze, torch.optim.SGD(squeeze.parameters(), 0.5), loader)
        for _ in range(3):
            for inputs, labels in loader:
                accelerator.backward(F.cross_entropy(model(inputs), labels))
                optimiser.step()
                optimiser.zero_grad()
        inside = squeezecam.get(accelerator.unwrap_model(model))
        assert inside is squeeze
        assert inside.fitted
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()


class TestLightning:
    def lightning(self) -> Any:
        ensure_torchvision()
        return pytest.importorskip("lightning.pytorch")

    def module(self) -> Any:
        pl = self.lightning()

        class Lit(pl.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.model = net()

            def training_step(self, batch: Any, _: int) -> Tensor:
                return F.cross_entropy(self.model(batch[0]), batch[1])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.AdamW(self.parameters(), 1e-2)

        return Lit()

    def trainer(self, folder: Path, callback: Any, epochs: int = 2, **options: Any) -> Any:
        pl = self.lightning()
        logger = pl.loggers.CSVLogger(folder)
        return pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=logger, callbacks=[callback], enable_progress_bar=False,
            enable_model_summary=False, log_every_n_steps=1, **options,
        )  # fmt: skip

    def test_attaches_logs_and_saves(self, tmp_path: Path) -> None:
        self.lightning()
        from squeezecam.integrations.lightning import SqueezeCallback

        x, y = data()
        module = self.module()
        callback = SqueezeCallback(x[:3], pictures=x[:3].clamp(0, 1), folder=tmp_path / "seen")
        self.trainer(tmp_path, callback).fit(module, DataLoader(TensorDataset(x, y), batch_size=8))
        squeeze = callback.squeeze(module)
        assert squeeze.fitted  # its parameters were among those of the optimiser
        [log] = tmp_path.glob("lightning_logs/*/metrics.csv")
        rows = [row for row in csv.DictReader(log.open()) if row.get("gates/map/std")]
        assert [int(row["epoch"]) for row in rows] == [0, 1]
        assert all(0 < float(row["gates/map/mean"]) < 1 and float(row["gates/map/std"]) > 0 for row in rows)
        sheets = [Image.open(tmp_path / "seen" / f"maps-epoch-000{n}.png").convert("RGB") for n in (1, 2)]
        assert all(max(high - low for low, high in sheet.getextrema()) > 100 for sheet in sheets)
        loaded_again(tmp_path / "seen" / "model.squeeze.safetensors", net(), squeeze.eval(), x[:4], x[:2])

    def test_goes_on_from_its_checkpoint_to_the_same_numbers(self, tmp_path: Path) -> None:
        self.lightning()
        from squeezecam.integrations.lightning import SqueezeCallback

        x, y = data()
        loader = DataLoader(TensorDataset(x, y), batch_size=8)
        modules = {}
        for name, epochs, path in (("whole", 2, None), ("half", 1, None), ("again", 2, tmp_path / "half.ckpt")):
            torch.manual_seed(0)
            callback = SqueezeCallback(x[:2], folder=tmp_path / name, every=9)
            trainer = self.trainer(tmp_path / name, callback, epochs)
            modules[name] = self.module()
            trainer.fit(modules[name], loader, ckpt_path=path, weights_only=True)
            if name == "half":
                trainer.save_checkpoint(tmp_path / "half.ckpt")
        first, second = modules["whole"].state_dict(), modules["again"].state_dict()
        assert "model.blocks.map.expand.weight" in first
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_a_network_of_another_name_is_asked_for(self, tmp_path: Path) -> None:
        self.lightning()
        from squeezecam.integrations.lightning import SqueezeCallback

        x, y = data()
        callback = SqueezeCallback(x[:2], network="backbone", folder=tmp_path)
        with pytest.raises(InputError, match="no network 'backbone'; it has model"):
            self.trainer(tmp_path, callback).fit(self.module(), DataLoader(TensorDataset(x, y), batch_size=8))


class TestTransformers:
    def trainer(self, folder: Path, model: nn.Module, callback: Any, **options: Any) -> Any:
        ensure_torchvision()
        transformers = pytest.importorskip("transformers")

        class Pictures(Dataset[dict[str, Tensor]]):
            x, y = data()

            def __len__(self) -> int:
                return COUNT

            def __getitem__(self, index: int) -> dict[str, Tensor]:
                return {"pixel_values": self.x[index], "labels": self.y[index]}

        arguments = transformers.TrainingArguments(
            output_dir=str(folder), remove_unused_columns=False, label_names=["labels"], num_train_epochs=2,
            per_device_train_batch_size=8, learning_rate=1e-2, save_strategy="epoch", report_to=[], use_cpu=True,
            disable_tqdm=True, **options,
        )  # fmt: skip
        return transformers.Trainer(
            model=model, args=arguments, train_dataset=Pictures(), eval_dataset=Pictures(), callbacks=[callback]
        )

    def test_trains_logs_and_saves(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        from squeezecam.integrations.transformers import SqueezeTrainerCallback, for_trainer

        x, _ = data()
        torch.manual_seed(0)
        fresh = Classifier()
        with pytest.raises(InputError, match="observe"):
            for_trainer(squeezecam.attach(copy.deepcopy(fresh), {"pixel_values": x[:2]}))
        squeeze = for_trainer(squeezecam.attach(copy.deepcopy(fresh), {"pixel_values": x[:2]}, apply="gate"))
        callback = SqueezeTrainerCallback({"pixel_values": x[:3]}, pictures=x[:3].clamp(0, 1))
        trainer = self.trainer(tmp_path, squeeze, callback, gradient_accumulation_steps=3)
        trainer.train()
        assert squeeze.fitted
        seen = [entry for entry in trainer.state.log_history if "gates/map/std" in entry]
        assert [entry["epoch"] for entry in seen] == [1.0, 2.0]
        assert seen[1]["gates/map/std"] > 0
        assert (tmp_path / "squeezecam" / "maps-epoch-0002.png").stat().st_size > 1000
        assert trainer.evaluate()["eval_loss"] > 0
        example = {"pixel_values": x[:2]}
        last = tmp_path / f"checkpoint-{trainer.state.global_step}" / "model.squeeze.safetensors"
        loaded_again(last, fresh, squeeze.eval(), {"pixel_values": x[:4]}, example)

    def test_a_model_without_a_block_is_refused_before_it_trains(self, tmp_path: Path) -> None:
        pytest.importorskip("transformers")
        from squeezecam.integrations.transformers import SqueezeTrainerCallback

        model = Classifier()
        before = copy.deepcopy(model.state_dict())
        trainer = self.trainer(tmp_path, model, SqueezeTrainerCallback({"pixel_values": data()[0][:2]}))
        with pytest.raises(SqueezeError, match="0 Squeeze modules"):
            trainer.train()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_our_own_loop_leaves_an_adapter_that_brings_the_model_along(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from squeezecam.training import train

    x, y = data()
    squeeze = squeezecam.attach(net(), x[:2], apply="gate")
    train(squeeze, [(x, y)], loss=F.cross_entropy, epochs=3, progress=False)
    squeeze.save(tmp_path / "a.safetensors")
    loaded_again(tmp_path / "a.safetensors", net().eval(), squeeze.eval(), x[:4], x[:2])
