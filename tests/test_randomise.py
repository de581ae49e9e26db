"""The model randomisation check: stages, what moves and what stays, files, resuming, the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import squeezecam
from squeezecam import InputError, Squeeze
from squeezecam.evaluation import randomise
from squeezecam.evaluation.stages import left_over, stage_name, stages
from squeezecam.peers import MapMethod
from squeezecam.render.lines import line_chart


class Net(nn.Module):
    """The classifier is registered first, so that the order of registration is not that of the work."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(12, 4)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.features = nn.Sequential(
            nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.features(self.stem(x)).mean((2, 3)))
        return found


def pictures(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def squeeze() -> Squeeze:
    return squeezecam.attach(Net().eval(), pictures(2))


def test_after_the_last_stage_nothing_is_as_it_was() -> None:
    class Tokened(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.linspace(0.5, 2, 12))
            self.features.offset = nn.Parameter(torch.linspace(-1, 1, 12))

        def forward(self, x: Tensor) -> Tensor:
            u = self.features(self.stem(x)).mean((2, 3))
            found: Tensor = self.fc(u * self.scale + self.features.offset)
            return found

    x = pictures(2)
    squeeze = squeezecam.attach(Tokened().eval(), x)
    planned = stages(squeeze, x)
    assert left_over(squeeze.model, planned) == ["", "features"]
    seen: list[tuple[Tensor, Tensor]] = []

    def run(squeeze: Squeeze, inputs: Any, target: Any, **_: Any) -> Tensor:
        seen.append((squeeze.model.scale.clone(), squeeze.model.features.offset.clone()))  # type: ignore[union-attr,operator]
        return torch.rand(2, 32, 32)

    randomise(squeeze, x, [MapMethod("spy", "spy", "own", run, lambda squeeze, shape: 1.0)], progress=False)
    for before, *between, after in zip(*seen, strict=True):
        assert all(torch.equal(before, one) for one in between)
        assert not torch.equal(before, after)


def test_stages_go_from_the_head_down_and_the_head_is_one_of_its_own(squeeze: Squeeze) -> None:
    assert stages(squeeze, pictures(1)) == [["fc"], ["features.3"], ["features.2"], ["features.0"], ["stem.0"]]
    assert stages(squeeze, pictures(1), 3) == [["fc"], ["features"], ["stem"]]
    grouped = stages(squeeze, pictures(1), 4)
    assert grouped[0] == ["fc"]
    assert len(grouped) == 4
    assert stages(squeeze, pictures(1), 1) == [["fc"]] or len(stages(squeeze, pictures(1), 1)) == 1
    assert stage_name(["features.3", "features.1"]) == "features.3 to 1"
    assert stage_name(["fc", "features.1"]) == "fc to features.1"
    with pytest.raises(InputError, match="at least 1"):
        stages(squeeze, pictures(1), 0)


def test_what_ignores_the_model_stays_and_what_explains_it_moves(squeeze: Squeeze) -> None:
    weights = {name: tensor.clone() for name, tensor in squeeze.state_dict().items()}
    found = randomise(squeeze, pictures(), ["published", "class"], batch_size=2)
    assert found.names == ["fc", "features.3", "features.2", "features.0", "stem.0"]
    for name in ("random-map", "centred-gaussian"):
        assert torch.allclose(found.values(name), torch.ones(5, 5, dtype=torch.float64)), name
        assert torch.allclose(found.values(name, "ssim"), torch.ones(5, 5, dtype=torch.float64), atol=1e-5), name
    assert torch.allclose(found.values("published")[0], torch.ones(5, dtype=torch.float64))  # no class in it
    assert found.figures()["class"][0].mean < 0.9
    for name in ("published", "class", "all-channel-mean", "random-channels"):
        assert found.figures()[name][-1].mean < 0.9, name
        assert found.figures("ssim")[name][-1].mean < 0.9, name
    assert all(torch.equal(tensor, weights[name]) for name, tensor in squeeze.state_dict().items())


def test_each_stage_comes_beside_those_before(squeeze: Squeeze) -> None:
    """The method looks at the weights: how many layers are no longer those of the trained model."""
    trained = {name: p.clone() for name, p in squeeze.model.named_parameters() if "weight" in name}
    changed: list[set[str]] = []

    def look(of: Squeeze, inputs: Tensor, target: Any, *, output: Any = None, seeds: Any = None) -> Tensor:
        now = dict(of.model.named_parameters())
        changed.append({name for name, p in trained.items() if not torch.equal(now[name], p)})
        return torch.rand(len(inputs), 32, 32)

    spy = MapMethod("spy", "spy", "peer", look, lambda squeeze, shape: 0.0)
    randomise(squeeze, pictures(2), [spy], stage_count=3)
    assert [sorted(names) for names in changed] == [
        [], ["fc.weight"], ["fc.weight", "features.0.weight", "features.2.weight"],
        ["fc.weight", "features.0.weight", "features.2.weight", "stem.0.weight"],
    ]  # fmt: skip  # a fresh BatchNorm has weights of 1, as the untrained one of this network


def test_a_target_is_kept_and_the_batch_size_changes_nothing(squeeze: Squeeze) -> None:
    one = randomise(squeeze, pictures(4), ["class"], target=[1, 2, 3, 0], batch_size=4)
    two = randomise(squeeze, pictures(4), ["class"], target=[1, 2, 3, 0], batch_size=3)
    assert [record["target"] for record in one.records] == [1, 2, 3, 0]
    assert torch.allclose(one.values("class"), two.values("class"), atol=1e-3, equal_nan=True)


def test_without_a_target_it_is_the_class_that_the_trained_model_predicts(squeeze: Squeeze) -> None:
    x = torch.cat([pictures(4), 3 * torch.randn(8, 3, 32, 32)])
    predicted = squeeze.model(x).argmax(1).tolist()
    assert len(set(predicted)) > 1
    found = randomise(squeeze, x, ["class"], stage_count=1, batch_size=5)
    assert [record["target"] for record in found.records] == predicted


def test_equal_layers_get_weights_of_their_own() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fc = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.fc(self.second(self.first(x)).relu().mean((2, 3)))
            return found

    weights: list[tuple[Tensor, Tensor]] = []

    def look(of: Squeeze, inputs: Tensor, target: Any, *, output: Any = None, seeds: Any = None) -> Tensor:
        weights.append((of.model.first.weight.detach().clone(), of.model.second.weight.detach().clone()))
        return torch.rand(len(inputs), 32, 32)

    spy = MapMethod("spy", "spy", "peer", look, lambda squeeze, shape: 0.0)
    for stage_count in (2, 3):  # in one stage, and in two
        weights.clear()
        randomise(squeezecam.attach(Twins().eval(), pictures(2)), pictures(1), [spy], stage_count=stage_count)
        (first, second), *_, (new_first, new_second) = weights
        assert not torch.equal(new_first, first)
        assert not torch.equal(new_second, second)
        assert not torch.equal(new_first, new_second)


def test_an_interrupted_run_goes_on(squeeze: Squeeze, tmp_path: Path) -> None:
    x = pictures(4)
    whole = randomise(squeeze, x, ["class"], batch_size=2)
    seen = 0

    class Broken:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Tensor:
            nonlocal seen
            seen += 1
            if seen == 8:  # all are read once for their identity, then the second batch is begun
                raise KeyboardInterrupt
            return x[index]

    with pytest.raises(KeyboardInterrupt):
        randomise(squeeze, Broken(), ["class"], batch_size=2, out=tmp_path)
    (kept,) = tmp_path.glob("per_image-*.jsonl")
    assert len(kept.read_text().splitlines()) == 2
    found = randomise(squeeze, x, ["class"], batch_size=2, out=tmp_path)
    assert torch.allclose(found.values("class"), whole.values("class"), equal_nan=True)
    assert {path.name for path in found.written} == {
        kept.name, "randomisation.txt", "randomisation.csv", "randomisation.json", "randomisation.png",
    }  # fmt: skip


def test_tables_and_chart(squeeze: Squeeze, tmp_path: Path) -> None:
    found = randomise(squeeze, pictures(3), ["class"], stage_count=3, out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "randomisation.csv").open()))
    assert len(rows) == 2 * 5 * 3
    first = next(r for r in rows if (r["method"], r["stage"], r["measure"]) == ("class", "1", "spearman"))
    assert first["randomised"] == "fc"
    assert float(first["mean"]) == pytest.approx(float(found.values("class")[0].mean()))
    data = json.loads((tmp_path / "randomisation.json").read_text())
    assert data["stages"] == [["fc"], ["features"], ["stem"]]
    assert len(data["tables"]["ssim"]["random-map"]) == 3
    with Image.open(tmp_path / "randomisation.png") as picture:
        assert picture.width > picture.height > 300


