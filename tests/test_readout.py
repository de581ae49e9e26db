"""The class read-out as users meet it: fitted by ``fit``, named in the result, saved, copied, exported."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import squeezecam
from squeezecam import Squeeze
from squeezecam.errors import AdapterError, InputError
from squeezecam.fit.cache import Cache
from squeezecam.fit.collecting import collect
from squeezecam.fit.evidence import logits_of
from squeezecam.fit.faithful import contrasts
from squeezecam.readout import LOW_R2, Readout, ReadoutHead

CLASSES, CHANNELS, HEIGHT, WIDTH = 3, 12, 4, 6


class Deep(nn.Module):
    """Channels are the input's own; class k is said by channels 4k to 4k + 3, through a head that is not linear.

    ``signed`` features sit on a large offset per channel and are negative as often as positive.
    """

    def __init__(self, signed: bool = False, outputs: bool = False, softmax: bool = False) -> None:
        super().__init__()
        self.features = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.hidden = nn.Linear(CHANNELS, CLASSES)
        self.head = nn.Linear(CLASSES, CLASSES)
        self.outputs, self.softmax = outputs, softmax
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
            self.features.bias.copy_(torch.tensor([3.0, -3.0]).repeat(CHANNELS // 2) if signed else torch.zeros(()))
            self.hidden.weight.copy_(torch.eye(CLASSES).repeat_interleave(CHANNELS // CLASSES, 1))
            self.hidden.bias.zero_()
            self.head.weight.copy_(4 * torch.eye(CLASSES))
            self.head.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        z = self.features(x).mean((2, 3))
        logits = self.head(torch.tanh(self.hidden(z - self.features.bias)))
        if self.softmax:
            logits = logits.softmax(1)
        return {"kind": logits, "size": torch.tanh(z).sum(1, keepdim=True)} if self.outputs else logits


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, classes, and the cell (flat) in which the channels of the class are bright; others are bright elsewhere,
    in all channels of no class alike.
    """
    g = torch.Generator().manual_seed(seed)
    x = 0.05 * torch.rand(count, CHANNELS, HEIGHT, WIDTH, generator=g)
    y = torch.randint(CLASSES, (count,), generator=g)
    at = torch.randint(HEIGHT * WIDTH, (count,), generator=g)
    strength = 1 + 4 * torch.rand(count, generator=g)
    flat = x.flatten(2)
    for i in range(count):
        flat[i, 4 * y[i] : 4 * y[i] + 4, at[i]] += strength[i]
    return x, y, at


def fitted(apply: str = "observe", **options: bool) -> Squeeze:
    x, _, _ = pictures(240)
    squeeze = squeezecam.attach(Deep(**options).eval(), x[:2], apply=apply)  # type: ignore[arg-type]
    squeeze.fit(list(x.split(60)))
    return squeeze


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("signed", [False, True])
def test_fit_makes_a_readout_and_the_class_map_finds_the_evidence(signed: bool, apply: str) -> None:
    x, _, _ = pictures(240)
    squeeze = squeezecam.attach(Deep(signed).eval(), x[:2], apply=apply)  # type: ignore[arg-type]
    assert squeeze.head() is None
    with pytest.raises(InputError, match=r"squeeze\.fit"):
        squeeze.explain(x[:2], method="class")
    report = squeeze.fit(list(x.split(60)))
    pool = "contrast" if signed else "mean"
    assert squeeze.readouts["output"]["map"].pool == pool
    assert report.readouts["output"]["r2"] > 0.8
    assert f"R² {report.readouts['output']['r2']:.2f}" in str(report)
    test, labels, at = pictures(60, seed=5)
    found = squeeze.explain(test, method="class", target=labels)
    assert (found.raw.flatten(1).argmax(1) == at).float().mean() > 0.95
    other = squeeze.explain(test, method="class", target=(labels + 1) % CLASSES)
    assert (other.raw.flatten(1).argmax(1) == at).float().mean() < 0.5  # evidence for a class, not salience
    assert found.method == f"class, read-out R² = {report.readouts['output']['r2']:.2f}"
    assert found.status == ["ok"] * 60


