"""The table and the comparison: right figures, controls, intervals, resuming, boxes, commands."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import squeezecam
from conftest import ConvNet, Planted, leave_identity
from squeezecam import InputError, Squeeze
from squeezecam.errors import SqueezeWarning
from squeezecam.evaluation import choose_columns, randomise
from squeezecam.evaluation.columns import COLUMNS, DEFAULT, imputations, passes
from squeezecam.evaluation.running import run
from squeezecam.evaluation.source import Given
from squeezecam.evaluation.subject import Remembering, Subject
from squeezecam.evaluation.summary import Evaluation, accuracies
from squeezecam.evaluation.truth import in_frame, misplaced, read_boxes
from squeezecam.metrics import (
    average_drop,
    bootstrap_difference,
    box_ious,
    deletion,
    insertion,
    masked_confidence,
    max_box_acc,
    max_box_acc_v2,
    road_combined,
)
from squeezecam.peers import MapMethod, registry
from squeezecam.render.explained import caption

CONTROLS = ["all-channel-mean", "random-channels", "random-map", "centred-gaussian"]


def blobs(count: int = 7, side: int = 24) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Pictures with one bright square in channel 0, and its box."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, side, side, generator=generator) * 0.1
    boxes = []
    for i in range(count):
        left, top = (int(v) for v in torch.randint(0, side - 8, (2,), generator=generator))
        x[i, 0, top : top + 8, left : left + 8] += 2
        boxes.append(torch.tensor([[left, top, left + 8.0, top + 8.0]]))
    return x, boxes


def planted() -> Squeeze:
    """A model whose class 0 counts channel 0, and whose pictures are its features."""
    return squeezecam.attach(Planted(torch.tensor([[9.0, 0.1, 0.0], [0.0, 1.0, 0.3]])), blobs(2)[0])


def fixed(name: str, maps: torch.Tensor, kind: Any = "peer") -> MapMethod:
    """A method that gives known maps, in the order in which the images come."""
    place = {"next": 0}

    def make(squeeze: Any, inputs: torch.Tensor, target: Any, *, output: Any = None, seeds: Any = None) -> torch.Tensor:
        first = place["next"]
        place["next"] += len(inputs)
        return maps[first : first + len(inputs)]

    return MapMethod(name, name, kind, make, lambda squeeze, shape: 0.0)


QUICK = ["insertion", "deletion", "insertion_deletion", "average_drop", "pointing_game", "energy_pointing_game"]


def test_figures_are_those_of_the_metrics_and_controls_are_there() -> None:
    x, boxes = blobs()
    squeeze = planted()
    found = squeezecam.evaluate(squeeze, x, ["class"], boxes=boxes, batch_size=3, steps=5)
    assert list(found.methods) == ["class", *CONTROLS]
    assert [c.name for c in found.columns] == list(DEFAULT)
    maps = squeeze.explain(x, method="class").heatmap
    target = squeeze(x).argmax(1)
    inserted = insertion(squeeze, x, maps, target, steps=5, base="blur").score
    deleted = deletion(squeeze, x, maps, target, steps=5, base="mean").score
    drop = average_drop(*masked_confidence(squeeze, x, maps, target))
    for name, expected in (
        ("insertion", inserted),
        ("deletion", deleted),
        ("insertion_deletion", inserted - deleted),
        ("average_drop", drop),
    ):
        assert torch.allclose(found.values("class", name).float(), expected, atol=1e-5), name
    accuracy = max_box_acc_v2(box_ious(maps, boxes, every_component=True))
    assert found.figures()["class"]["max_box_acc_v2"].value.mean == pytest.approx(accuracy.value)
    assert found.figures()["class"]["pointing_game"].value.mean == 1
    assert found.figures()["random-map"]["energy_pointing_game"].value.mean < 0.5
    assert [r["target"] for r in found.records] == target.tolist()


def test_paired_differences_by_hand() -> None:
    """Two peers and one of ours on four images: the pointing game alone, so every figure is 0 or 1."""
    x = torch.rand(4, 3, 8, 8)
    masks = torch.zeros(4, 8, 8)
    masks[:, :4] = 1
    hit, miss = torch.zeros(8, 8), torch.zeros(8, 8)
    hit[1, 1] = miss[6, 6] = 1

    def maps(*hits: int) -> torch.Tensor:
        return torch.stack([hit if h else miss for h in hits])

    methods = [
        fixed("ours", maps(1, 1, 1, 0), "own"),
        fixed("good peer", maps(1, 0, 1, 0)),
        fixed("bad peer", maps(0, 0, 1, 0)),
    ]
    found = squeezecam.evaluate(planted(), x, methods, ["pointing"], masks=masks, batch_size=4)
    cells = {name: line["pointing_game"] for name, line in found.figures().items()}
    assert [cells[m.name].value.mean for m in methods] == [0.75, 0.5, 0.25]
    assert {cell.reference for cell in cells.values()} == {"good peer"}
    assert cells["good peer"].difference is None
    ours = cells["ours"].difference
    assert ours is not None
    assert ours == bootstrap_difference(torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 0, 1, 0]))
    assert (ours.mean, ours.low, ours.high) == (0.25, 0, 0.75)
    assert cells["bad peer"].difference is not None
    assert cells["bad peer"].difference.mean == -0.25
    assert found.figures()["ours"]["map_area"].reference is None, "the area has no better side"


def test_best_peer_follows_the_direction_and_marks_what_is_clear() -> None:
    x, _ = blobs(12)
    low, high = x[:, 0], -x[:, 0]
    methods = [fixed("ours", low, "own"), fixed("worse", high), fixed("better", low)]
    found = squeezecam.evaluate(planted(), x, methods, ["deletion", "insertion"], batch_size=12)
    cells = found.figures()
    assert cells["ours"]["deletion"].reference == cells["ours"]["insertion"].reference == "better"
    table = {line.split()[0]: line for line in str(found).splitlines() if line.strip()}
    deletion_of = {name: table[name].split()[2] for name in ("ours", "worse", "better")}
    assert deletion_of["worse"].endswith("-")
    assert deletion_of["better"].endswith("=")
    assert not deletion_of["ours"].endswith(("+", "-", "="))


def test_less_is_marked_as_better_where_less_is_better() -> None:
    figures = {"ours": (0.1, 0.9), "weak": (0.8, 0.2), "peer": (0.5, 0.5)}
    records = [
        {"values": {name: {"deletion": low + 0.01 * i, "insertion": high} for name, (low, high) in figures.items()}}
        for i in range(5)
    ]
    methods = {name: (name, "peer" if name == "peer" else "own") for name in figures}
    columns = [COLUMNS["deletion"], COLUMNS["insertion"]]
    shown = str(Evaluation(methods, columns, records, [], [], {}, {})).splitlines()
    rows = {line.split()[0]: line.split()[1:3] for line in shown if line.split()[:1] and line.split()[0] in figures}
    assert rows == {"ours": ["0.120+", "0.900+"], "weak": ["0.820-", "0.200-"], "peer": ["0.520=", "0.500="]}


def test_box_accuracies_survive_as_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    ious = torch.rand(30, 100, generator=generator).double()
    ious[4] = float("nan")
    digits = [
        "" if row.isnan().any() else "".join(str(sum(float(v) >= d for d in (0.3, 0.5, 0.7))) for v in row)
        for row in ious
    ]
    for name, reference in (("max_box_acc_v2", max_box_acc_v2(ious)), ("max_box_acc", max_box_acc(ious))):
        values = accuracies(digits, name)
        assert values.isnan().tolist() == [i == 4 for i in range(30)]
        assert float(values.nanmean()) == pytest.approx(reference.value)


def table_of(evaluation: Evaluation) -> dict[str, Any]:
    found = evaluation.as_dict()
    return {"tables": found["tables"], "records": evaluation.records, "failures": found["failures"]}


class Ending(nn.Module):
    """A hidden layer, whose logits come out as they are or as probabilities."""

    def __init__(self, link: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.fc, self.link = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), link

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = 5 * self.fc(self.features(x).mean((2, 3)))
        twice = (logits.softmax(1) + logits.softmax(1)) / 2
        return {
            "identity": logits, "softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "mean of two": twice
        }[self.link]  # fmt: skip


@pytest.mark.parametrize("link", ["identity", "softmax", "sigmoid", "multi-label", "mean of two"])
def test_what_a_model_ends_with_decides_what_its_confidence_is(link: str) -> None:
    x, _ = blobs(60)
    model = Ending("identity" if link == "multi-label" else link).eval()
    squeeze = squeezecam.attach(model, x[:2])
    if link == "multi-label":
        squeeze.fit([x], task="multi-label", progress=False)
    with torch.no_grad():
        logits = Ending("identity").eval()(x[:4])
    likely = logits.sigmoid() if link in ("sigmoid", "multi-label") else logits.softmax(1)
    expected = likely.amax(1).tolist()
    evaluation = squeezecam.evaluate(squeeze, x[:4], "published", metrics="average_drop", progress=False)
    assert [record["confidence"] for record in evaluation.records] == pytest.approx(expected, abs=1e-5)
    compared = squeezecam.compare(squeeze, x[:4], "published", repeats=1)
    assert compared.confidence.tolist() == pytest.approx(expected, abs=1e-5)
    explained = squeeze.explain(x[:4], method="published")
    assert caption(explained, 0) == f"class {int(explained.target[0])} · {expected[0]:.1%}"
    assert explained[1:].scores_are == explained.scores_are
    told = squeezecam.evaluate(squeeze, x[:4], "published", metrics="average_drop", scores="scores", progress=False)
    assert [record["confidence"] for record in told.records] == pytest.approx(model(x[:4]).amax(1).tolist(), abs=1e-5)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(tmp_path: Path) -> None:
    x, boxes = blobs(10)
    squeeze = planted()
    whole = squeezecam.evaluate(squeeze, x, "own", QUICK, boxes=boxes, batch_size=3, out=tmp_path / "whole")

    class Interrupted(Given):
        loads = 0

        def load(self, index: int) -> Any:
            Interrupted.loads += 1
            if Interrupted.loads == 8:
                raise KeyboardInterrupt
            return super().load(index)

        def identity(self) -> object:
            return Given(x, boxes).identity()

    out = tmp_path / "parts"
    subject = Subject(squeeze, squeeze.output_name(None))
    with pytest.raises(KeyboardInterrupt):
        run(subject, Interrupted(x, boxes), "own", QUICK, batch_size=3, out=out)
    (stored,) = out.glob("per_image-*.jsonl")
    assert len(stored.read_text().splitlines()) == 1 + 2
    with open(stored, "a") as file:
        file.write('{"chunk": 2, "records": [{"fi')  # a line cut off in the middle
    said: list[str] = []
    went_on = Interrupted(x, boxes)
    Interrupted.loads = 100
    resumed = run(subject, went_on, "own", QUICK, batch_size=3, out=out, say=said.append)
    assert Interrupted.loads == 104, "only the pictures that were left are read"
    assert any("going on after 2 of 4 batches" in line for line in said)
    assert table_of(resumed) == table_of(whole)
    assert (out / "evaluation.csv").read_text().splitlines()[1].rsplit(",", 1)[0] == (
        (tmp_path / "whole" / "evaluation.csv").read_text().splitlines()[1].rsplit(",", 1)[0]
    )


def test_changed_settings_start_anew_and_lose_nothing(tmp_path: Path) -> None:
    x, _ = blobs(4)
    squeeze = planted()
    squeezecam.evaluate(squeeze, x, "class", ["area"], out=tmp_path)
    for change in ({"seed": 1}, {"batch_size": 2}, {"metrics": ["sparseness"]}, {"images": x + 0.01}, {"sample": 3}):
        options: dict[str, Any] = {"images": x, "methods": "class", "metrics": ["area"], "out": tmp_path, **change}
        before = len(list(tmp_path.glob("per_image-*.jsonl")))
        squeezecam.evaluate(squeeze, options.pop("images"), **options)
        assert len(list(tmp_path.glob("per_image-*.jsonl"))) == before + 1, change
    with torch.no_grad():
        squeeze.model.fc.weight.add_(0.1)
    before = len(list(tmp_path.glob("per_image-*.jsonl")))
    squeezecam.evaluate(squeeze, x, "class", ["area"], out=tmp_path)
    assert len(list(tmp_path.glob("per_image-*.jsonl"))) == before + 1, "other weights"


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    x, _ = blobs(4)
    squeeze = planted()
    squeezecam.evaluate(squeeze, x, "class", ["area"], out=tmp_path)
    (stored,) = tmp_path.glob("per_image-*.jsonl")
    lines = stored.read_text().splitlines()
    stored.write_text("\n".join([lines[0], "{broken", *lines[1:]]) + "\n")
    with pytest.raises(InputError, match="is damaged"):
        squeezecam.evaluate(squeeze, x, "class", ["area"], out=tmp_path)


def test_subsets_missing_boxes_and_targets() -> None:
    x, boxes = blobs(6)
    boxes[2] = torch.zeros(0, 4)
    hard = [True, False, True, True, False, False]
    found = squeezecam.evaluate(
        planted(), x, "class", ["pointing", "drop"], boxes=boxes, subsets={"hard": hard}, target=[1] * 6, batch_size=4
    )
    assert found.figures()["class"]["pointing_game"].value.samples == 5
    assert found.figures("hard")["class"]["pointing_game"].value.samples == 2
    assert found.figures("hard")["class"]["average_drop"].value.samples == 3
    assert {r["target"] for r in found.records} == {1}
    assert "subset 'hard': 3 images" in found.text()
    lines = list(csv.DictReader(io.StringIO(found.csv())))
    assert {line["subset"] for line in lines} == {"all", "hard"}
    assert len(lines) == 2 * 5 * 3


def test_a_part_drawn_by_seed_is_the_same_again() -> None:
    x, _ = blobs(9)
    one, two, other = (
        [r["file"] for r in squeezecam.evaluate(planted(), x, "class", ["area"], sample=4, seed=s).records]
        for s in (1, 1, 2)
    )
    assert one == two != other
    assert len(set(one)) == 4


def test_a_single_value_has_no_confidence_but_a_place() -> None:
    x, boxes = blobs(4)
    squeeze = squeezecam.attach(Planted(torch.tensor([[1.0, 0.0, 0.0]])), x[:2])
    found = squeezecam.evaluate(squeeze, x, "class", ["pointing", "energy"], boxes=boxes)
    assert found.figures()["class"]["pointing_game"].value.mean == 1
    with pytest.raises(InputError, match="single value"):
        squeezecam.evaluate(squeeze, x, "class", ["insertion"])


def test_the_confidence_of_a_sigmoid_is_its_output() -> None:
    x, _ = blobs(4)
    model = torch.nn.Sequential(Planted(torch.tensor([[3.0, 0.1, 0.0], [0.0, 1.0, 0.3]])), torch.nn.Sigmoid())
    squeeze = squeezecam.attach(model, x[:2])
    found = squeezecam.evaluate(squeeze, x, "class", ["drop"], target=[0, 1, 0, 1])
    wanted = model(x)[torch.arange(4), torch.tensor([0, 1, 0, 1])]
    assert [record["confidence"] for record in found.records] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_wrong_use_is_told() -> None:
    x, boxes = blobs(4)
    for message, options in (
        ("no metric 'pointng'.*pointing_game", {"metrics": "pointng"}),
        ("'pointing_game' needs to know where the object is", {"metrics": "pointing"}),
        ("no method 'clas'", {"methods": "clas"}),
        ("boxes has 3 entries for 4 images", {"boxes": boxes[:3]}),
        ("masks have \\(5, 5\\) pixels", {"masks": torch.ones(4, 5, 5)}),
        ("at least 1", {"sample": 0}),
    ):
        with pytest.raises(InputError, match=message):
            squeezecam.evaluate(planted(), x, **{"metrics": None, **options})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a single image"):
        squeezecam.evaluate(planted(), x[:0])


def test_one_class_is_that_of_all_images() -> None:
    x, _ = blobs(3)
    for target in (1, torch.tensor(1), np.int64(1)):
        found = squeezecam.evaluate(planted(), x, "class", ["area"], target=target)
        assert [record["target"] for record in found.records] == [1, 1, 1]


def test_what_is_no_squeeze_or_no_picture_is_told(tmp_path: Path) -> None:
    x, _ = blobs(3)
    squeeze = planted()
    for call in (squeezecam.evaluate, squeezecam.compare, randomise):
        with pytest.raises(InputError, match=r"attach\(model, example\) returns; got an object of type Planted"):
            call(squeeze.model, x)
    photo = Image.new("RGB", (24, 24))
    for out in (None, tmp_path):
        with pytest.raises(InputError, match=r"image 0 is an object of type Image; expected a tensor \(C, H, W\)"):
            squeezecam.evaluate(squeeze, [photo] * 3, "class", ["area"], out=out)
    for name, value in (("names", 7), ("boxes", 7), ("target", 0.5)):
        with pytest.raises(InputError, match=f"{name} is .*; expected one entry for each of the 3 images"):
            squeezecam.evaluate(squeeze, x, "class", ["area"], **{name: value})
    with pytest.raises(InputError, match="images is an object of type generator"):
        squeezecam.evaluate(squeeze, (one for one in x))


def test_known_answers_are_not_asked_for_again() -> None:
    asked = []

    def predict(pictures: torch.Tensor) -> torch.Tensor:
        asked.append(len(pictures))
        return pictures.flatten(1)[:, :2] * 2

    known, new = torch.rand(3, 1, 4, 4), torch.rand(2, 1, 4, 4)
    model = Remembering(predict)
    model.learn(known)
    mixed = torch.stack([known[2], new[0], known[0], new[1]])
    assert torch.equal(model(mixed), mixed.flatten(1)[:, :2] * 2)
    assert torch.equal(model(known[1:2]), known[1:2].flatten(1)[:, :2] * 2)
    assert asked == [3, 2]
    nearly = known[:1].clone()
    nearly[0, 0, 3, 3] += 1e-3
    model(nearly)
    assert asked == [3, 2, 1]


def test_the_price_of_the_default_table() -> None:
    columns = choose_columns(None, truth=True)
    assert passes(columns, 8, 1.0) == 7 + 7 + 1 + 1
    assert not any(c.slow for c in columns)
    assert imputations(columns) == 0
    assert [imputations(choose_columns(names, truth=False)) for names in ("road", "road_combined,road")] == [9, 18]
    by_channel = {"channel_faithfulness", "channel_correlation", "opposing_share"}
    assert {name for name, c in COLUMNS.items() if c.own} == by_channel
    assert {name for name, c in COLUMNS.items() if c.slow} == {"road", "road_combined", "sensitivity_max"} | by_channel


def test_the_import_of_a_library_is_not_in_the_time_of_its_first_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_before.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    there: list[bool] = []

    def maps(squeeze: Squeeze, inputs: Any, target: Any, **options: Any) -> torch.Tensor:
        there.append("imported_before" in sys.modules)
        return torch.rand(len(inputs), 24, 24)

    method = MapMethod("mine", "mine", "peer", maps, cost=lambda *_: 1.0, library="imported_before")
    squeezecam.evaluate(planted(), blobs(3)[0], [method], "map_area", progress=False)
    assert there
    assert all(there)


def test_slow_metrics_run_when_they_are_named() -> None:
    x, _ = blobs(3)
    found = squeezecam.evaluate(planted(), x, "class", "road,road_combined,sensitivity_max,coherency,complexity")
    line = found.figures()["class"]
    assert all(line[c.name].value.samples == 3 for c in found.columns)
    assert line["road_combined"].value.mean > 0
    both = road_combined(planted(), x, planted().explain(x, method="class").heatmap, planted()(x).argmax(1))
    assert line["road_combined"].value.mean == pytest.approx(float(both.mean()), abs=1e-4)
    assert line["complexity"].value.mean == line["map_area"].value.mean
    gaussian = found.figures()["centred-gaussian"]
    assert gaussian["sensitivity_max"].value.mean == 0
    assert gaussian["coherency"].value.mean == pytest.approx(1)
    assert found.figures()["random-map"]["coherency"].value.mean < 0.9, "a random map is drawn anew"


def test_sensitivity_is_to_noise_of_two_percent_of_each_pictures_range() -> None:
    x = torch.rand(2, 3, 24, 24)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.0, 1.0
    x[1] *= 5
    seen: list[torch.Tensor] = []

    def look(squeeze: Any, inputs: torch.Tensor, target: Any, *, output: Any = None, seeds: Any = None) -> torch.Tensor:
        seen.append(inputs)
        return torch.ones(len(inputs), 24, 24)

    spy = MapMethod("spy", "spy", "peer", look, lambda squeeze, shape: 0.0)
    squeezecam.evaluate(planted(), x, [spy], ["sensitivity_max"], batch_size=2)
    noise = torch.stack([given - x for given in seen if not torch.equal(given, x)])
    assert noise.shape == (10, 2, 3, 24, 24)
    for i, most in enumerate((0.02, 0.1)):
        assert noise[:, i].max().item() == pytest.approx(most, rel=0.01)
        assert noise[:, i].min().item() == pytest.approx(-most, rel=0.01)


# --- boxes ----------------------------------------------------------------------------------------------


def test_boxes_in_the_frame_of_the_network() -> None:
    """A 400 x 200 picture, of which the central 200 x 200 fills 100 x 100."""
    seen = (100.0, 0.0, 300.0, 200.0)
    found = in_frame([(100, 0, 300, 200), (150, 50, 250, 100), (0, 20, 120, 60), (0, 0, 90, 90)], seen, 100, 100)
    assert found.tolist() == [[0, 0, 100, 100], [25, 25, 75, 50], [0, 10, 10, 30]]


def test_boxes_and_masks_in_a_mirrored_frame() -> None:
    boxes = in_frame([(1, 2, 4, 6)], (0, 0, 10, 10), 20, 10, (True, False))
    assert boxes.tolist() == [[12, 2, 18, 6]]
    assert in_frame([(1, 2, 4, 6)], (0, 0, 10, 10), 20, 10, (False, True)).tolist() == [[2, 4, 8, 8]]
    assert in_frame([(-5, 0, 4, 20)], (0, 0, 10, 10), 10, 10, (True, True)).tolist() == [[6, 0, 10, 10]]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 9999, 9999), "box 0,0,9999,9999 reaches beyond the picture, which has 400x200 pixels, and is cut off"),
        ((150, 50, 402, 100), "reaches beyond"),
        ((150, 50, 250, 201.5), "reaches beyond"),
        ((-1.5, 50, 250, 100), "reaches beyond"),
        ((150, -2, 250, 100), "reaches beyond"),
        ((500, 10, 600, 100), "box 500,10,600,100 lies outside the picture, which has 400x200 pixels, and is left out"),
        ((10, 200, 60, 300), "lies outside"),
        ((-9, 10, 0, 100), "lies outside"),
        ((10, -9, 60, 0), "lies outside"),
        ((0, 0, 90, 90), r"what the preprocessing cuts away \(it shows 100,0,300,200\), and is left out"),
        ((0, 0, 401, 201), None),  # a pixel too far by another way of counting
        ((-1, -1, 400, 200), None),
        ((0, 20, 120, 60), None),  # cut by the crop alone, as it has to be
    ],
)
def test_a_box_that_lies_where_no_picture_is_is_told(box: tuple[float, ...], said: str | None) -> None:
    found = misplaced([(150, 50, 250, 100), box], (100.0, 0.0, 300.0, 200.0), 400, 200)
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0])


def test_boxes_made_for_another_size_are_warned_of_with_file_and_sizes(tmp_path: Path) -> None:
    """Boxes in pixels of the network's input, or of a larger original, are the usual mistake."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcde":
        Image.new("RGB", (64, 48)).save(folder / f"{name}.png")
    path = tmp_path / "boxes.csv"
    path.write_text("file,x0,y0,x1,y1\n" + "".join(f"{name}.png,10,10,200,200\n" for name in "abcde"))
    words = ["--methods", "class", "--metrics", "pointing_game", "--out", str(tmp_path / "out")]
    with pytest.warns(SqueezeWarning) as told:
        command("evaluate", "--data", str(folder), "--boxes", str(path), *words)
    words = [str(warning.message) for warning in told if warning.category is SqueezeWarning]
    assert len(words) == 4  # three of them, and how many there are
    assert words[0].startswith("a.png: box 10,10,200,200 reaches beyond the picture, which has 64x48 pixels")
    assert "in pixels of the image file" in words[0]
    assert words[3].startswith("5 boxes in all")


