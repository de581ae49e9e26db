"""Models of a picture and something without a map beside it: a vector of figures, another pooled map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam.errors import FitError, InputError
from squeezecam.fit import labels
from squeezecam.fit.collecting import collect
from squeezecam.fit.report import gated_windows

C, M, K = 8, 3, 4


class Joined(nn.Module):
    """Pooled features and what is made of a vector, side by side before one linear layer."""

    def __init__(self, order: str = "after", link: str = "identity", pool: str = "mean") -> None:
        super().__init__()
        self.meta = nn.Linear(M, 5)
        self.image = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(C + 5, K)
        self.order, self.link, self.pool = order, link, pool

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        beside = self.meta(m).relu()
        u = self.image(x)
        pooled = u.mean((2, 3)) if self.pool == "mean" else u.amax((2, 3))
        y = self.fc(torch.cat([pooled, beside] if self.order == "after" else [beside, pooled], 1))
        return {"identity": y, "softmax": y.softmax(1), "sigmoid": y.sigmoid()}[self.link]


class Film(nn.Module):
    """The vector scales the pooled features: no formula from the map alone to the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU())
        self.meta = nn.Linear(M, C)
        self.fc = nn.Linear(C, K)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        return self.fc(self.image(x).mean((2, 3)) * (1 + self.meta(m).tanh()))


class TwoScales(nn.Module):
    """Two maps of one picture, each pooled, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, C, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(6 + C, K)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.fc(torch.cat([a.mean((2, 3)), self.b(a).mean((2, 3))], 1))


def given(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 16, 20, generator=generator, dtype=dtype)
    return x, 3 * torch.randn(count, M, generator=generator, dtype=dtype)


def batches(count: int = 5, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [given(size, seed) for seed in range(1, count + 1)]


def seeded(make: Any, *args: Any, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **options).eval()


@pytest.mark.parametrize("apply", ["observe", "gate"])
@pytest.mark.parametrize("order", ["after", "before"])
def test_map_and_constant_are_the_logit_and_the_constant_is_the_other_branch(order: str, apply: Any) -> None:
    model = seeded(Joined, order).double()
    squeeze = squeezecam.attach(model, given(2, dtype=torch.float64), apply=apply)
    for stream in squeeze.places:
        nn.init.normal_(squeeze.block(stream).expand.weight, generator=torch.Generator().manual_seed(1))
    x, m = given(6, 9, torch.float64)
    target = torch.tensor([0, 1, 2, 3, 2, 0])
    explanation = squeeze.explain((x, m), method="class", target=target)
    head, (_, seen) = squeeze.head(), squeeze.capture((x, m))
    assert head is not None
    capture = seen["x"]
    constant = head.constant(model, capture.features, target, capture.taken["output"])
    first = 0 if order == "after" else 5
    others = [j for j in range(C + 5) if not first <= j < first + C]
    with torch.no_grad():
        expected = model.meta(m).relu() @ model.fc.weight[:, others].T + model.fc.bias
    torch.testing.assert_close(constant, expected.gather(1, target[:, None])[:, 0], rtol=1e-12, atol=1e-12)
    logit = explanation.output.gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(explanation.raw.mean((1, 2)) + constant, logit, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.matrix(model), model.fc.weight[:, first : first + C])
    assert f"columns {first} to {first + C - 1} of linear 'fc.weight'" in repr(squeeze)


@pytest.mark.parametrize(("link", "pool"), [("softmax", "mean"), ("sigmoid", "mean"), ("identity", "max")])
def test_the_formula_gives_the_logits_on_fresh_input(link: str, pool: str) -> None:
    model = seeded(Joined, "before", link, pool)
    squeeze = squeezecam.attach(model, given(1))
    head = squeeze.head()
    assert head is not None
    assert (head.link, head.pool, head.columns) == (link, pool, (5, 5 + C))
    x, m = given(6, 9)
    output, seen = squeeze.capture((x, m))
    logits = head.logits(model, seen["x"].features, seen["x"].taken["output"])
    made = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid()}.get(link, logits)
    torch.testing.assert_close(made, output, rtol=1e-5, atol=1e-6)


def test_the_constant_is_not_guessed() -> None:
    model = seeded(Joined)
    squeeze = squeezecam.attach(model, given(2))
    head = squeeze.head()
    assert head is not None
    with pytest.raises(InputError, match="taken="):
        head.constant(model, squeeze.capture(given(2))[1]["x"].features, torch.tensor([0, 1]))


def test_another_pooling_of_the_same_map_is_no_constant() -> None:
    """Mean and maximum of one map, joined: the columns of the maximum depend on the map too."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU())
            self.fc = nn.Linear(2 * C, K)

        def forward(self, x: Tensor) -> Tensor:
            u = self.image(x)
            return self.fc(torch.cat([u.mean((2, 3)), u.amax((2, 3))], 1))

    assert squeezecam.attach(seeded(Both), given(2)[0]).head() is None
    first = squeezecam.attach(seeded(TwoScales), given(2)[0], at="a")
    assert first.head() is None  # the second scale is made of the first
    second = squeezecam.attach(seeded(TwoScales), given(2)[0], at="b").head()
    assert second is not None
    assert second.columns == (6, 6 + C)