def test_r2_is_of_the_samples_held_out_and_of_the_readout_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from squeezecam.fit import api, evidence

    given: list[Tensor] = []

    def remembered(squeeze: Squeeze, cache: object, held: Tensor, *, gated: bool) -> object:
        given.append(held)
        return evidence.read_out(squeeze, cache, held, gated=gated)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "read_out", remembered)
    x, _, _ = pictures(240)
    squeeze = squeezecam.attach(Deep().eval(), x[:2])
    report = squeeze.fit([x])
    held = given[0]
    assert len(held) == report.held_out
    said = squeeze.readouts["output"]["map"].logits(squeeze.model, squeeze.capture(x[held])[1]["map"].features)
    wanted = squeeze.model(x[held]).detach()
    r2 = 1 - (said - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert report.readouts["output"]["r2"] == pytest.approx(float(r2), abs=1e-4)


def test_default_is_the_class_map_of_a_readout_that_explains_enough() -> None:
    squeeze = fitted()
    x, _, _ = pictures(4, seed=1)
    assert squeeze.explain(x).method.startswith("class, read-out")
    assert squeeze.explain(x, target=1).method.startswith("class, read-out")
    several = squeeze.explain(x, target=[[0, 1]] * 4)
    assert several.heatmap.shape[:2] == (4, 2)
    assert not torch.equal(several.heatmap[:, 0], several.heatmap[:, 1])
    by_class = squeeze.explain(x, method="published", score="class", target=1)
    assert "read-out" in by_class.method
    assert squeeze.explain(x, method="contribution").method == "contribution"


def test_a_low_r2_is_a_doubt() -> None:
    squeeze = fitted()
    head = squeeze.readouts["output"]["map"]
    head.r2 = LOW_R2 - 0.1
    x, _, _ = pictures(2)
    assert all("R² 0.40" in line and "doubtful" in line for line in squeeze.explain(x, method="class").status)
    assert squeeze.explain(x, method="published").status == ["ok", "ok"]
    assert squeeze.explain(x).method.startswith("published")
    assert squeeze.explain(x, target=1).method.startswith("class")  # asked for a class, it is shown with the doubt


def test_gated_pictures_add_up_to_the_readouts_own_logit() -> None:
    """In gate mode evidence is that of the features in the path, squares included."""
    squeeze = fitted(apply="gate", signed=True)
    with torch.no_grad():
        squeeze.block().expand.weight.mul_(300)  # gates far from 0.5
    x, labels, _ = pictures(5, seed=2)
    found = squeeze.explain(x, method="class", target=labels)
    seen = squeeze.capture(x)[1]["map"]
    head = squeeze.readouts["output"]["map"]
    scaled = seen.features * (seen.gates / 0.5)[:, :, None, None]
    assert float((scaled - seen.features).detach().abs().max()) > 0.1
    wanted = head.logits(squeeze.model, scaled)[torch.arange(5), labels]
    total = found.raw.mean((1, 2)) + head.constant(squeeze.model, scaled, labels)
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-4)


def test_every_output_without_a_known_head_gets_one() -> None:
    squeeze = fitted(outputs=True)
    assert set(squeeze.readouts) == {"kind", "size"}
    x, _, at = pictures(30, seed=3)
    size = squeeze.explain(x, method="class", output="size")
    assert (size.raw.flatten(1).argmax(1) == at).float().mean() > 0.9
    assert squeeze.readouts["size"].first.bias.shape == (1,)


def test_a_known_head_gets_none() -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    x = torch.randn(40, 2, 8, 8)
    squeeze = squeezecam.attach(model, x[:2])
    report = squeeze.fit([x])
    assert report.readouts == {}
    assert squeeze.readouts == {}
    assert squeeze.explain(x[:2], method="class").method == "class"


