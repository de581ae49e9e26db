"""Fitting: what the block learns without labels, on labels, and what the report says of it."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam.block import SEBlock
from squeezecam.errors import FitError, InputError, SqueezeWarning
from squeezecam.fit import batches as batching
from squeezecam.fit import faithful
from squeezecam.fit.features import random_windows
from squeezecam.fit.report import same_prediction, wilson
from squeezecam.fit.runner import HeadRunner, _stubbed

CLASSES, CHANNELS, SIDE = 4, 32, 6


class Patterns(nn.Module):
    """Channel c of the map is channel c of the input; class k reads channels 8k to 8k + 4, the rest is noise to it."""

    def __init__(self, head: str = "linear") -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.ReLU())
        self.head = head
        self.fc = nn.Linear(CHANNELS, CLASSES)
        with torch.no_grad():
            self.features[0].weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
            self.fc.weight.zero_()
            self.fc.bias.zero_()
            for k in range(CLASSES):
                self.fc.weight[k, 8 * k : 8 * k + 4] = 1.0

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        u = self.features(x)
        if self.head == "conv":
            return F.relu(torch.einsum("kc,nchw->nkhw", self.fc.weight, u)).mean((2, 3))
        z = u.amax((2, 3)) if self.head == "max" else u.mean((2, 3))
        y = self.fc(z)
        return {"kind": y, "size": z.sum(1)} if self.head == "dict" else y


def pictures(count: int, seed: int = 0, only: tuple[int, ...] = tuple(range(CLASSES))) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (N, C, S, S), classes, and the positions (row, column) at which the class's channels are bright.

    Every channel has weak noise everywhere and a strong distractor of its own at one position, the same in all
    channels, away from the evidence: the all-channel mean points at the distractor.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, CHANNELS, SIDE, SIDE, generator=g) * 0.1
    y = torch.tensor(only)[torch.randint(len(only), (count,), generator=g)]
    spots = torch.randint(0, SIDE // 2, (count, 2), generator=g)
    for i in range(count):
        rows = torch.arange(8 * int(y[i]), 8 * int(y[i]) + 4)
        x[i, rows, spots[i, 0], spots[i, 1]] += 6.0
        x[i, 4::8, SIDE - 1, SIDE - 1] += 3.0
        x[i, 5::8, SIDE - 1, SIDE - 1] += 3.0
        x[i, 6::8, SIDE - 1, SIDE - 1] += 3.0
    return x, y, spots


def attached(head: str = "linear", apply: str = "observe") -> squeezecam.Squeeze:
    return squeezecam.attach(Patterns(head).eval(), pictures(2)[0], apply=apply)  # type: ignore[arg-type]


def peak(maps: Tensor) -> Tensor:
    best = maps.flatten(1).argmax(1)
    return torch.stack([best // maps.shape[2], best % maps.shape[2]], 1)


class TestFaithful:
    def test_published_map_finds_the_evidence_that_the_channel_mean_misses(self) -> None:
        squeeze = attached()
        x, _, _ = pictures(200)
        report = squeeze.fit([x[i : i + 50] for i in range(0, 200, 50)])
        test, labels, spots = pictures(60, seed=9)
        found = squeeze.explain(test, method="published")
        assert (peak(found.raw) == spots).all(1).float().mean() > 0.95
        mean = squeeze.capture(test)[1]["map"].features.mean(1)
        assert (peak(mean) == spots).all(1).float().mean() < 0.05  # the control fails here, so the SE vector did it
        for i in range(60):  # what is kept are the channels of the class
            own = torch.arange(8 * int(labels[i]), 8 * int(labels[i]) + 4)
            assert set(found.kept[i].nonzero().flatten().tolist()) == set(own.tolist())
        assert report.mode == "vectors"
        assert report.fallback == 0
        assert report.unchanged == 1.0

    def test_classes_that_the_fit_never_saw_are_explained_too(self) -> None:
        squeeze = attached()
        x, _, _ = pictures(200, only=(0, 1))
        squeeze.fit([x])
        test, _, spots = pictures(60, seed=9, only=(2, 3))
        assert (peak(squeeze.explain(test, method="published").raw) == spots).all(1).float().mean() > 0.95

    def test_same_seed_same_block_and_iterators_are_enough(self) -> None:
        x, _, _ = pictures(100)
        first, second = attached(), attached()
        a = first.fit(iter(x.split(25)), seed=3)
        b = second.fit(iter(x.split(25)), seed=3)
        assert a.unchanged == b.unchanged
        assert torch.equal(first.block().expand.weight, second.block().expand.weight)

    def test_gate_mode_keeps_predictions_and_the_model_itself_is_untouched(self) -> None:
        squeeze = attached(apply="gate")
        x, _, _ = pictures(200)
        before = copy.deepcopy(squeeze.model.state_dict())
        own = squeeze.model(x)
        squeeze.fit([x])
        assert all(torch.equal(value, before[name]) for name, value in squeeze.model.state_dict().items())
        gated = squeeze(x)
        assert not torch.equal(gated, own)  # the block really is in the path
        assert (gated.argmax(1) == own.argmax(1)).float().mean() >= 0.98

    def test_maps_are_cached_where_vectors_do_not_determine_the_output(self) -> None:
        x, _, _ = pictures(120)
        for head in ("max", "conv"):
            squeeze = attached(head)
            # With these weights a ReLU after a positive 1x1 convolution does nothing: make it cut.
            with torch.no_grad():
                squeeze.model.fc.weight.sub_(0.4)
            squeeze = squeezecam.attach(squeeze.model, x[:2])
            assert squeeze.fit([x]).mode == "maps"

    def test_one_of_several_outputs(self) -> None:
        squeeze = attached("dict")
        x, _, _ = pictures(100)
        assert squeeze.default_output == "kind"
        report = squeeze.fit([x], output="size")
        assert (report.output, report.task) == ("size", "regression")

    def test_block_can_be_made_smaller(self) -> None:
        squeeze = attached()
        x, _, _ = pictures(100)
        report = squeeze.fit([x], hidden=2)
        assert report.settings["hidden"]["map"] <= 2 * len(faithful.LADDER)
        assert isinstance(squeeze.block(), SEBlock)


class TestLabels:
    def test_published_training_of_the_block_on_cached_vectors(self) -> None:
        squeeze = attached(apply="gate")
        x, y, _ = pictures(300)
        with torch.no_grad():  # a head that errs, so that the block has something to gain
            squeeze.model.fc.weight[0, 4:8] += 1.5
        squeeze = squeezecam.attach(squeeze.model, x[:2], apply="gate")
        before = (squeeze.model(x).argmax(1) == y).float().mean()
        report = squeeze.fit([(x, y)], objective="task", epochs=60, lr=1e-2)
        after = (squeeze(x).argmax(1) == y).float().mean()
        assert after > before + 0.1
        assert report.accuracy_after is not None
        assert report.accuracy_before is not None
        assert report.accuracy_after > report.accuracy_before

    def test_head_and_all_change_what_they_name(self) -> None:
        x, y, _ = pictures(120)
        for train, changed in (
            ("head", {"fc.weight", "fc.bias"}),
            ("all", {"fc.weight", "fc.bias", "features.0.weight"}),
        ):
            squeeze = attached(apply="gate")
            before = copy.deepcopy(squeeze.model.state_dict())
            squeeze.fit(
                [(x[i : i + 20], y[i : i + 20]) for i in range(0, 120, 20)], objective="task", train=train, epochs=2
            )
            after = squeeze.model.state_dict()
            assert {name for name in after if not torch.equal(after[name], before[name])} == changed
            assert all(p.requires_grad for p in squeeze.model.parameters())
            assert not squeeze.model.training

    def test_a_trained_head_travels_with_the_adapter(self, tmp_path) -> None:
        x, y, _ = pictures(120)
        squeeze = attached(apply="gate")
        squeeze.fit([(x, y)], objective="task", train="head", epochs=3)
        squeeze.save(tmp_path / "a.safetensors")
        again = squeezecam.load(tmp_path / "a.safetensors", Patterns().eval(), x[:2])
        assert torch.equal(again(x), squeeze(x))


class TestRunner:
    def test_head_alone_gives_the_output_without_running_what_is_before(self) -> None:
        model = Patterns().eval()
        x, _, _ = pictures(5)
        squeeze = squeezecam.attach(model, x[:2])
        calls = []
        handle = model.features[0].register_forward_hook(lambda *_: calls.append(1))
        runner = HeadRunner(squeeze, x)
        raws = {"map": model.features(x)}
        calls.clear()
        assert torch.allclose(runner.run(raws, 5), model(x))
        handle.remove()
        assert len(calls) == 1  # only by model(x)
        assert "forward" not in model.features.__dict__

    def test_other_threads_run_the_model_as_it_is_meanwhile(self) -> None:
        model = Patterns().eval()
        x, _, _ = pictures(5)
        runner = HeadRunner(squeezecam.attach(model, x[:2]), x)
        expected, found = model(x[:3]), []

        def elsewhere(module: nn.Module, args: object) -> None:
            handle.remove()
            thread = threading.Thread(target=lambda: found.append(model(x[:3])))
            thread.start()
            thread.join()

        raws = {"map": model.features(x)}
        handle = model.fc.register_forward_pre_hook(elsewhere)
        runner.run(raws, 5)
        assert torch.equal(found[0], expected)

    def test_a_module_gets_its_own_back_in_whatever_order_threads_are_through(self) -> None:
        module, x = nn.Linear(3, 3), torch.ones(2, 3)
        expected, entered, leave = module(x), threading.Event(), threading.Event()
        seen: list[Tensor] = []

        def elsewhere() -> None:
            with _stubbed(module, {0: (1, 5)}, 1, 2, torch.device("cpu")):
                entered.set()
                leave.wait(10)
                seen.append(module(x))

        thread = threading.Thread(target=elsewhere)
        with _stubbed(module, {0: (1, 4)}, 1, 2, torch.device("cpu")):
            thread.start()
            entered.wait(10)
            assert module(x).shape == (2, 4)
        assert torch.equal(module(x), expected)
        leave.set()
        thread.join()
        assert seen[0].shape == (2, 5)
        assert "forward" not in module.__dict__

    def test_wrong_features_are_noticed(self) -> None:
        squeeze = attached()
        x, _, _ = pictures(5)
        runner = HeadRunner(squeeze, x)
        raws = {"map": squeeze.model.features(x)}
        assert runner.reproduces(raws, squeeze.model(x), "output")
        assert not runner.reproduces({"map": raws["map"] * 1.1}, squeeze.model(x), "output")


class TestParts:
    def test_wilson_interval_by_hand(self) -> None:
        # n = 100, p = .98, z = 1.96: centre (.98 + .019208) / 1.038416,
        # half 1.96 / 1.038416 * sqrt(.000196 + .00009604)
        low, high = wilson(0.98, 100)
        assert low == pytest.approx(0.93002, abs=1e-4)
        assert high == pytest.approx(0.99449, abs=1e-4)
        assert wilson(1.0, 50)[1] == 1.0

    def test_same_prediction_by_task(self) -> None:
        a = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
        b = torch.tensor([[0.1, -3.0], [3.0, 2.0]])
        assert same_prediction(a, b, "classification").tolist() == [True, False]
        assert same_prediction(a, b, "multi-label").tolist() == [True, True]
        values = torch.tensor([0.0, 10.0])  # spread 5, so a tenth is .5
        assert same_prediction(values, torch.tensor([0.4, 10.6]), "regression").tolist() == [True, False]

    def test_windows_are_means_of_some_window(self) -> None:
        u = torch.arange(2 * 1 * 4 * 4.0).view(2, 1, 4, 4)
        drawn = random_windows(u, 20, torch.Generator().manual_seed(0))
        possible = set()
        for h in (2, 3, 4):
            for w in (2, 3, 4):
                for r in range(5 - h):
                    for c in range(5 - w):
                        possible.add(round(float(u[0, 0, r : r + h, c : c + w].mean()), 4))
        assert drawn.shape == (20, 2, 1)
        assert {round(float(v), 4) for v in drawn[:, 0, 0]} <= possible
        assert torch.allclose(drawn[:, 1] - drawn[:, 0], torch.full((20, 1), 16.0))

    def test_detectors_rank_the_channels_of_the_winning_class_first(self) -> None:
        weight = torch.zeros(3, 9)
        for k in range(3):
            weight[k, 3 * k : 3 * k + 3] = 1.0
        g = torch.Generator().manual_seed(0)
        z = torch.rand(200, 9, generator=g)
        first, second = faithful.detectors(weight - weight.mean(0), torch.zeros(3), z)
        logits = torch.relu(z @ first.T) @ second.T
        top = logits.topk(3, 1).indices // 3
        winner = (z @ weight.T).argmax(1)
        clear = (z @ weight.T).topk(2, 1).values.diff(dim=1).abs().flatten() > 0.3
        assert (top[clear] == winner[clear][:, None]).all()

    @pytest.mark.parametrize(
        ("classes", "units"),
        [
            (2, [(0.0, 1.0)]),  # two opposite rows: whichever speaks
            (4, [(0.2, 0.5), (0.4, 1.0), (0.6, 2.0), (0.8, 4.0), (0.9, 8.0)]),
            (51, [(0.2, 0.5), (0.4, 1.0), (0.6, 2.0), (0.8, 4.0), (0.9, 8.0)]),  # 255 units, 256 is the limit
            (52, [(0.7, 1.0)]),
        ],
    )
    def test_the_layers_of_the_block_on_numbers_that_one_can_check(
        self, classes: int, units: list[tuple[float, float]]
    ) -> None:
        """Class k is channel k, and each sample is one channel alone: the winner's logit is 1 for all of them.

        Its estimate through the origin, with a penalty as large as the mean eigenvalue, is half of the sum over the
        channels. Every channel has the usual strength 1 / classes.
        """
        one = torch.eye(classes, dtype=torch.float64)
        first, second = faithful.detectors(one.float(), torch.zeros(classes), one.float())
        rows = torch.cat([slope * (one - threshold * 0.5) for threshold, slope in units])
        columns = (one - 1 / classes) / classes**0.5
        torch.testing.assert_close(first.double(), rows, atol=1e-5, rtol=0)
        torch.testing.assert_close(second.double(), columns.repeat(1, len(units)), atol=1e-6, rtol=0)

    def test_a_quarter_of_the_widest_amplitude_is_used(self) -> None:
        """One prediction in a thousand stays at any amplitude, so that the widest one there is, .02, is found."""
        squeeze, x = attached(), pictures(200)[0]
        report = squeeze.fit([x], agreement=0.001)
        assert report.settings["amplitude"] == pytest.approx(0.25 * 0.02)
        logits = squeeze.block().logits(squeeze.capture(x)[1]["map"].squeezed)
        assert float(logits.std(1, correction=0).mean()) == pytest.approx(0.25 * 0.02, rel=0.05)

    @pytest.mark.parametrize("limit", [0.0123, 0.0004])
    def test_the_widest_amplitude_that_keeps_the_predictions_is_found(
        self, limit: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def kept_up_to_the_limit(squeeze: object, cache: object, output: str, index: Tensor, strength: float) -> Tensor:
            return F.one_hot(torch.full((len(index),), int(strength > limit)), 2)

        monkeypatch.setattr(faithful, "gated_values", kept_up_to_the_limit)
        cache = SimpleNamespace(values=torch.tensor([[1, 0]] * 5), windows={})
        found = faithful._widest(None, cache, "output", "classification", torch.arange(5), 0.9, lambda count: None)
        # Seven halvings of a thousandfold range on a logarithmic scale: 5.5 % below the limit at most.
        assert limit / 1000 ** (1 / 2**7) <= found <= limit

    def test_rows_behind_a_relu_are_corrected_by_what_the_model_said(self) -> None:
        g = torch.Generator().manual_seed(0)
        weight, features = torch.randn(12, 6, generator=g), torch.rand(600, 6, 3, 3, generator=g).square()
        weight, z = weight - weight.mean(0), features.mean((2, 3))
        logits = torch.einsum("kc,ncxy->nkxy", weight, features).relu().mean((2, 3))
        rows, offsets = faithful.corrected(weight, torch.zeros(12), z[:400], logits[:400])

        centred = logits[400:] - logits[400:].mean(1, keepdim=True)

        def missed(rows: Tensor, offsets: Tensor) -> float:
            return float((z[400:] @ rows.T + offsets - centred).square().mean())

        assert missed(rows, offsets) < 0.25 * missed(weight, torch.zeros(12))
        # Nothing is corrected where nothing is cut.
        straight = z @ weight.T + 0.5
        rows, offsets = faithful.corrected(weight, torch.zeros(12), z, straight - straight.mean(1, keepdim=True))
        assert torch.allclose(z @ rows.T + offsets, z @ weight.T, atol=1e-3)

    def test_merging_keeps_groups_apart(self) -> None:
        rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        merged, _ = faithful.merged(rows, torch.zeros(4), 2)
        assert torch.allclose(merged[merged[:, 0].argsort()], torch.tensor([[0.05, 0.95], [0.95, 0.05]]))


class TestBatchesAndErrors:
    def test_usual_batches_are_understood(self) -> None:
        x, y = torch.rand(2, 3), torch.tensor([0, 1])
        assert batching.split(x, 1, None, None)[0] is x
        assert batching.split((x, y), 1, None, None) == (x, y)
        assert batching.split([x, x, y], 2, None, None)[0] == (x, x)
        given, labels = batching.split({"pixel_values": x, "labels": y}, 1, None, None)
        assert list(given) == ["pixel_values"]
        assert labels is y
        assert batching.split({"a": x}, 1, lambda b: b["a"], lambda b: y) == (x, y)
        with pytest.raises(InputError, match="pass inputs="):
            batching.split((x, x, x, y), 1, None, None)

    def test_tasks_are_guessed(self) -> None:
        many = torch.rand(4, 3)
        assert batching.guess_task(many, torch.tensor([0, 1, 2, 0])) == "classification"
        assert batching.guess_task(many, torch.tensor([[0, 1, 1]] * 4)) == "multi-label"
        assert batching.guess_task(many, torch.rand(4, 3) * 40) == "regression"
        assert batching.guess_task(torch.rand(4), None) == "regression"

    def test_clear_errors(self) -> None:
        x, y, _ = pictures(20)
        squeeze = attached()
        for bad, message in (
            ({"objective": "magic"}, "unknown objective"),
            ({"train": "head"}, "faithful objective leaves the model"),
            ({"objective": "task", "train": "head"}, "apply='gate'"),
            ({"output": "nothing"}, "no output 'nothing'"),
            ({"hold_out": 0.0}, "hold_out"),
            ({"hidden": 0}, "hidden must be at least 1"),
            ({"windows": -1}, "windows at least 0"),
        ):
            with pytest.raises(InputError, match=message):
                squeeze.fit([x], **bad)
        with pytest.raises(FitError, match="not a single batch"):
            squeeze.fit([])
        with pytest.raises(FitError, match="too few"):
            squeeze.fit([x[:3]])
        with pytest.raises(FitError, match="NaN"):
            squeeze.fit([x * float("nan")])
        with pytest.raises(FitError, match="labels"):
            squeeze.fit([x], objective="task")
        with pytest.raises(FitError, match=r"labels are a list of 20 \(each an object of type str\) and not numbers"):
            squeeze.fit([(x, ["a"] * 20)], objective="task")
        with pytest.raises(InputError, match=r"inputs is 'image'; expected a function .*inputs=lambda batch"):
            squeeze.fit([{"image": x}], inputs="image")
        with pytest.raises(FitError, match="class labels"):
            squeeze.fit([(x, y + 10)], objective="task")
        assert not squeeze.fitted  # none of the failures left a half-made block

    def test_samples_with_nan_are_left_out_and_said_so(self) -> None:
        x, _, _ = pictures(60)
        x[3] = float("nan")
        report = attached().fit([x])
        assert report.samples + report.held_out == 59
        assert any("left out 1 sample with NaN" in note for note in report.notes)

    @pytest.mark.parametrize(("count", "few"), [(8, True), (49, True), (50, False)])
    def test_few_samples_are_said_to_be_few(self, count: int, few: bool) -> None:
        report = attached().fit([pictures(count)[0]])
        said = [note for note in report.notes if "samples are few" in note]
        assert len(said) == few
        assert not few or (said[0].startswith(f"{count} samples") and f"note: {said[0]}" in str(report))

    def test_the_report_names_the_map_that_is_shown(self) -> None:
        squeeze = attached()
        report = squeeze.fit([pictures(60)[0]])
        assert report.shown == squeeze.explain(pictures(2)[0]).method
        assert f"map by default: {report.shown}" in str(report)

    def test_samples_that_are_all_alike_are_warned_of(self) -> None:
        one = pictures(1)[0]
        with pytest.warns(SqueezeWarning, match="all 60 samples look the same to the model"):
            report = attached().fit([one.expand(40, -1, -1, -1), one.expand(20, -1, -1, -1)])
        assert any("look the same" in note for note in report.notes)
        other = torch.cat([one.expand(59, -1, -1, -1), one * 1.001])
        assert not any("look the same" in note for note in attached().fit([other]).notes)