class Planted(nn.Module):
    """Channel k of the map is the brightness of colour k; the vector can outvote the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4))
        self.fc = nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.image[0].weight.copy_(torch.eye(3)[:, :, None, None])
            self.fc.weight.copy_(torch.cat([4 * torch.eye(3) - 1, torch.eye(3)], 1))

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        return self.fc(torch.cat([self.image(x).mean((2, 3)), m.relu()], 1))


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with a patch of one colour on noise, vectors, and where the patches are."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.rand(count, 3, 32, 32, generator=generator)
    where = torch.randint(0, 4, (count, 2), generator=generator) * 8
    for i in range(count):
        colour, (top, left) = i % 3, where[i].tolist()
        x[i, colour, top : top + 8, left : left + 8] = 1.0
    return x, 0.05 * torch.rand(count, 3, generator=generator), where


@pytest.mark.parametrize("method", ["class", "focus", "published", "contribution"])
def test_maps_point_at_planted_evidence(method: str) -> None:
    squeeze = squeezecam.attach(Planted().eval(), planted(2, 0)[:2])
    squeeze.fit([planted(12, seed)[:2] for seed in range(1, 6)])
    x, m, where = planted(9, 99)
    heat = squeeze.explain((x, m), method=method).heatmap
    peak = heat.flatten(1).argmax(1)
    rows, columns = peak // 32, peak % 32
    inside = (rows >= where[:, 0]) & (rows < where[:, 0] + 8) & (columns >= where[:, 1]) & (columns < where[:, 1] + 8)
    assert bool(inside.all())


def test_refining_starts_from_the_columns_of_the_map() -> None:
    squeeze = squeezecam.attach(Planted().eval(), planted(2, 0)[:2])
    assert "refined" not in squeezecam.methods.usable(squeeze)
    squeeze.refine([planted(6, seed)[:2] for seed in range(1, 4)], epochs=1)
    explanation = squeeze.explain(planted(3, 9)[:2], method="refined")
    assert explanation.heatmap.shape == (3, 32, 32)
    assert explanation.method == "refined"


def gathered(squeeze: Any, data: Any, **options: Any) -> Any:
    settings = {"inputs": None, "labels": None, "windows": 2, "seed": 0, "advance": lambda _: None}
    return collect(squeeze, data, "output", device=torch.device("cpu"), **{**settings, **options})


@pytest.mark.parametrize(("make", "at"), [(Joined, None), (Film, None), (Joined, "image.0"), (Film, "image.0")])
def test_the_head_runs_with_each_samples_own_inputs(make: Any, at: Any) -> None:
    model = seeded(make)
    squeeze = squeezecam.attach(model, given(2), at=at)
    data = batches()
    cache = gathered(squeeze, data)
    index = torch.tensor([3, 40, 17, 59])
    x, m = (torch.cat(parts)[index] for parts in zip(*data, strict=True))
    with torch.no_grad():
        expected, foreign = model(x, m), model(x, m.flip(0))
        found = cache.head(squeeze, "output", index)
    close = 1e-5 if at is None else 5e-3  # whole maps are kept in half precision
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    assert float((foreign - expected).abs().max()) > 0.1


def test_windows_go_with_the_inputs_of_their_sample() -> None:
    model = seeded(Film)
    squeeze = squeezecam.attach(model, given(2))
    data = batches()
    cache = gathered(squeeze, data)
    m = torch.cat([one[1] for one in data])
    index = torch.tensor([50, 1])
    found = gated_windows(squeeze, cache, "output", index, 0.0)
    (vectors,) = cache.windows.values()
    with torch.no_grad():
        rows = [model.fc(vectors[d * 60 + index] * (1 + model.meta(m[index]).tanh())) for d in range(2)]
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-5, atol=1e-6)


def test_what_the_report_says_of_predictions_is_true_of_the_model() -> None:
    """The share of predictions that stay is that of the gated model on whole inputs, decided by the vector or not."""
    model = seeded(Film)
    squeeze = squeezecam.attach(model, given(2), apply="gate")
    data = batches(20)
    report = squeeze.fit(data, hold_out=0.5)
    assert report.mode == "vectors"
    x, m = (torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        same = squeeze(x, m).argmax(1) == model(x, m).argmax(1)
    assert report.unchanged == pytest.approx(float(same.float().mean()), abs=0.03)
    assert report.readouts["output"]["r2"] < 0.98  # what the vector does is not in the map, and not claimed
    explanation = squeeze.explain((x[:3], m[:3]), method="class")
    assert explanation.method.startswith("class, read-out R²")


def test_a_vector_that_is_read_as_numbers_is_held_fixed_too() -> None:
    """Python numbers are no part of the data flow: then all inputs but the picture are held."""

    class Numbers(Joined):
        def forward(self, x: Tensor, m: Tensor) -> Tensor:
            scale = torch.tensor([1.0 + abs(value) for value in m[:, 0].tolist()])
            return self.fc(torch.cat([self.image(x).mean((2, 3)) * scale[:, None], torch.zeros(len(x), 5)], 1))

    model = seeded(Numbers)
    squeeze = squeezecam.attach(model, given(2))
    assert squeeze.beside == {"output": []}
    data = batches()
    cache = gathered(squeeze, data)
    with torch.no_grad():
        torch.testing.assert_close(cache.head(squeeze, "output", torch.arange(12, 24)), model(*data[1]))


def test_a_second_scale_needs_the_picture_and_its_layers_stay() -> None:
    """``train='head'`` must not train what makes the cached map, although the picture reaches the head past it."""
    model = seeded(TwoScales)
    squeeze = squeezecam.attach(model, given(2)[0], at="b", apply="gate")
    assert squeeze.beside == {"output": [(0, 0)]}
    data = [(x, torch.arange(len(x)) % K) for x, _ in batches()]
    cache = gathered(squeeze, data)
    with torch.no_grad():
        torch.testing.assert_close(
            cache.head(squeeze, "output", torch.arange(12)), model(data[0][0]), rtol=1e-5, atol=1e-6
        )
    assert set(labels.head_parameters(squeeze, cache, "output")) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("train", ["block", "head", "all"])
@pytest.mark.parametrize("make", [Joined, Film])
def test_training_on_labels_works_with_other_inputs(make: Any, train: Any) -> None:
    model = seeded(make)
    squeeze = squeezecam.attach(model, given(2), apply="gate")
    data = [(x, m, (x.mean((1, 2, 3)) > 0).long()) for x, m in batches()]
    report = squeeze.fit(data, objective="task", train=train, epochs=2)
    assert report.accuracy_after is not None
    assert torch.isfinite(squeeze.explain(given(2)).heatmap).all()


class Outputs(nn.Module):
    """Three outputs: of the last map, of the last map and a vector, and of an earlier map."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Linear(M, C)
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, C, 3, 2, 1), nn.ReLU())
        self.fc, self.aux = nn.Linear(C, K), nn.Linear(6, K)

    def forward(self, x: Tensor, m: Tensor) -> dict[str, Tensor]:
        scale = self.meta(m).tanh()
        a = self.a(x)
        z = self.b(a).mean((2, 3))
        return {"output": self.fc(z), "scaled": self.fc(z * (1 + scale)), "early": self.aux(a.mean((2, 3)).square())}