def test_probabilities_are_read_out_as_logits() -> None:
    squeeze = fitted(softmax=True)
    head = squeeze.readouts["output"]["map"]
    assert head.link == "softmax"
    x, _, _ = pictures(40, seed=8)
    own = squeeze.model(x).detach()
    features = squeeze.capture(x)[1]["map"].features
    torch.testing.assert_close(head.logits(squeeze.model, features).softmax(1), own, atol=0.15, rtol=0)
    values, link = logits_of(torch.tensor([[0.2, 0.3], [0.5, 0.5]]))
    assert link == "identity"  # does not add up to 1
    assert values.max() == 0.5


def test_two_streams_share_one_readout_and_each_has_its_map() -> None:
    class Pair(nn.Module):
        """Products of what two pictures say: no formula, and both have a say."""

        def __init__(self) -> None:
            super().__init__()
            self.eyes, self.ears = (nn.Conv2d(4, 4, 1, bias=False) for _ in range(2))
            self.mix = nn.Linear(8, 3)
            with torch.no_grad():
                for conv in (self.eyes, self.ears):
                    conv.weight.copy_(torch.eye(4)[:, :, None, None])

        def forward(self, eyes: Tensor, ears: Tensor) -> Tensor:
            z = torch.cat([self.eyes(eyes).relu().mean((2, 3)), self.ears(ears).relu().mean((2, 3))], 1)
            return 3 * torch.tanh(self.mix(z))

    x = [torch.rand(200, 4, 5, 7), torch.rand(200, 4, 3, 4)]
    squeeze = squeezecam.attach(Pair().eval(), (x[0][:2], x[1][:2]))
    report = squeeze.fit([(a, b) for a, b in zip(x[0].split(50), x[1].split(50), strict=True)])
    assert report.readouts["output"]["r2"] > 0.9
    readout = squeeze.readouts["output"]
    assert list(readout) == ["eyes", "ears"]
    found = squeeze.explain((x[0][:6], x[1][:6]), method="class", target=2)
    assert "read-out" in found.method
    assert found.raw["eyes"].shape == (6, 5, 7)
    total = sum(found.raw[s].mean((1, 2)) for s in readout) + readout.first.bias[2]
    own = squeeze.model(x[0][:6], x[1][:6])[:, 2]
    torch.testing.assert_close(total, own.detach(), atol=0.1, rtol=0.1)  # one sum over both streams


