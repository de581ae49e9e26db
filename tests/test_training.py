"""The training loop: a block in the path learns, and interruption, accumulation and processes change no number."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

import launching
import squeezecam
from squeezecam import processes
from squeezecam.errors import FitError, InputError
from squeezecam.training import EpochState, TrainingReport, checkpoint, gate_statistics, predictions, train
from squeezecam.training.plan import shares

pytest.importorskip("accelerate")


class Net(nn.Module):
    """A convolution, batch statistics and dropout: everything that makes resuming hard."""

    def __init__(self, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()
        )
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.features(x).mean((2, 3))))


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Pictures with a random augmentation; the class is the brightest colour."""

    def __init__(self, count: int = 44, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(2)
        self.y = torch.arange(count) % 3
        self.x = torch.rand(count, 3, 8, 8, generator=generator)
        self.x[torch.arange(count), self.y] += 1
        self.noise = noise

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + self.noise * torch.randn(3, 8, 8), self.y[index]


def gated(**options: Any) -> squeezecam.Squeeze:
    torch.manual_seed(0)
    return squeezecam.attach(Net(**options), torch.rand(2, 3, 8, 8), apply="gate", hidden=8)


def loader(batch: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(**options), batch_size=batch, shuffle=True)


def trained(squeeze: nn.Module, data: Any, epochs: int = 2, **options: Any) -> TrainingReport:
    optimiser = torch.optim.SGD(squeeze.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    return train(
        squeeze,
        data,
        loss=F.cross_entropy,
        epochs=epochs,
        optimiser=optimiser,
        scheduler=scheduler,
        progress=False,
        **options,
    )


def accuracy(module: nn.Module) -> dict[str, float]:
    output, labels = predictions(module, DataLoader(Noisy(noise=0), batch_size=8))
    assert labels is not None
    assert not any(part.training for part in module.modules())
    return {"accuracy": float((output.argmax(1) == labels).float().mean())}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestLearning:
    def test_block_and_model_learn_the_task(self) -> None:
        squeeze = gated()
        before = accuracy_of(squeeze)
        report = trained(squeeze, loader(), epochs=8, validate=accuracy, best="accuracy")
        assert before < 0.7
        assert report.best is not None
        assert report.best.metrics["accuracy"] > 0.9
        assert accuracy_of(squeeze) == report.best.metrics["accuracy"]  # the best weights are what is left
        assert squeeze.fitted
        assert report.epochs[-1].gates["map"]["std"] > 0

    def test_a_plain_module_trains_too_and_gets_no_gate_figures(self) -> None:
        torch.manual_seed(0)
        net = Net()
        report = trained(net, loader(), epochs=8)
        assert accuracy_of(net) > 0.9
        assert report.epochs[-1].gates == {}
        assert report.epochs[-1].loss < 0.5 * report.epochs[0].loss

    def test_frozen_parts_rest(self) -> None:
        squeeze = gated()
        for parameter in squeeze.model.parameters():
            parameter.requires_grad_(False)
        before = state(squeeze.model)
        trained(squeeze, loader())
        assert equal(state(squeeze.model), before)  # running statistics included
        assert squeeze.fitted

    def test_what_cannot_be_trained_is_said(self) -> None:
        observed = squeezecam.attach(Net(), torch.rand(2, 3, 8, 8))
        with pytest.raises(InputError, match="observe"):
            trained(observed, loader())
        with pytest.raises(InputError, match="iterator"):
            trained(gated(), iter(loader()))
        with pytest.raises(InputError, match="one number"):
            train(gated(), loader(), loss=lambda o, y: F.cross_entropy(o, y, reduction="none"), epochs=1)
        with pytest.raises(FitError, match="no batch"):
            trained(gated(), [])
        with pytest.raises(InputError, match="precision"):
            train(gated(), loader(), loss=F.cross_entropy, epochs=1, precision="int4")  # type: ignore[arg-type]
        with pytest.raises(FitError, match="not a number"):
            train(gated(), loader(), loss=lambda o, y: o.sum() * float("nan"), epochs=1)

    def test_flags_random_numbers_and_forward_are_given_back(self) -> None:
        squeeze = gated()
        squeeze.model.drop.eval()
        flags = [part.training for part in squeeze.modules()]
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        train(squeeze, loader(), loss=F.cross_entropy, epochs=1, precision="bf16")
        assert torch.equal(torch.rand(3), expected)
        assert [part.training for part in squeeze.modules()] == flags
        assert "forward" not in squeeze.__dict__ or squeeze.__dict__["forward"].__func__ is type(squeeze).forward
        assert squeeze(torch.rand(2, 3, 8, 8)).dtype == torch.float32


def accuracy_of(module: nn.Module) -> float:
    return accuracy(module.eval())["accuracy"]


class TestSameNumbers:
    def test_accumulation_is_the_big_batch(self) -> None:
        """44 samples: 5 full batches of 8 and one of 4; in pairs that is the loader with batches of 16, last one 12."""
        big, small = gated(dropout=0.0, norm=False), gated(dropout=0.0, norm=False)
        ordered = [DataLoader(Noisy(noise=0), batch_size=n) for n in (16, 8)]
        first = trained(big, ordered[0])
        second = trained(small, ordered[1], accumulate=2)
        assert first.steps == second.steps == 6
        for name, tensor in big.state_dict().items():
            torch.testing.assert_close(small.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
        assert first.epochs[0].loss == pytest.approx(second.epochs[0].loss, rel=1e-5)

    @pytest.mark.parametrize("when", ["between epochs", "inside an epoch"])
    def test_an_interrupted_run_ends_with_the_numbers_of_a_whole_one(self, tmp_path: Path, when: str) -> None:
        options: dict[str, Any] = {"ema": 0.8, "validate": accuracy, "best": "accuracy", "clip": 1.0}
        whole = gated()
        expected = trained(whole, loader(), epochs=3, **options)

        class StopError(Exception):
            pass

        def stop(epoch: EpochState) -> None:
            if epoch.record.epoch == 1:
                raise StopError

        broken = gated()
        calls = 0

        def loss(output: Tensor, labels: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if when == "inside an epoch" and calls == 10:
                raise StopError
            return F.cross_entropy(output, labels)

        optimiser = torch.optim.SGD(broken.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
        hooks = [stop] if when == "between epochs" else []
        with pytest.raises(StopError):
            train(
                broken, loader(), loss=loss, epochs=3, optimiser=optimiser, scheduler=scheduler, checkpoints=tmp_path,
                every=2, on_epoch=hooks, **options,
            )  # fmt: skip
        again = gated()
        with torch.no_grad():
            again.model.fc.weight.zero_()  # whatever it begins with, the checkpoint says what it is
        found = trained(again, loader(), epochs=3, checkpoints=tmp_path, **options)
        assert found.resumed_at == (12 if when == "between epochs" else 8)
        assert equal(state(again), state(whole))
        assert [e.loss for e in found.epochs] == [e.loss for e in expected.epochs]
        assert [e.metrics for e in found.epochs] == [e.metrics for e in expected.epochs]
        assert [e.rate for e in found.epochs] == [e.rate for e in expected.epochs]

    def test_workers_change_nothing(self) -> None:
        first, second = gated(), gated()
        trained(first, loader(), epochs=1)
        trained(second, DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=1), epochs=1)
        assert equal(state(first), state(second))

    def test_every_seed_is_another_run(self) -> None:
        first, second = gated(), gated()
        trained(first, loader(), epochs=1, seed=1)
        trained(second, loader(), epochs=1, seed=2)
        assert not equal(state(first), state(second))

    def test_iterables_that_can_only_be_gone_through_give_the_same(self) -> None:
        class Stream:
            def __iter__(self) -> Any:
                data = Noisy(noise=0)
                return iter([(data.x[i : i + 8], data.y[i : i + 8]) for i in range(0, 44, 8)])

        first, second = gated(dropout=0), gated(dropout=0)
        trained(first, Stream(), accumulate=2)
        trained(second, list(Stream()), accumulate=2)
        assert equal(state(first), state(second))


class TestCheckpoints:
    def test_a_damaged_checkpoint_falls_back_to_the_one_before(self, tmp_path: Path, capfd: Any) -> None:
        trained(gated(), loader(), epochs=2, checkpoints=tmp_path)
        files = sorted(tmp_path.glob("step-*.pt"))
        assert [file.name for file in files] == ["step-000000006.pt", "step-000000012.pt"]
        data = bytearray(files[1].read_bytes())
        data[len(data) // 2] ^= 1
        files[1].write_bytes(data)
        squeeze = gated()
        report = trained(squeeze, loader(), epochs=2, checkpoints=tmp_path)
        assert report.resumed_at == 6
        assert "the one before it is taken" in capfd.readouterr().err
        whole = gated()
        trained(whole, loader(), epochs=2)
        assert equal(state(squeeze), state(whole))

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "owned"),)

        torch.save({"format": checkpoint.FORMAT, "x": Evil()}, tmp_path / "step-000000001.pt")
        with pytest.raises(InputError, match="no readable checkpoint"):
            checkpoint.read(tmp_path / "step-000000001.pt")
        assert not (tmp_path / "owned").exists()

    def test_checkpoints_of_another_run_are_refused_or_removed(self, tmp_path: Path) -> None:
        trained(gated(), loader(), epochs=1, checkpoints=tmp_path)
        with pytest.raises(InputError, match="seed 0, not 1"):
            trained(gated(), loader(), epochs=1, checkpoints=tmp_path, seed=1)
        with pytest.raises(InputError, match="another model"):
            trained(Net(), loader(), epochs=1, checkpoints=tmp_path)
        report = trained(gated(), loader(), epochs=1, checkpoints=tmp_path, seed=1, resume=False)
        assert report.resumed_at is None
        assert len(list(tmp_path.glob("step-*.pt"))) == 1

    def test_a_finished_run_is_not_run_again(self, tmp_path: Path) -> None:
        first = gated()
        trained(first, loader(), checkpoints=tmp_path, ema=0.5)
        second = gated()
        report = trained(second, loader(), checkpoints=tmp_path, ema=0.5)
        assert report.steps == 12
        assert equal(state(first), state(second))


class TestPrecisionAndAverage:
    def test_bf16_trains_to_the_same_within_its_digits(self) -> None:
        squeeze, half = gated(dropout=0), gated(dropout=0)
        first = trained(squeeze, loader(), epochs=3)
        second = trained(half, loader(), epochs=3, precision="bf16")
        assert second.precision == "bf16"
        assert second.epochs[-1].loss == pytest.approx(first.epochs[-1].loss, abs=0.05)
        assert second.epochs[-1].loss != first.epochs[-1].loss
        assert all(p.dtype == torch.float32 for p in half.parameters())

    def test_fp16_cannot_be_had_on_the_cpu(self) -> None:
        with pytest.raises(InputError, match="trained on the CPU"):
            trained(gated(), loader(), precision="fp16")

    def test_fp16_goes_on_with_its_scale(self, device: torch.device, tmp_path: Path) -> None:
        if device.type == "cpu":
            pytest.skip("fp16 is for accelerators")
        whole, again, part = (gated().to(device) for _ in range(3))
        trained(whole, loader(), precision="fp16")
        trained(part, loader(), epochs=1, precision="fp16", checkpoints=tmp_path)
        assert checkpoint.read(tmp_path / "step-000000006.pt")["scaler"]["scale"] > 1
        trained(again, loader(), precision="fp16", checkpoints=tmp_path)
        torch.testing.assert_close(state(again), state(whole), rtol=1e-3, atol=1e-4)  # sums come in any order there

    def test_squeeze_survives_the_deep_copy_of_an_averaged_model(self) -> None:
        squeeze = gated()
        average = AveragedModel(squeeze)
        inside = squeezecam.get(average)
        assert inside is not squeeze
        x = torch.rand(4, 3, 8, 8)
        squeeze.eval(), average.eval()
        with torch.no_grad():
            squeeze.block().expand.weight.normal_()
            assert not torch.equal(average(x), squeeze(x))  # it has blocks of its own
            average.update_parameters(squeeze)
            torch.testing.assert_close(average(x), squeeze(x))
        assert torch.equal(inside.explain(x, method="published").raw, squeeze.explain(x, method="published").raw)

    def test_the_average_is_what_comes_out(self) -> None:
        """After two steps with decay d the average is d w1 + (1 - d) w2."""
        steps: list[Tensor] = []
        squeeze = gated(dropout=0)
        data = [(Noisy().x[:8], Noisy().y[:8]), (Noisy().x[8:16], Noisy().y[8:16])]

        class Recorder(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                super().step(closure)
                steps.append(squeeze.model.fc.weight.detach().clone())

        train(squeeze, data, loss=F.cross_entropy, epochs=1, optimiser=Recorder(squeeze.parameters(), lr=0.5), ema=0.75)
        torch.testing.assert_close(squeeze.model.fc.weight.detach(), 0.75 * steps[0] + 0.25 * steps[1])


def test_gate_statistics_by_hand() -> None:
    gates = torch.full((2, 20), 0.5)
    gates[0, 0], gates[0, 1] = 0.99, 0.01
    found = gate_statistics(gates)
    assert found.mean == pytest.approx(0.5)
    assert found.open == pytest.approx(1 / 40)
    assert found.closed == pytest.approx(1 / 40)
    assert found.std == pytest.approx((2 * 0.49**2 / 20) ** 0.5 / 2)
    assert found.kept == pytest.approx(0.5 * 1 / 20)  # one channel of the first sample; none of the second: all alike
    assert found.empty == pytest.approx(0.5)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_shares_cover_every_batch_once_and_leave_nobody_waiting(world: int, stop: int) -> None:
    found = [shares(0, stop, world, rank) for rank in range(world)]
    assert sorted(s.batch for part in found for s in part if s.counts) == list(range(stop))
    assert all(found)


# --- several processes ------------------------------------------------------------------------------------


def train_in_a_group(out: Path, checkpoints: Path | None, slow: float, accumulate: int) -> None:
    class Slow(Noisy):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            time.sleep(slow)
            return super().__getitem__(index)

    squeeze = gated(dropout=0.0, norm=False)
    report = trained(
        squeeze, DataLoader(Slow(), batch_size=4, shuffle=True), validate=accuracy, ema=0.5, accumulate=accumulate,
        checkpoints=checkpoints, every=1,
    )  # fmt: skip
    found = {"state": state(squeeze), "losses": [e.loss for e in report.epochs], "resumed": report.resumed_at or 0}
    torch.save(found, out / f"{processes.rank()}.pt")


def test_two_processes_train_what_one_accumulates(tmp_path: Path) -> None:
    """44 samples in batches of 4: the last step has one batch for two processes, and one of them runs for nothing."""
    launching.together(train_in_a_group, 2, tmp_path, None, 0.0, 1)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert equal(first["state"], second["state"])
    train_in_a_group(tmp_path, None, 0.0, 2)
    alone = torch.load(tmp_path / "0.pt", weights_only=True)
    for name, tensor in alone["state"].items():
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-4, atol=1e-6)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def test_a_killed_process_costs_a_step_and_no_number(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    running = launching.start(train_in_a_group, 2, tmp_path, checkpoints, 0.02, 1)
    deadline = time.monotonic() + 60
    while not list(checkpoints.glob("step-000000003.pt")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running[1].pid or 0, signal.SIGKILL)
    running[0].kill()
    for process in running:
        process.join()
    assert not (tmp_path / "0.pt").exists()
    launching.together(train_in_a_group, 2, tmp_path, checkpoints, 0.0, 1)
    again = torch.load(tmp_path / "0.pt", weights_only=True)
    assert again["resumed"] >= 2
    launching.together(train_in_a_group, 2, tmp_path, None, 0.0, 1)
    whole = torch.load(tmp_path / "0.pt", weights_only=True)
    assert equal(again["state"], whole["state"])
    assert again["losses"] == whole["losses"]