def test_read_outs_of_other_outputs_stand_behind_the_gates_or_are_not_made() -> None:
    model = seeded(Outputs)
    squeeze = squeezecam.attach(model, given(2), apply="gate")
    assert squeeze.beside["scaled"] == [(0, 1)]
    assert squeeze.beside["early"] == [(0, 0)]
    data = [(x, m, torch.arange(len(x)) % K) for x, m in batches(20)]
    report = squeeze.fit(data, objective="task", epochs=2, output="output")
    assert list(report.readouts) == ["scaled"]
    assert any("no class read-out of 'early'" in note for note in report.notes)
    cache = gathered(squeeze, data)
    with torch.no_grad():
        found = cache.run(cache.raws(squeeze, torch.arange(12)), torch.arange(12))["scaled"]
        torch.testing.assert_close(found, model(*data[0][:2])["scaled"], rtol=1e-5, atol=1e-6)


def test_a_model_that_does_not_repeat_itself_is_said_to_be_one() -> None:
    class Noisy(Joined):
        def forward(self, x: Tensor, m: Tensor) -> Tensor:
            return super().forward(x, m) + torch.rand(len(x), K)

    squeeze = squeezecam.attach(seeded(Noisy), given(2))
    with pytest.raises(FitError, match="when it was run again on the same inputs"):
        squeeze.fit(batches())