@pytest.mark.parametrize("gates", ["clip", "frame"])
def test_scores_of_frames(gates: str) -> None:
    class Frames(nn.Module):
        """Scores for every frame of a clip (N, T, 1, H, W), by a head that is not linear."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU()), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
            return torch.tanh(self.fc(z)) * 2

    torch.manual_seed(1)
    x = torch.rand(60, 5, 1, 4, 6) * torch.rand(60, 5, 1, 1, 1) * 3
    squeeze = squeezecam.attach(Frames().eval(), x[:2], gates=gates)  # type: ignore[arg-type]
    report = squeeze.fit(list(x.split(20)))
    assert report.readouts["output"]["r2"] > 0.9
    found = squeeze.explain(x[:3], method="class", target=1)
    assert found.raw.shape == (3, 5, 4, 6)
    scores = squeeze.model(x[:3])[..., 1].detach()
    total = found.raw.mean((2, 3)) + squeeze.readouts["output"].first.bias[1]
    assert float((total - scores).abs().mean()) < 0.25 * float(scores.std())  # frame by frame


def test_trained_gates_in_the_path_are_part_of_what_is_read_out() -> None:
    x, y, _ = pictures(240)
    squeeze = squeezecam.attach(Deep().eval(), x[:2], apply="gate")
    report = squeeze.fit(list(zip(x.split(60), y.split(60), strict=True)), objective="task", epochs=30, lr=0.05)
    assert report.readouts["output"]["r2"] > 0.7
    test, _, _ = pictures(60, seed=4)
    seen = squeeze.capture(test)[1]["map"]
    scaled = seen.features * (seen.gates / 0.5)[:, :, None, None]
    said = squeeze.readouts["output"]["map"].logits(squeeze.model, scaled)
    own = squeeze(test).detach()
    r2 = 1 - (said - own).square().sum() / (own - own.mean(0)).square().sum()
    assert float(r2) > 0.7


class TestKept:
    def test_copy_pickle_and_dtype(self) -> None:
        squeeze = fitted(signed=True)
        x, _, _ = pictures(3, seed=1)
        wanted = squeeze.explain(x, method="class", target=0)
        for other in (copy.deepcopy(squeeze), pickle.loads(pickle.dumps(squeeze))):
            again = other.explain(x, method="class", target=0)
            assert torch.equal(again.heatmap, wanted.heatmap)
            assert again.method == wanted.method
        double = copy.deepcopy(squeeze).double()
        found = double.explain(x.double(), method="class", target=0)
        assert found.raw.dtype == torch.float64
        torch.testing.assert_close(found.raw.float(), wanted.raw, rtol=1e-3, atol=1e-4)
        moved = copy.deepcopy(squeeze).to("meta")
        assert all(buffer.device.type == "meta" for buffer in moved.readouts["output"].buffers())

    def test_a_checkpoint_is_the_same_with_and_without(self) -> None:
        x, y, _ = pictures(80)
        squeeze = squeezecam.attach(Deep().eval(), x[:2], apply="gate")
        names = set(squeeze.state_dict())
        squeeze.fit([(x, y)], objective="task", epochs=30, lr=0.05)
        assert squeeze.readouts
        assert set(squeeze.state_dict()) == names

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        for options in ({"outputs": True}, {"signed": True}, {"softmax": True}):
            squeeze = fitted(**options)
            file = tmp_path / "a.safetensors"
            squeeze.save(file)
            x, _, _ = pictures(3, seed=1)
            loaded = squeezecam.load(file, copy.deepcopy(squeeze.model), x[:2])
            assert set(loaded.readouts) == set(squeeze.readouts)
            for output, readout in squeeze.readouts.items():
                a, b = (s.explain(x, method="class", target=0, output=output) for s in (squeeze, loaded))
                assert torch.equal(a.heatmap, b.heatmap)
                assert a.method == b.method
                assert loaded.readouts[output].first.link == readout.first.link

    def test_an_older_file_has_none(self, tmp_path: Path) -> None:
        squeeze = fitted()
        x, _, _ = pictures(2)
        squeeze.save(tmp_path / "new.safetensors")
        _rewritten(tmp_path, lambda about, tensors: about.pop("readouts"))
        loaded = squeezecam.load(tmp_path / "old.safetensors", squeeze.model, x)
        assert loaded.readouts == {}
        assert loaded.fitted

    def test_damaged_files_are_refused(self, tmp_path: Path) -> None:
        squeeze = fitted()
        x, _, _ = pictures(2)
        squeeze.save(tmp_path / "new.safetensors")

        def cut(about: dict, tensors: dict[str, Tensor]) -> None:
            tensors["readouts.0.map.weight"] = tensors["readouts.0.map.weight"][:, :3].contiguous()

        changes = (cut, lambda about, t: t.pop("readouts.0.bias"), lambda about, t: about["readouts"][0].pop("pools"))
        for change in changes:
            _rewritten(tmp_path, change)
            with pytest.raises(AdapterError, match="read-out is damaged"):
                squeezecam.load(tmp_path / "old.safetensors", squeeze.model, x)
        _rewritten(tmp_path, lambda about, tensors: about["readouts"][0].update(output="unknown"))
        assert squeezecam.load(tmp_path / "old.safetensors", squeeze.model, x).readouts == {}


def _rewritten(folder: Path, change) -> None:
    with safe_open(str(folder / "new.safetensors"), "pt") as file:
        about = json.loads(file.metadata()["squeezecam"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    save_file(tensors, folder / "old.safetensors", {"squeezecam": json.dumps(about)})


@pytest.mark.parametrize("signed", [False, True])
def test_as_module_gives_the_same_map(signed: bool) -> None:
    squeeze = fitted(signed=signed)
    x, _, _ = pictures(4, seed=6)
    output, heatmap, gates = squeeze.as_module(method="class", target=2)(x)
    found = squeeze.explain(x, method="class", target=2)
    torch.testing.assert_close(heatmap, found.heatmap)
    torch.testing.assert_close(output, found.output)
    torch.testing.assert_close(gates, found.gates)
    with pytest.raises(InputError, match=r"0\.\.2"):
        squeeze.as_module(method="class", target=3)
    bare = squeezecam.attach(Deep(signed).eval(), x)
    with pytest.raises(InputError, match=r"squeeze\.fit"):
        bare.as_module(method="class")


@pytest.mark.parametrize("signed", [False, True])
def test_exported_with_a_dynamic_batch(signed: bool) -> None:
    squeeze = fitted(signed=signed)
    x, _, _ = pictures(5, seed=6)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(squeeze.as_module(method="class"), (x[:2],), dynamic_shapes=(({0: batch},),))
    found = squeeze.explain(x, method="class")
    torch.testing.assert_close(program.module()(x)[1], found.heatmap)


def test_a_readout_is_a_dict_of_streams() -> None:
    head = ReadoutHead("output", (), torch.randn(3, 4), torch.randn(3), 0.7)
    readout = Readout({"eyes": head})
    assert readout.get("eyes") is head
    assert readout.get("ears") is None
    assert (readout.output, readout.r2) == ("output", 0.7)


def read_out_peaks(build, shape: tuple[int, ...]) -> float:
    """Share of inputs whose map of a fitted read-out peaks at the planted cell, in the layout that was found."""
    from test_planted import peak, planted_input

    torch.manual_seed(0)
    model = Behind(build()).eval()
    x, _ = planted_input(shape, 240, 3)
    x = x * (0.2 + torch.rand(240, *[1] * len(shape)))
    squeeze = squeezecam.attach(model, x[:2])
    assert squeeze.head() is None
    squeeze.fit(list(x.split(40)))
    test, places = planted_input(shape, 20, 11)
    found = squeeze.explain(test, target=0)
    assert "read-out" in found.method
    return sum(peak(abs(m)) == place for m, place in zip(found.raw, places, strict=True)) / 20


class Behind(nn.Module):
    """A planted network with one more layer that is not linear, so that no formula fits."""

    def __init__(self, planted: nn.Module) -> None:
        super().__init__()
        self.planted = planted
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.planted(x)))


@pytest.mark.parametrize(
    "name",
    [
        "n c h w", "n h w c", "n (h w) c", "n (1+ h w) c", "n (h w + 2) c", "(h w) n c", "n c (h w)", "n l c",
        "n c t h w", "n (t h w) c", "(n t) c h w", "n (1+ h w t) c",
    ],
)  # fmt: skip
def test_the_readout_finds_the_planted_cell_in_every_layout(name: str) -> None:
    from test_planted import CASES

    assert read_out_peaks(*CASES[name]) >= 0.9


def test_gates_per_frame_and_one_score_for_the_clip() -> None:
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU())
            self.cells, self.fc = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            frames = self.body(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
            return self.fc(self.cells(frames)[0][:, -1])

    x = torch.rand(40, 4, 1, 5, 6) * torch.rand(40, 4, 1, 1, 1)
    squeeze = squeezecam.attach(Clips().eval(), x[:2], gates="frame")
    report = squeeze.fit(list(x.split(10)))
    assert report.mode == "maps"
    found = squeeze.explain(x[:2], target=1)
    assert found.gates.shape == (2, 4, 6)
    assert found.raw.shape == (2, 4, 5, 6)


def test_maps_are_kept_sample_by_sample_whatever_the_layout() -> None:
    """Sequence first, and a head that needs whole maps: batches of unequal size must not be mixed up."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.token = nn.Conv2d(2, 8, 2, 2), nn.Parameter(torch.randn(1, 1, 8))
            self.body, self.attention, self.fc = nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.body(self.patch(x).flatten(2).permute(2, 0, 1))
            query = self.token.expand(1, tokens.shape[1], 8)
            return self.fc(self.attention(query, tokens, tokens, need_weights=False)[0][0])

    x = torch.randn(30, 2, 6, 8)
    squeeze = squeezecam.attach(Sequence().eval(), x[:2])
    assert "n" in squeeze.places["map"].layout.axes[1].names
    squeeze.fit([x[:12], x[12:30]])
    cache = collected(squeeze, [x[:12], x[12:30]])
    assert cache.mode == "maps"
    order = torch.tensor([25, 3, 14])
    got = cache.head(squeeze, "output", order)
    torch.testing.assert_close(got, squeeze.model(x[order]).detach(), atol=2e-2, rtol=2e-2)  # kept in half precision


