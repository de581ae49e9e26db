"""Parity: both arms begin alike, the difference is judged rightly, an interrupted study goes on where it stopped."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import ConvNet
from squeezecam.errors import InputError, ModelError
from squeezecam.parity import ParityResult, Recipe, parity
from squeezecam.parity import running as runner
from squeezecam.parity.arms import LABEL_FREE, OTHER, STANDARD, WITH, WITHOUT, Arm
from squeezecam.parity.demo import Digits
from squeezecam.parity.gates import describe_gates
from squeezecam.parity.network import Network, reset, same_tensors
from squeezecam.parity.recipe import AUGMENTS
from squeezecam.parity.samples import InMemory, split
from squeezecam.parity.training import predict, score, train
from squeezecam.parity.variants import DROPOUT, EVIDENCE, SPREAD

TASK = {"task": "classification", "output": "output"}


class Dropping(nn.Module):
    """A network with dropout: its chance must not depend on the block."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.head(self.drop(self.features(x).mean((2, 3))))
        return values


def pictures(count: int, seed: int = 0) -> InMemory:
    """Three classes: stripes across, stripes upright, or none, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    data = 0.5 * torch.randn(count, 2, 12, 12, generator=generator)
    data[labels == 0, 0, ::3] += 1
    data[labels == 1, 0, :, ::3] += 1
    return InMemory(data, labels)


def network(trained: nn.Module | None = None, reduction: int = 16) -> Network:
    return Network(pictures(2).data, trained, Dropping, reduction=reduction)


RECIPE = Recipe(epochs=2, batch_size=16, lr=5e-3, augment="flip-shift")


# --- pairing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["scratch", "fine-tune"])
def test_with_the_block_held_at_identity_both_arms_end_with_identical_weights(start: str) -> None:
    data, source, found = pictures(50), network(Dropping()), {}
    for apply in ("observe", "gate"):
        squeeze = source.start(start, 3, apply)
        for parameter in squeeze.blocks.parameters():
            parameter.requires_grad_(False)
        train(squeeze, data, RECIPE, 3, **TASK)
        found[apply] = squeeze
    assert same_tensors(found["observe"].model, found["gate"].model)
    assert torch.equal(predict(found["observe"], data, "output"), predict(found["gate"], data, "output"))


def test_a_block_that_trains_changes_the_weights_and_the_first_batch_is_still_the_same() -> None:
    seen: dict[str, list[Tensor]] = {"observe": [], "gate": []}
    found = {}
    for apply, list_ in seen.items():

        def watch(inputs: Tensor, generator: torch.Generator, into: list[Tensor] = list_) -> Tensor:
            into.append(AUGMENTS["flip-shift"](inputs, generator))
            return into[-1]

        squeeze = network().start("scratch", 3, apply)
        train(squeeze, pictures(50), Recipe(2, 16, 5e-3, augment=watch), 3, **TASK)
        found[apply] = squeeze
    assert all(torch.equal(a, b) for a, b in zip(seen["observe"], seen["gate"], strict=True))
    assert len(seen["gate"]) == 8
    assert not same_tensors(found["observe"].model, found["gate"].model)
    assert found["gate"].fitted


def test_another_seed_is_another_network_other_batches_and_another_augmentation() -> None:
    assert not same_tensors(network().start("scratch", 0, "gate").model, network().start("scratch", 1, "gate").model)
    inputs = pictures(8).data
    drawn = [AUGMENTS["flip-shift"](inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == inputs.shape


def test_the_check_tells_a_network_that_does_not_repeat_itself() -> None:
    class Restless(Dropping):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + 0.01 * torch.rand((), generator=CHANCE))

    chance_free = runner.Plan({"scratch": RECIPE}, [0], "classification", "output")
    assert runner.check_pairing(network(), chance_free, "scratch", pictures(50), 0)
    restless = Network(pictures(2).data, None, Restless)
    assert not runner.check_pairing(restless, chance_free, "scratch", pictures(50), 0)


CHANCE = torch.Generator().manual_seed(0)


def test_training_leaves_the_given_model_and_the_global_generator_alone() -> None:
    model = Dropping()
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    parity(model, pictures(40), pictures(30, 1), seeds=2, recipe=RECIPE, arms=(WITHOUT, WITH), progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(chance, torch.get_rng_state())


# --- a whole study --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[ParityResult, Path]:
    folder = tmp_path_factory.mktemp("parity")
    recipe = Recipe(epochs=6, batch_size=16, lr=1e-2)
    data = pictures(96), pictures(60, 1)
    return parity(Dropping, *data, seeds=3, recipe=recipe, maps=8, out=folder, progress=False), folder


def test_every_arm_has_every_seed_and_the_control_is_another_training(study: tuple[ParityResult, Path]) -> None:
    result, _ = study
    assert [arm.arm for arm in result.arms] == [arm.name for arm in STANDARD]
    assert all(arm.seeds == (0, 1, 2) and not arm.failed for arm in result.arms)
    losses = {name: result.runs["scratch"][f"{name}/0"]["loss"] for name in ("without", "other", "with", "label-free")}
    assert len({losses["without"], losses["other"], losses["with"]}) == 3
    assert losses["label-free"] == pytest.approx(losses["without"], rel=0.05)
    assert result.identical("scratch") is True
    assert result.arm("scratch", "without").mean > 60  # of three classes: it has learned


def test_the_difference_is_that_of_the_scores_seed_by_seed(study: tuple[ParityResult, Path]) -> None:
    result, _ = study
    first, second = result.arm("scratch", "without"), result.arm("scratch", "with")
    differences = [b - a for a, b in zip(first.scores, second.scores, strict=True)]
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(sum(differences) / 3)
    assert first.difference is None
    with pytest.raises(InputError, match="no arm 'frozen'"):
        result.arm("scratch", "frozen")


def test_gates_and_maps_are_there_only_where_there_is_a_block(study: tuple[ParityResult, Path]) -> None:
    result, _ = study
    assert {row["arm"] for row in result.gate_rows()} == {WITH.label, LABEL_FREE.label}
    methods = {(row["arm"], row["map"]) for row in result.map_rows()}
    assert (WITH.label, "published") in methods
    assert (WITHOUT.label, "published") not in methods
    assert (WITHOUT.label, "class") in methods
    assert (OTHER.label, "random-map") in methods


def test_the_files_say_what_the_result_says(study: tuple[ParityResult, Path]) -> None:
    result, folder = study
    found = json.loads((folder / "parity.json").read_text())
    assert found["arms"][2]["mean"] == pytest.approx(result.arm("scratch", "with").mean)
    assert found["identical at identity"] == {"scratch": True}
    assert len((folder / "parity.csv").read_text().splitlines()) == 1 + 4 * 3
    assert result.arm("scratch", "with").verdict.sentence in (folder / "parity.txt").read_text()  # type: ignore[union-attr]
    picture = result.picture()
    assert picture.width > 600
    assert len(picture.getcolors(1 << 24) or []) > 8


def test_a_study_goes_on_where_it_stopped_and_seeds_can_be_added(
    study: tuple[ParityResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = study
    trained: list[int] = []

    def counted(*args: object, **options: object) -> None:
        trained.append(int(args[3]))  # type: ignore[call-overload]
        train(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "train", counted)
    options = {"recipe": Recipe(epochs=6, batch_size=16, lr=1e-2), "maps": 8, "out": folder, "progress": False}
    again = parity(Dropping, pictures(96), pictures(60, 1), seeds=3, **options)  # type: ignore[arg-type]
    assert trained == []
    assert again.runs == result.runs
    (path,) = folder.glob("runs-*.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"with/1"' not in line) + "\n")
    parity(Dropping, pictures(96), pictures(60, 1), seeds=3, **options)  # type: ignore[arg-type]
    assert trained == [1]
    more = parity(Dropping, pictures(96), pictures(60, 1), seeds=4, **options)  # type: ignore[arg-type]
    assert trained == [1, 3, 3 + runner.OTHER_SEED, 3]
    assert more.runs["scratch"]["with/1"]["score"] == result.runs["scratch"]["with/1"]["score"]


def test_a_damaged_store_is_told(study: tuple[ParityResult, Path], tmp_path: Path) -> None:
    (path,) = study[1].glob("runs-*.jsonl")
    (tmp_path / path.name).write_text(path.read_text()[:-30])
    options = {"recipe": Recipe(epochs=6, batch_size=16, lr=1e-2), "maps": 8, "out": tmp_path, "progress": False}
    with pytest.raises(InputError, match="damaged"):
        parity(Dropping, pictures(96), pictures(60, 1), seeds=3, **options)  # type: ignore[arg-type]


def test_a_regression_counts_errors_in_the_labels_unit_and_less_is_better() -> None:
    data = pictures(48)
    labelled = InMemory(data.data, data.labels.float()[:, None] * 10)
    result = parity(
        lambda: ConvNet(classes=1), labelled, labelled, seeds=2, recipe=RECIPE, arms=(WITHOUT, WITH), progress=False
    )
    first, second = result.arms
    assert result.margin == pytest.approx(0.05 * float(labelled.labels.std()))
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(first.mean - second.mean)
    assert "lower is better" in str(result)


def test_an_arm_that_cannot_be_fitted_is_reported_and_stops_nothing() -> None:
    def fails(*_: object) -> None:
        raise InputError("no features")

    broken = Arm("broken", "broken", base="without", finish=fails)
    result = parity(Dropping, pictures(40), pictures(30, 1), seeds=2, recipe=RECIPE, arms=(WITHOUT, broken))
    assert result.arm("scratch", "broken").failed == ("no features", "no features")
    assert math.isnan(result.arm("scratch", "broken").mean)
    assert "2 runs failed: no features" in result.text()
    result.picture()


# --- networks -------------------------------------------------------------------------------------------


def test_a_new_classification_layer_is_the_same_for_both_arms_and_the_rest_is_kept() -> None:
    trained = Dropping()
    made = [Network(pictures(2).data, trained, outputs=5).start("fine-tune", 1, way) for way in ("observe", "gate")]
    assert made[0].model.head.out_features == 5
    assert same_tensors(made[0].model, made[1].model)
    assert torch.equal(made[0].model.features[0].weight, trained.features[0].weight)
    assert trained.head.out_features == 3


def test_a_new_layer_of_a_regression_begins_at_the_mean_of_the_labels() -> None:
    made = Network(pictures(2).data, Dropping(), outputs=1, offset=35.0).start("fine-tune", 1, "gate")
    assert made.model.head.bias.tolist() == [35.0]


def test_resetting_forgets_everything_that_was_learned() -> None:
    model = Dropping()
    with torch.no_grad():
        for tensor in [*model.parameters(), model.features[1].running_mean]:
            tensor.fill_(7.0)
    reset(model)
    assert not any((tensor == 7).any() for tensor in model.state_dict().values())


def test_a_parameter_that_nothing_can_reset_is_told() -> None:
    class Bare(Dropping):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(3))

    with pytest.raises(ModelError, match=r"offset.*scratch="):
        reset(Bare())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": 1}, "at least 2"),
        ({"starts": ("warm",)}, "unknown start 'warm'"),
        ({"starts": ("fine-tune",)}, "needs a trained model"),
        ({"margin": -1.0}, "more than 0"),
        ({"task": "ranking"}, "unknown task 'ranking'"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parity(Dropping, pictures(20), pictures(20, 1), **options)  # type: ignore[arg-type]


def test_labels_beyond_the_outputs_are_told_with_the_way_out() -> None:
    data = pictures(20)
    with pytest.raises(InputError, match=r"go up to 7.*outputs=8"):
        parity(Dropping, (data.data, data.labels + 5), data)
    with pytest.raises(InputError, match="differ in number: 20 samples and 3 labels"):
        InMemory(data.data, data.labels[:3])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.ones(20, dtype=torch.long), "labels of the 14 training samples are all 1: a study needs at least two"),
        (torch.full((20,), 2.5), "are all 2.5: .* or figures that differ"),
        (torch.tensor([[1.0, 0.0, 1.0]]).repeat(20, 1), "are the same for every sample"),
    ],
)
def test_labels_that_are_all_alike_are_refused_before_anything_is_trained(labels: Tensor, said: str) -> None:
    def never() -> nn.Module:
        pytest.fail("no network is needed to see that")

    with pytest.raises(InputError, match=said):
        parity(never, (torch.randn(20, 2, 12, 12), labels), seeds=2)


# --- data, gates, auxiliary losses ----------------------------------------------------------------------


def test_the_split_keeps_the_classes_even_and_shares_nothing() -> None:
    labels = torch.tensor([0] * 40 + [1] * 10)
    first, second = split(InMemory(torch.arange(50.0)[:, None], labels), 0.3, 0)
    assert second.labels.bincount().tolist() == [12, 3]
    assert not set(first.index.tolist()) & set(second.index.tolist())
    assert len(first) + len(second) == 50
    assert torch.equal(second.inputs(torch.tensor([0]))[0], second.index[:1].float())


def test_the_demo_pictures_repeat_themselves_and_their_boxes_hold_a_bright_digit() -> None:
    first, again, other = Digits("test", 12, 0), Digits("test", 12, 0), Digits("train", 12, 0)
    assert torch.equal(first.data, again.data)
    assert first.identity() == again.identity() != other.identity()
    for picture, (x0, y0, x1, y1) in zip(first.data.mean(1), first.boxes.int().tolist(), strict=True):
        assert 4 <= x1 - x0 <= 28
        assert 8 <= y1 - y0 <= 28
        assert picture[y0:y1, x0:x1].amax() > 0.6
        assert picture[y0:y1, x0:x1].mean() > picture.mean()
    with pytest.raises(InputError, match="split is 'all'"):
        Digits("all", 3, 0)


def test_scores_are_points_or_errors() -> None:
    assert score(torch.tensor([[2.0, 1], [0, 1]]), torch.tensor([0, 0]), "classification") == 50
    assert score(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]), "regression") == 1.5
    assert score(torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[1, 0], [0, 1]]), "multi-label") == 75


def test_gates_that_follow_the_class_are_told_from_gates_that_do_not() -> None:
    classes = torch.arange(4).repeat(50)
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(200, 32, generator=generator)
    by_class = 0.5 + 0.1 * torch.randn(4, 32, generator=generator)[classes] + noise
    fixed = 0.5 + 0.1 * torch.randn(32, generator=generator) + noise
    assert describe_gates(by_class, classes)["between classes"] > 0.95
    assert describe_gates(fixed, classes)["between classes"] < 0.02
    assert describe_gates(by_class)["between samples"] > 0.5
    assert describe_gates(fixed)["between samples"] < 0.05
    saturated = describe_gates(torch.tensor([[0.99, 0.97, 0.5, 0.01]]))
    assert (saturated["high"], saturated["low"]) == (0.5, 0.25)


@pytest.mark.parametrize("arm", [EVIDENCE, SPREAD, DROPOUT], ids=lambda arm: arm.name)
def test_an_auxiliary_arm_trains_from_the_identity_start(arm: Arm) -> None:
    squeeze = network().start("scratch", 0, "gate")
    if arm.prepare is not None:
        arm.prepare(squeeze)
    train(squeeze, pictures(60), Recipe(6, 16, 5e-3), 0, extra=arm.extra, **TASK)
    assert squeeze.fitted
    assert all(parameter.isfinite().all() for parameter in squeeze.parameters())


def test_the_evidence_loss_makes_the_gates_follow_the_evidence() -> None:
    correlations, saturated = {}, {}
    for name, extra in (("task", None), ("evidence", EVIDENCE.extra)):
        squeeze = network(reduction=2).start("scratch", 0, "gate")
        train(squeeze, pictures(90), Recipe(12, 16, 2e-2), 0, extra=extra, **TASK)
        with torch.no_grad():
            _, captures = squeeze.capture(pictures(60, 1).data)
            seen = captures["map"]
            values = squeeze(pictures(60, 1).data)
        evidence = squeeze.model.head.weight.detach()[values.argmax(1)] * seen.squeezed
        both = torch.stack([evidence, seen.gates])
        both = both - both.mean(2, keepdim=True)
        correlations[name] = float((both[0] * both[1]).sum(1).div(both.square().sum(2).prod(0).sqrt() + 1e-12).mean())
        saturated[name] = describe_gates(seen.gates)["high"]
    assert correlations["evidence"] > correlations["task"] + 0.1
    assert saturated["evidence"] < 0.05 < saturated["task"]