def test_boxes_file(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("file,x0,y0,x1,y1,hard\na.png,1,2,3,4,0\na.png,5,6,7,8,1\nsub/b.png,0,0,9.5,9,0\nc,1,1,2,2,yes\n")
    found = read_boxes(path)
    assert found.boxes["a.png"] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert found.flags == {"hard": {"a.png", "c"}}
    assert found.key(Path("/x/y/a.png")) == "a.png"
    assert found.key(Path("/x/sub/b.png")) == "sub/b.png"
    assert found.key(Path("/x/other/b.png")) is None
    assert found.key(Path("c.jpg")) == "c"
    for text, message in (
        ("file,x0,y0,x1\n", "lacks the column y1"),
        ("file,x0,y0,x1,y1\na,1,2,x,4\n", "line 2: .* must be numbers"),
        ("file,x0,y0,x1,y1\na,5,2,3,4\n", "line 2: expected x0 < x1"),
        ("file,x0,y0,x1,y1\n", "no rows"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_boxes(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(tmp_path / "none.csv")


# --- compare --------------------------------------------------------------------------------------------


def test_compare_gives_maps_times_and_a_picture(tmp_path: Path) -> None:
    x = torch.rand(2, 2, 24, 24)
    squeeze = squeezecam.attach(ConvNet(), x)
    found = squeezecam.compare(squeeze, x, ["class", "published", "random-map"], repeats=2, target=[1, 3])
    assert found.target.tolist() == [1, 3]
    expected = squeeze.explain(x, method="class", target=torch.tensor([1, 3])).heatmap
    assert torch.allclose(found.maps["class"], expected, atol=1e-5)
    assert all(bool((s > 0).all()) and s.shape == (2,) for s in (*found.seconds.values(), found.forward))
    assert [row["method"] for row in found.times()] == ["class", "published", "random-map"]
    assert all("forwards" in caption for line in found.captions() for caption in line)
    pictures = [Image.new("RGB", (40, 30), (90, 90, 90))] * 2
    assert repr(found) == "Comparison of 3 methods on 2 pictures: class, published, random-map"
    path = found.save(tmp_path / "c.png", pictures=pictures)
    with Image.open(path) as sheet:
        assert sheet.width > 4 * 150


def test_doubts_about_maps_stand_beside_their_figures() -> None:
    x = torch.rand(5, 2, 24, 24)
    x[1] = torch.nan
    squeeze = squeezecam.attach(ConvNet(), x[:1])
    options: dict[str, Any] = {"metrics": "map_area", "target": [1] * 5, "batch_size": 2, "progress": False}
    found = squeezecam.evaluate(squeeze, x, ["published", "class", "grad-cam"], **options)
    unfitted = "block not fitted: its gates select nothing, fit it first"
    doubts = found.doubts()
    assert doubts["published"][unfitted] == 4
    assert sum(doubts["published"].values()) == 5  # that of the NaN says more
    assert sum(doubts["class"].values()) == 1
    assert "not finite" in next(iter(doubts["class"]))
    assert list(doubts) == ["published", "class"]
    assert f"in doubt: published: {unfitted} (4 of 5 images)" in str(found)
    assert found.as_dict()["doubts"] == doubts
    leave_identity(squeeze)
    assert squeezecam.evaluate(squeeze, x[2:], ["published", "class"], **options | {"target": [1] * 3}).doubts() == {}


def test_compare_default_begins_with_the_default_method() -> None:
    x = torch.rand(1, 2, 16, 16)
    found = squeezecam.compare(squeezecam.attach(ConvNet(), x), x, repeats=1)
    names = [m.name for m in found.methods]
    assert names[0] == "class"
    assert names[-1] == "all-channel-mean"
    assert not any(m.slow for m in found.methods)


# --- commands -------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(folder / f"p{i}.png")
    return folder


def command(*arguments: str) -> Any:
    from typer.testing import CliRunner

    from squeezecam.cli import app

    return CliRunner().invoke(app, list(arguments))


def test_evaluate_from_the_command_line(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "in"), tmp_path / "out"
    (folder / "bad.png").write_text("no picture")
    boxes = tmp_path / "boxes.csv"
    rows = "".join(f"p{i}.png,9,6,45,30,{i % 2}\n" for i in range(4))
    boxes.write_text("file,x0,y0,x1,y1,odd\n" + rows)
    words = f"evaluate --data {folder} --boxes {boxes} --subset odd --out {out} --methods published,class"
    arguments = [*words.split(), *["--metrics", "I-D,pointing,energy", "--steps", "3", "--seed", "4"]]
    result = command(*arguments)
    assert result.exit_code == 1, "one picture is bad"
    assert "5 images" in result.output
    assert "subset 'odd': 2 images" in result.output
    found = json.loads((out / "evaluation.json").read_text())
    assert found["seed"] == 4
    assert found["command"].startswith("squeezecam")
    assert list(found["methods"]) == ["published", "class", *CONTROLS]
    assert found["tables"]["all"]["class"]["pointing_game"]["samples"] == 4
    assert found["tables"]["odd"]["class"]["insertion_deletion"]["samples"] == 2
    assert len(found["failures"]) == 1
    assert "bad.png" in found["failures"][0]["file"]
    assert {p.suffix for p in out.iterdir()} == {".txt", ".csv", ".json", ".jsonl"}
    again = command(*arguments)
    assert "going on after" in again.stderr
    assert json.loads((out / "evaluation.json").read_text())["tables"] == found["tables"]


def test_pictures_of_which_none_can_be_read_leave_no_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    words = ["--out", str(out), "--methods", "class"]
    missing = command("evaluate", "--data", str(tmp_path / "nope"), *words)
    assert missing.exit_code == 1
    assert isinstance(missing.exception, InputError)
    assert str(missing.exception) == f"--data: no such file or folder: {tmp_path / 'nope'}"
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.png").write_text("no picture")
    for more, said in (([], "measure"), (["--randomise"], "compare")):
        bad = command("evaluate", "--data", str(folder), *words, *more)
        assert "bad.png" in bad.stderr
        assert str(bad.exception) == f"0 of 1 image could be read: there is nothing to {said}"
        assert not out.parent.exists()


def test_boxes_of_the_original_reach_the_frame(tmp_path: Path) -> None:
    """The demo squashes 90 x 60 to 96 x 96: the box 9,6,45,30 is the square from 9.6 to 48 there."""
    from squeezecam.commands.evaluate import Files
    from squeezecam.commands.pictures import example_of
    from squeezecam.data.images import find_images
    from squeezecam.models.resolve import load_model

    folder = pictures(tmp_path / "in", 2)
    path = tmp_path / "boxes.csv"
    path.write_text("file,x0,y0,x1,y1\np0.png,9,6,45,30\n")
    loaded = load_model("demo")
    assert example_of(loaded).shape[1:] == (3, 96, 96)
    said: list[str] = []
    files = Files(loaded, find_images([folder]), read_boxes(path), [], None, said.append)
    boxes = files.load(0).boxes
    assert boxes is not None
    assert torch.allclose(boxes, torch.tensor([[9.6, 9.6, 48, 48]], dtype=torch.float64), atol=0.3)
    assert files.load(1).boxes is None
    assert "1 of 2 pictures have no box" in said[0]
    path.write_text("file,x0,y0,x1,y1\nother.png,9,6,45,30\n")
    with pytest.raises(InputError, match="boxes for none of the 2 pictures"):
        Files(loaded, find_images([folder]), read_boxes(path), [], None, said.append)
    with pytest.raises(InputError, match="--subset"):
        Files(loaded, find_images([folder]), None, ["hard"], None, said.append)


def test_compare_from_the_command_line(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    result = command("compare", str(folder), "--out", str(out), "--methods", "class,published,centred-gaussian")
    assert result.exit_code == 0, result.output
    assert "forwards" in result.output
    found = json.loads((out / "comparison.json").read_text())
    assert [m["method"] for m in found["methods"]] == ["class", "published", "centred-gaussian"]
    assert len(found["pictures"]) == 2
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.height > 2 * 100


def test_registry_has_every_method_of_explain() -> None:
    from squeezecam.methods import METHODS

    assert [n for n, m in registry().items() if m.kind == "own"] == [*METHODS, "change"]


def test_inputs_that_are_neither_pictures_nor_those_of_a_call_are_told() -> None:
    class WithFigures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = torch.nn.Conv2d(3, 6, 4, 4), torch.nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, figures: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.map(x).relu().mean((2, 3)), figures], 1))

    x, figures = torch.rand(5, 3, 32, 32), torch.rand(5, 2)
    squeeze = squeezecam.attach(WithFigures().eval(), (x, figures))
    for given in ((figures, x), {"x": figures}, x[:, 0], [(x[:, 0], figures)]):
        with pytest.raises(InputError, match=r"got neither: the model was attached with 2 inputs of 4, 2 axes: pass"):
            squeezecam.evaluate(squeeze, given, progress=False)
    with pytest.raises(InputError, match=r"missing 1 required .*: pass these, of all samples"):
        squeezecam.evaluate(squeeze, x, progress=False)
    found = squeezecam.evaluate(
        squeeze, x, "class", "adcc", make_inputs=lambda some: (some, figures[:1].expand(len(some), -1)), progress=False
    )
    assert len(found.records) == 5


def test_compare_takes_classes_that_there_are() -> None:
    x, _ = blobs(3)
    squeeze = planted()
    found = squeezecam.compare(squeeze, x, "class,published", target=1)
    assert found.target.tolist() == [1, 1, 1]
    assert squeezecam.compare(squeeze, x, "class", target=[0, 1, 0]).target.tolist() == [0, 1, 0]
    for given, said in (
        (4000, "from 0 to"),
        (-1, "from 0 to"),
        ([0, 1], "2 targets for 3 pictures"),
        ("cat", "class indices"),
    ):
        with pytest.raises(InputError, match=said):
            squeezecam.compare(squeeze, x, "class", target=given)