def collected(squeeze: Squeeze, batches: list[Tensor]) -> Cache:
    """What a fit would run on."""
    cache = collect(
        squeeze, batches, "output", inputs=None, labels=None, windows=0, seed=0, advance=lambda n: None,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert cache is not None
    return cache


def handed_on(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features as attention leaves them: of each class two channels stand out where the evidence is, with a plain mean
    of zero, and two tell everywhere alike that it was found, and stand out where something else is.
    """
    g = torch.Generator().manual_seed(seed)
    cells = HEIGHT * WIDTH
    x = 0.2 * torch.randn(count, CHANNELS, cells, generator=g)
    y = torch.randint(CLASSES, (count,), generator=g)
    at, aside = (torch.randint(cells, (count,), generator=g) for _ in range(2))
    strength = 1 + torch.rand(count, generator=g)
    for i in range(count):
        local, told = slice(4 * y[i], 4 * y[i] + 2), slice(4 * y[i] + 2, 4 * y[i] + 4)
        x[i, local, at[i]] += 1.5 * strength[i]
        x[i, local] -= 1.5 * strength[i] / cells
        x[i, told] += 3 * strength[i]
        for k in range(CLASSES):
            bold = 1.5 + float(torch.rand((), generator=g))
            x[i, 4 * k + 2 : 4 * k + 4, aside[i]] += bold
            x[i, 4 * k + 2 : 4 * k + 4] -= bold / cells
    return x.unflatten(2, (HEIGHT, WIDTH)), y, at


def test_maps_find_what_stands_out_and_not_what_is_told_everywhere() -> None:
    x, _, _ = handed_on(240, 0)
    squeeze = squeezecam.attach(Deep(signed=True).eval(), x[:2])
    assert squeeze.aggregate == "contrast"
    squeeze.fit(list(x.split(60)))
    strengths = contrasts(squeeze, collected(squeeze, [x]), "map", "output", "classification")
    assert strengths is not None
    for k in range(CLASSES):  # what the gates are ranked by: the two channels in which the class stands out
        assert set(strengths[k].topk(2).indices.tolist()) == {4 * k, 4 * k + 1}
    test, labels, at = handed_on(80, 5)
    assert (squeeze.model(test).argmax(1) == labels).float().mean() > 0.95
    for method in ("published", "class"):
        hit = squeeze.explain(test, method=method).raw.flatten(1).argmax(1) == at
        assert float(hit.float().mean()) > 0.9, method
    spread = test - test.mean((2, 3), keepdim=True)  # the features are these, but for an offset
    alone = spread.square().mean(1).flatten(1).argmax(1) == at
    assert float(alone.float().mean()) < 0.3  # without a choice of channels what is aside wins
