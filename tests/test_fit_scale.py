"""Fits on cached shards and in several processes: the same numbers, whatever was interrupted, damaged or divided."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import launching
import squeezecam
from conftest import ConvHead, ConvNet
from squeezecam import processes
from squeezecam.errors import InputError
from squeezecam.fit import FitReport, shards


def data(count: int = 90) -> Tensor:
    return torch.rand(count, 2, 12, 12, generator=torch.Generator().manual_seed(5))


def attached(kind: type[torch.nn.Module] = ConvNet) -> squeezecam.Squeeze:
    torch.manual_seed(3)
    return squeezecam.attach(kind().eval(), data(2))


def fitted(
    cache: Path | None = None, kind: type[torch.nn.Module] = ConvNet, **options: object
) -> tuple[Tensor, FitReport]:
    squeeze = attached(kind)
    report = squeeze.fit(list(data().split(8)), cache=cache, **options)
    return squeeze.block().expand.weight.detach().clone(), report


class Watched(list[Tensor]):
    """Batches that remember which of them were read."""

    def __init__(self) -> None:
        super().__init__(data().split(8))
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        self.read.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", [ConvNet, ConvHead], ids=["vectors", "maps"])
def test_a_cache_changes_nothing_and_is_used_again(tmp_path: Path, kind: type[torch.nn.Module]) -> None:
    weight, report = fitted(kind=kind)
    first, kept = fitted(tmp_path / "cache", kind)
    assert torch.equal(first, weight)
    assert kept.unchanged == report.unchanged
    assert kept.mode == ("vectors" if kind is ConvNet else "maps")
    squeeze = attached(kind)
    batches = Watched()
    squeeze.fit(batches, cache=tmp_path / "cache")
    assert torch.equal(squeeze.block().expand.weight, weight)
    assert batches.read == [0]  # on which the head is tried, and by which the data are told


def test_index_names_model_data_and_checksums(tmp_path: Path) -> None:
    fitted(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["complete"]
    assert index["samples"] == 90
    assert sorted(n for shard in index["shards"] for n in shard["batches"]) == list(range(12))
    assert index["settings"]["model"]["class"] == "ConvNet"
    tensors = load_file(tmp_path / index["shards"][0]["file"])
    assert tensors["squeezed.map"].shape == (90, 32)
    assert tensors["windows.map"].shape == (90, 3, 32)
    assert tensors["values"].shape == (90, 5)


@pytest.mark.parametrize("damage", ["flipped", "cut short", "gone"])
def test_a_damaged_shard_is_found_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(shards, "SAMPLES", 24)
    weight, _ = fitted(tmp_path)
    files = sorted(tmp_path.glob("features-*.safetensors"))
    assert len(files) == 4
    good = files[1].read_bytes()
    if damage == "gone":
        files[1].unlink()
    else:
        files[1].write_bytes(good[:-9] if damage == "cut short" else good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    squeeze = attached()
    batches = Watched()
    squeeze.fit(batches, cache=tmp_path)
    assert torch.equal(squeeze.block().expand.weight, weight)
    assert batches.read == [0, 3, 4, 5]  # the first, and those that the shard held
    assert files[1].read_bytes() == good


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_disk_for_nearly_the_same_block(tmp_path: Path, dtype: str) -> None:
    weight, _ = fitted(tmp_path / "whole")
    half, _ = fitted(tmp_path / "half", cache_dtype=dtype)
    assert not torch.equal(half, weight)
    assert torch.cosine_similarity(half.flatten(), weight.flatten(), 0) > 0.999
    size = {name: sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("whole", "half")}
    assert size["half"] < 0.6 * size["whole"]


def test_features_of_other_data_model_or_seed_are_refused(tmp_path: Path) -> None:
    fitted(tmp_path)
    squeeze = attached()
    with pytest.raises(InputError, match="another data"):
        squeeze.fit(list((data() + 0.1).split(8)), cache=tmp_path)
    with pytest.raises(InputError, match="another data"):
        squeeze.fit(list(data(64).split(8)), cache=tmp_path)
    with pytest.raises(InputError, match="another seed"):
        squeeze.fit(list(data().split(8)), cache=tmp_path, seed=1)
    with torch.no_grad():
        squeeze.model.fc.weight.mul_(1.5)
    with pytest.raises(InputError, match="another model"):
        squeeze.fit(list(data().split(8)), cache=tmp_path)
    fitted(tmp_path)  # and nothing was lost by it
    gate = squeezecam.attach(ConvNet().eval(), data(2), apply="gate")
    with pytest.raises(InputError, match="cannot be kept"):
        gate.fit([(data(), torch.arange(90) % 5)], objective="task", train="all", cache=tmp_path / "all")


def test_more_features_than_memory_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(tmp_path)
    size = sum(f.stat().st_size for f in tmp_path.glob("*.safetensors"))
    monkeypatch.setattr("squeezecam.fit.collecting.CACHE_LIMIT", size // 2)
    _, report = fitted(tmp_path)
    assert 0.3 * 90 < report.samples + report.held_out < 0.7 * 90
    assert any("whose features would take too much memory" in note for note in report.notes)


def test_labels_and_bad_samples_go_through_the_cache(tmp_path: Path) -> None:
    x = data()
    x[17] = float("nan")
    y = torch.arange(90) % 5
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    reports, weights = [], []
    for folder in (None, tmp_path, tmp_path):
        squeeze = attached()
        reports.append(squeeze.fit(loader, objective="task", epochs=2, cache=folder))
        weights.append(squeeze.block().expand.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert all(report.samples + report.held_out == 89 for report in reports)
    assert all("left out 1 sample with NaN" in report.notes[0] for report in reports)


def fit_in_a_group(out: Path, cache: Path | None, slow: float = 0.0) -> None:
    """Fit as one of several processes and write what this one ends with."""

    class Slow(list[Tensor]):
        def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
            time.sleep(slow)
            return super().__getitem__(index)

    shards.SAMPLES = 8
    squeeze = attached()
    report = squeeze.fit(Slow(data().split(8)), cache=cache)
    found = {"expand": squeeze.block().expand.weight.detach(), "unchanged": torch.tensor(report.unchanged)}
    torch.save(found, out / f"{processes.rank()}.pt")


def same_as_one(out: Path, count: int) -> None:
    """Every process ended with the block of a fit in one process."""
    weight, report = fitted()
    for rank in range(count):
        found = torch.load(out / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["expand"], weight, rtol=1e-5, atol=1e-7)
        assert float(found["unchanged"]) == pytest.approx(report.unchanged)


@pytest.mark.parametrize("cached", [True, False], ids=["folder", "memory"])
def test_two_processes_fit_what_one_fits(tmp_path: Path, cached: bool) -> None:
    launching.together(fit_in_a_group, 2, tmp_path, tmp_path / "cache" if cached else None)
    same_as_one(tmp_path, 2)
    if cached:
        index = json.loads((tmp_path / "cache" / "index.json").read_text())
        assert index["complete"]
        assert sorted(n for shard in index["shards"] for n in shard["batches"]) == list(range(12))


def failing_alone() -> None:
    with processes.first_only(InputError) as here:
        if here:
            raise InputError("broken")


def alone_inside(out: Path) -> None:
    """What rank 0 does for all is not divided again; a failure of it is everybody's."""
    with processes.first_only(InputError) as here:
        if here:
            assert processes.world() == 1
            attached().fit(list(data().split(8)))  # would wait for the other process for ever
    assert processes.world() == 2
    with pytest.raises(InputError, match="broken"):
        failing_alone()
    assert processes.everyone(processes.rank()) == [0, 1]
    (out / f"{processes.rank()}").touch()


def test_work_of_the_first_process_alone(tmp_path: Path) -> None:
    launching.together(alone_inside, 2, tmp_path)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_killed_process_loses_nothing_and_another_number_goes_on(tmp_path: Path) -> None:
    """One of two is killed in the middle; one process alone ends what both began."""
    cache = tmp_path / "cache"
    running = launching.start(fit_in_a_group, 2, tmp_path, cache, 0.2)
    deadline = time.monotonic() + 60
    while len(list(cache.glob("features-*.safetensors"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running[1].pid or 0, signal.SIGKILL)
    running[0].kill()
    for process in running:
        process.join()
    lines = [line for path in cache.glob("progress-*.jsonl") for line in path.read_text().splitlines() if line]
    finished = {number for line in lines for number in json.loads(line)["batches"]}
    assert 3 <= len(finished) < 12
    assert not (tmp_path / "0.pt").exists()
    batches = Watched()
    squeeze = attached()
    squeeze.fit(batches, cache=cache)
    assert set(batches.read) - {0} == set(range(1, 12)) - finished
    assert torch.equal(squeeze.block().expand.weight, fitted()[0])
    assert not list(cache.glob("*.part*"))