def test_features_on_disk_hold_the_other_inputs(tmp_path: Path) -> None:
    model = seeded(Film)
    plain = squeezecam.attach(model, given(2))
    first = plain.fit(batches())
    kept = squeezecam.attach(model, given(2))
    assert kept.fit(batches(), cache=tmp_path / "c").unchanged == first.unchanged
    again = squeezecam.attach(model, given(2))
    again.fit(batches(), cache=tmp_path / "c")
    torch.testing.assert_close(again.block().expand.weight, plain.block().expand.weight)


def test_other_inputs_by_keyword_and_a_saved_fit(tmp_path: Path) -> None:
    model = seeded(Joined)
    example = dict(zip(("x", "m"), given(2), strict=True))
    squeeze = squeezecam.attach(model, example)
    squeeze.fit([dict(zip(("x", "m"), batch, strict=True)) for batch in batches()])
    squeeze.save(tmp_path / "m.squeeze.safetensors")
    back = squeezecam.load(tmp_path / "m.squeeze.safetensors", model, example)
    fresh = dict(zip(("x", "m"), given(3, 5), strict=True))
    for method in ("published", "class"):
        torch.testing.assert_close(
            back.explain(fresh, method=method).heatmap, squeeze.explain(fresh, method=method).heatmap
        )
    head = back.head()
    assert head is not None
    assert head.columns == (0, C)
    before = F.relu(model.meta(fresh["m"]))
    assert before.shape == (3, 5)


def test_a_layer_of_another_kind_in_the_place_of_the_joined_one_still_gives_the_map() -> None:
    class Wrapped(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight, self.bias)

    model, x, m = Joined().eval(), torch.randn(4, 3, 10, 12), torch.randn(4, M)
    squeeze = squeezecam.attach(model, (x, m))
    expected = squeeze.explain((x, m), method="class").raw
    model.fc = Wrapped(model.fc)  # type: ignore[assignment]
    assert torch.equal(squeeze.explain((x, m), method="class").raw, expected)