def test_the_chart_shows_values_where_they_belong() -> None:
    def heights(picture: Image.Image, colour: tuple[int, int, int]) -> list[float]:
        pixels = np.asarray(picture).astype(int)[:, :400]
        return np.nonzero((np.abs(pixels - colour).sum(2) < 30).any(1))[0].tolist()

    high = heights(line_chart({"a": [0.9, 0.9]}, ["x", "y"]), (0, 114, 178))
    low = heights(line_chart({"a": [0.1, 0.1]}, ["x", "y"]), (0, 114, 178))
    assert 0 < max(high) < min(low)
    assert min(low) - min(high) == pytest.approx(0.8 * 340, abs=2)
    line_chart({"a": [float("nan"), 0.1], "b": [float("nan")] * 2}, ["x", "y"])  # gaps are no error
    with pytest.raises(InputError, match="2 steps"):
        line_chart({"a": [1.0]}, ["x", "y"])


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from squeezecam.cli import app

    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "in" / f"{i}.png")
    ran = CliRunner().invoke(
        app, ["evaluate", "--data", "in", "--randomise", "--methods", "published,class", "--out", "out"]
    )
    assert ran.exit_code == 0, ran.output
    assert "rank correlation" in ran.stdout
    assert (tmp_path / "out" / "randomisation.png").is_file()
    assert not (tmp_path / "out" / "evaluation.csv").exists()
    wrong = CliRunner().invoke(app, ["evaluate", "--data", "in", "--randomise", "--metrics", "all"])
    assert isinstance(wrong.exception, InputError)
