"""Evaluation, fit and explain in two processes: one table, one adapter, one sheet, the same as from one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import launching
import squeezecam
from conftest import Planted
from squeezecam import cli, processes
from squeezecam.evaluation import store

slow = pytest.mark.skipif(not os.environ.get("SQUEEZECAM_SLOW"), reason="takes long: set SQUEEZECAM_SLOW=1")

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, 8), nn.ReLU())
        self.fc = nn.Linear(16, 4)
    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

def pixels(picture):
    import numpy as np
    return torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1).float() / 255

def net(): return Net(), pixels
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven noisy pictures, one broken file, and a model."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(11):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "05_broken.png").write_bytes(b"no picture")
    (tmp_path / "net.py").write_text(FACTORY)
    return folder


def command(arguments: list[str], said: Path) -> None:
    """Run the command line and keep what this process printed."""
    sys.argv = ["squeezecam", *arguments]
    with open(said.with_suffix(f".{processes.rank()}"), "w") as file:
        sys.stdout = file
        try:
            cli.main()
        finally:
            sys.stdout = sys.__stdout__


def one_and_two(arguments: list[str], tmp_path: Path, photos: Path) -> tuple[Path, Path]:
    """The command in one process and in two; a broken picture makes the exit code 1. Returns the two output folders."""
    common = ["--model", f"{tmp_path / 'net.py'}:net", "--batch-size", "2"]
    for name, count in (("one", 1), ("two", 2)):
        target = tmp_path / name
        target.mkdir()
        given = [a.replace("OUT", str(target)).replace("PHOTOS", str(photos)) for a in [*arguments, *common]]
        running = launching.start(command, count, given, tmp_path / name)
        for process in running:
            process.join(120)
        assert running[0].exitcode == 1
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.parametrize("cached", [False, True], ids=["memory", "folder"])
def test_fit_writes_one_adapter(tmp_path: Path, photos: Path, cached: bool) -> None:
    more = ["--cache", "OUT/cache"] if cached else []
    one, two = one_and_two(["fit", "--images", "PHOTOS", "--out", "OUT/a.safetensors", *more], tmp_path, photos)
    first, second = load_file(one / "a.safetensors"), load_file(two / "a.safetensors")
    assert first.keys() == second.keys()
    if cached:  # the same batches; without a folder one process fills the gap that a broken picture leaves
        for name, tensor in first.items():
            torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-6)
        assert json.loads((two / "cache" / "index.json").read_text())["samples"] == 11
    assert "9 fitted on, 2 held out" in two.with_suffix(".0").read_text()
    assert two.with_suffix(".1").read_text() == ""


@pytest.mark.parametrize("scale", ["per sample", pytest.param("shared", marks=slow)])
def test_explain_writes_one_sheet_and_one_record(tmp_path: Path, photos: Path, scale: str) -> None:
    one, two = one_and_two(["explain", "PHOTOS", "--out", "OUT", "--scale", scale], tmp_path, photos)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert [row["name"] for row in second["results"]] == [f"{n:02d}" for n in range(11)]
    for before, after in zip(first["results"], second["results"], strict=True):
        assert after["hottest"] == pytest.approx(before["hottest"], rel=1e-4)
        assert after["target"] == before["target"]
    assert second["failed"] == first["failed"]
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    pictures = [np.asarray(Image.open(folder / "contact_sheet.png"), dtype=float) for folder in (one, two)]
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5
    assert "11 of 12 pictures explained" in two.with_suffix(".0").read_text()


def evaluate(out: Path | None, slow: float = 0.0) -> Any:
    """A small evaluation; slow, so that there is a middle to be killed in."""

    class Pictures(list[torch.Tensor]):
        def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]
            time.sleep(slow)
            return super().__getitem__(index)

    x = torch.rand(22, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    squeeze = squeezecam.attach(Planted(torch.tensor([[9.0, 0.1, 0.0], [0.0, 1.0, 0.3]])), x[:2])
    options: dict[str, Any] = {"methods": "class", "steps": 2, "batch_size": 2, "progress": False}
    return squeezecam.evaluate(squeeze, Pictures(x), out=out, **options)


def evaluate_in_a_group(out: Path, slow: float, found: Path) -> None:
    table = evaluate(out, slow)
    (found / f"{processes.rank()}.json").write_text(json.dumps(table.records))


def same_records(first: list[Any], second: list[Any]) -> None:
    assert [record["file"] for record in first] == [record["file"] for record in second]
    for before, after in zip(first, second, strict=True):
        for method, values in before["values"].items():
            for name, value in values.items():
                assert after["values"][method][name] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True)


def test_two_processes_make_one_table(tmp_path: Path) -> None:
    alone = evaluate(tmp_path / "one")
    launching.together(evaluate_in_a_group, 2, tmp_path / "two", 0.0, tmp_path)
    for rank in range(2):
        same_records(alone.records, json.loads((tmp_path / f"{rank}.json").read_text()))
    kept = sorted(path.name for path in (tmp_path / "two").glob("per_image-*"))
    assert len(kept) == 1
    assert ".rank" not in kept[0]
    assert len((tmp_path / "two" / kept[0]).read_text().splitlines()) == 1 + 11


def test_an_evaluation_that_was_killed_goes_on_in_any_number_of_processes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = launching.start(evaluate_in_a_group, 2, out, 0.05, tmp_path)
    deadline = time.monotonic() + 60

    def lines() -> int:
        return sum(len(path.read_bytes().splitlines()) - 1 for path in out.glob("per_image-*"))

    while lines() < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running[1].pid or 0, signal.SIGKILL)
    running[0].kill()
    for process in running:
        process.join()
    done = lines()
    assert 4 <= done < 11
    added: list[int] = []
    own = store.Store.add

    class Counting(store.Store):
        def add(self, number: int, chunk: dict[str, Any]) -> None:
            added.append(number)
            own(self, number, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("squeezecam.evaluation.running.Store", Counting)
        again = evaluate(out)
    taken_over = len(added) - (11 - done)  # lines of the other process, which went into the file of this one
    assert 0 <= taken_over <= done
    assert sorted(added) == sorted(set(added))
    same_records(evaluate(None).records, again.records)
