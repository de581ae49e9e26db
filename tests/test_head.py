"""Classification layers that are written down, and the read-out for those that are not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam import readout
from squeezecam.errors import FitError, InputError
from squeezecam.head import Head
from squeezecam.ridge import left_out

C, K = 6, 4


class Net(nn.Module):
    """A map with C channels, a pooling, an optional norm, a linear or convolutional classifier, a link."""

    def __init__(
        self, pool: str = "mean", norm: bool = False, conv: str = "", link: str = "identity", bias: bool = True
    ) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, C, 3, 2, 1)
        self.pool, self.conv, self.link = pool, conv, link
        self.norm = nn.LayerNorm(C) if norm else nn.Identity()
        self.fc = nn.Conv2d(C, K, 1, bias=bias) if conv else nn.Linear(C, K, bias=bias)
        if norm:
            nn.init.normal_(self.norm.weight, 1, 0.3)
            nn.init.normal_(self.norm.bias, 0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if self.pool == "relu-mean":
            y = y.relu()
        if self.conv:
            y = self.fc(y)
            y = y.relu() if self.conv == "relu" else y
            y = y.amax((2, 3)) if self.pool == "max" else y.mean((2, 3))
        else:
            y = y.amax((2, 3)) if self.pool == "max" else y.mean((2, 3))
            y = self.fc(self.norm(y))
        return {"identity": y, "softmax": y.softmax(1), "log-softmax": y.log_softmax(1), "sigmoid": y.sigmoid()}[
            self.link
        ]


def head_of(model: nn.Module, seed: int = 0) -> tuple[Head, Tensor, Tensor]:
    """Head, features and output on fresh input."""
    generator = torch.Generator().manual_seed(seed)
    squeeze = squeezecam.attach(model.eval(), torch.randn(3, 3, 10, 14, generator=generator))
    head = squeeze.head()
    assert head is not None
    x = torch.randn(5, 3, 10, 14, generator=generator)
    with torch.no_grad():
        output, seen = squeeze.capture(x)
    return head, seen["map"].features, output


VARIANTS = [
    ({}, "linear", "mean"),
    ({"bias": False}, "linear", "mean"),
    ({"pool": "relu-mean"}, "linear", "relu-mean"),
    ({"pool": "max"}, "linear", "max"),
    ({"norm": True}, "norm-linear", "mean"),
    ({"conv": "none"}, "conv", "mean"),
    ({"conv": "relu"}, "conv", "mean"),
    ({"link": "softmax"}, "linear", "mean"),
    ({"link": "sigmoid", "norm": True}, "norm-linear", "mean"),
    ({"link": "log-softmax", "pool": "max"}, "linear", "max"),
]


@pytest.mark.parametrize(("options", "kind", "pool"), VARIANTS)
def test_formula_gives_the_output_on_fresh_input(options: dict, kind: str, pool: str) -> None:
    model = Net(**options)
    head, features, output = head_of(model)
    assert (head.kind, head.pool) == (kind, pool)
    logits = head.logits(model, features)
    link = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "log-softmax": logits.log_softmax(1)}
    torch.testing.assert_close(link.get(options.get("link", "identity"), logits), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "kind", "pool"), [v for v in VARIANTS if v[2] != "max"])
def test_class_map_adds_up_to_the_logit(options: dict, kind: str, pool: str) -> None:
    """Completeness: the mean of the map and the constant are the logit."""
    model = Net(**options).double()
    squeeze = squeezecam.attach(model.eval(), torch.randn(2, 3, 10, 14, dtype=torch.float64))
    head = squeeze.head()
    assert head is not None
    assert head.exact
    features = squeeze.capture(torch.randn(5, 3, 10, 14, dtype=torch.float64))[1]["map"].features
    target = torch.tensor([0, 1, 2, 3, 0])
    logits = head.logits(model, features)[torch.arange(5), target]
    total = head.class_map(model, features, target).mean((1, 2)) + head.constant(model, features, target)
    torch.testing.assert_close(total, logits, rtol=1e-9, atol=1e-9)
    by_channel = head.channel_evidence(model, features, target).sum(1)
    constant = head.constant(model, features, target)
    if kind == "conv":  # the map holds the bias, which passes a ReLU with the evidence
        shown = head.class_map(model, features, target) > 0 if options["conv"] == "relu" else torch.ones(5, 1, 1)
        constant = model.fc.bias[target] * shown.double().mean((1, 2))
    torch.testing.assert_close(by_channel + constant, logits, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("conv", ["", "plain"])
@pytest.mark.parametrize("old", [False, True])
def test_of_weight_norm_the_weight_is_read_not_its_direction(conv: str, old: bool) -> None:
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    model = Net(conv=conv).eval()
    norm(model.fc)
    x = torch.randn(3, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    squeezes = [squeezecam.attach(model, x)]  # fresh: the direction is the weight
    scale = model.fc.weight_g if old else model.fc.parametrizations.weight.original0
    with torch.no_grad():
        scale.mul_(torch.arange(1.0, K + 1).view(-1, *[1] * (scale.ndim - 1)))
    for squeeze in [*squeezes, squeezecam.attach(model, x)]:
        found = squeeze.explain(x, method="class", target=2)
        logits = found.raw.flatten(1).mean(1) + (0 if conv else model.fc.bias[2])
        assert torch.allclose(logits, model(x)[:, 2], atol=1e-5)
        assert all("does not do here what was verified" not in status for status in found.status)


def test_training_is_followed() -> None:
    model = Net()
    head, features, _ = head_of(model)
    with torch.no_grad():
        model.fc.weight.mul_(3)
    torch.testing.assert_close(head.matrix(model), model.fc.weight)
    torch.testing.assert_close(head.logits(model, features), model.fc(features.mean((2, 3))))


class Necked(nn.Module):
    """Between pooling and layer something that does nothing while it is fresh."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.features, self.kind = nn.Conv2d(3, C, 3, 2, 1), kind
        self.norm, self.fc = nn.BatchNorm1d(C), nn.Linear(C, K)
        self.power = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x).relu()
        if self.kind == "generalised mean":
            y = y.clamp_min(1e-6).pow(self.power).mean((2, 3)).pow(1 / self.power)
        else:
            y = y.mean((2, 3))
        y = self.fc(self.norm(y) if self.kind == "norm" else y)
        return y.softmax(1) if self.kind == "softmax" else y

    def trained(self) -> None:
        with torch.no_grad():
            self.norm.running_var.fill_(9.0)
            self.power.fill_(3.0)
            self.fc.weight.mul_(2)


@pytest.mark.parametrize(
    ("kind", "strays"), [("norm", True), ("generalised mean", True), ("plain", False), ("softmax", False)]
)
@pytest.mark.parametrize("apply", ["observe", "gate"])
def test_a_formula_that_no_longer_holds_is_a_doubt(kind: str, strays: bool, apply: str) -> None:
    model, x = Necked(kind).eval(), torch.randn(4, 3, 10, 14)
    squeeze = squeezecam.attach(model, x, apply=apply)  # type: ignore[arg-type]
    with torch.no_grad():
        squeeze.block().expand.weight.normal_()
    said = "does not do here what was verified"
    for method in ("class", "focus"):
        assert not any(said in line for line in squeeze.explain(x, method=method).status)
        assert not any(said in line for line in squeeze.explain(x * 100, method=method, target=[[0, 1]] * 4).status)
    model.trained()
    for method in ("class", "focus"):
        assert all((said in line) == strays for line in squeeze.explain(x, method=method).status)
    assert not any(said in line for line in squeeze.explain(x, method="published").status)


@pytest.mark.parametrize(("options", "kind", "pool"), VARIANTS)
def test_a_formula_that_holds_is_no_doubt(options: dict, kind: str, pool: str) -> None:
    torch.manual_seed(5)
    model = Net(**options).eval()
    squeeze = squeezecam.attach(model, torch.randn(3, 3, 10, 14))
    for scale in (0.1, 1.0, 30.0):
        x = scale * torch.randn(4, 3, 10, 14)
        for target in (None, 1, [[0, 3]] * 4):
            assert not any(
                "does not do here" in line for line in squeeze.explain(x, method="class", target=target).status
            )
    model.register_forward_hook(lambda module, args, output: 2 * output + 1)
    assert all("does not do here" in line for line in squeeze.explain(torch.randn(4, 3, 10, 14), method="class").status)


def test_what_large_parts_of_both_signs_leave_is_no_doubt() -> None:
    class Balanced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU()), nn.Linear(64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).mean((2, 3)))

    torch.manual_seed(0)
    model, x = Balanced().eval(), torch.randn(400, 3, 12, 12)
    with torch.no_grad():
        model.fc.bias.sub_(model(x).median())  # half of the values on either side of 0, some very near
    for precision in (torch.float32, torch.bfloat16):
        squeeze = squeezecam.attach(model.to(precision), x[:8].to(precision), task="binary")
        status = squeeze.explain(x.to(precision), method="class").status
        assert not any("does not do here" in line for line in status)
        model.float()


def test_a_relu_before_max_pooling_is_seen() -> None:
    class Peaked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = nn.Conv2d(3, C, 3, 2, 1), nn.Linear(C, K)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(x).relu().amax((2, 3)))

    squeeze = squeezecam.attach(Peaked().eval(), torch.randn(2, 3, 16, 16))
    head = squeeze.head()
    assert head is not None
    assert (head.pool, head.exact) == ("relu-max", False)
    x = torch.randn(64, 3, 16, 16) * torch.linspace(0, 1, 64).view(-1, 1, 1, 1)
    assert not any("does not do here" in line for line in squeeze.explain(x, method="class").status)


def test_a_layer_that_is_gone_is_told() -> None:
    model, x = Necked("plain").eval(), torch.randn(4, 3, 10, 14)
    squeeze = squeezecam.attach(model, x)
    model.fc = nn.Sequential(nn.Linear(C, K))  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"no 'fc.weight' any more.*attach again"):
        squeeze.explain(x, method="class")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("example", [torch.zeros(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.5)])
def test_a_picture_without_anything_in_it_verifies_no_wrong_formula(bias: bool, example: Tensor) -> None:
    class Deep(nn.Module):
        def __init__(self, pool: str, hidden: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.features, self.pool = nn.Sequential(nn.Conv2d(3, C, 3, 2, bias=bias), nn.ReLU()), pool
            self.fc = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, K)) if hidden else nn.Linear(C, K)

        def forward(self, x: Tensor) -> Tensor:
            y = self.features(x)
            return self.fc(y.mean((2, 3)) if self.pool == "mean" else y.amax((2, 3)))

    for pool in ("mean", "max"):
        assert squeezecam.attach(Deep(pool, True).eval(), example).head() is None
        head = squeezecam.attach(Deep(pool, False).eval(), example).head()
        assert head is not None
        assert head.pool == pool


def test_a_bias_does_not_hide_a_wrong_formula() -> None:
    """Two thousand times the evidence in the bias: the formula is judged by what depends on the features."""
    model = Net(pool="max")
    with torch.no_grad():
        model.fc.bias.fill_(2000.0)
    head, _, _ = head_of(model)
    assert head.pool == "max"


def test_a_head_of_zeros_proves_nothing() -> None:
    model = Net(pool="max")
    nn.init.zeros_(model.fc.weight)
    assert squeezecam.attach(model.eval(), torch.randn(2, 3, 10, 14)).head() is None


def test_a_deep_head_is_not_claimed() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, C, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, C), nn.ReLU(), nn.Linear(C, K)
    )
    assert squeezecam.attach(model.eval(), torch.randn(2, 3, 8, 8)).head() is None


# --- the read-out ---------------------------------------------------------------------------------------


def planted_regression(samples: int, noise: float = 0.0, channels: int = C) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(samples, channels, generator=generator) * torch.logspace(-2, 2, channels) + 3
    weight, bias = torch.randn(K, channels, generator=generator), torch.randn(K, generator=generator)
    return z, z @ weight.t() + bias + noise * torch.randn(samples, K, generator=generator), weight, bias


def test_a_linear_head_is_recovered() -> None:
    z, logits, weight, bias = planted_regression(200)
    found, offset, r2 = readout.fit_readout(z, logits, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, weight, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found @ z.t() + offset[:, None], logits.t(), rtol=1e-3, atol=1e-2 * float(logits.std()))
    assert bias.shape == offset.shape
    assert r2 > 0.999


def test_fewer_samples_than_channels() -> None:
    z, logits, _, _ = planted_regression(30, channels=100)
    weight, bias, r2 = readout.fit_readout(z, logits)
    assert weight.shape == (K, 100)
    assert bias.isfinite().all()
    assert r2 < 0.9  # 24 samples cannot tell 100 channels apart, and R2 on held-out data says so


def test_r2_is_about_data_held_out() -> None:
    """Logits that have nothing to do with the vectors: an honest R2 is at most about zero."""
    generator = torch.Generator().manual_seed(0)
    z, logits = torch.randn(60, 40, generator=generator), torch.randn(60, K, generator=generator)
    assert readout.fit_readout(z, logits, generator)[2] < 0.1


def test_leave_one_out_in_closed_form_is_leaving_one_out() -> None:
    z, logits, _, _ = planted_regression(12, noise=5.0)
    z, logits = z.double(), logits.double()
    centre, spread = z.mean(0), z.std(0, correction=0)
    a = (z - centre) / spread
    left, sizes, _ = torch.linalg.svd(a, full_matrices=False)
    penalty = 2.0
    closed = left_out(left, sizes, left.t() @ (logits - logits.mean(0)), logits - logits.mean(0), penalty)
    errors = []
    for i in range(len(a)):  # the intercept is one more column, without a penalty
        keep = [j for j in range(len(a)) if j != i]
        x = torch.cat([a, torch.ones(len(a), 1).double()], 1)
        ridge = penalty * torch.eye(C + 1).double()
        ridge[-1, -1] = 0
        w = torch.linalg.solve(x[keep].t() @ x[keep] + ridge, x[keep].t() @ logits[keep])
        errors.append((x[i] @ w - logits[i]).square())
    assert closed == pytest.approx(float(torch.stack(errors).mean()), rel=1e-9)


def test_constant_logits_explain_nothing() -> None:
    weight, _, r2 = readout.fit_readout(torch.randn(20, C), torch.ones(20, K))
    assert r2 == 0.0
    assert float(weight.abs().max()) < 1e-6


def test_samples_that_are_not_finite_are_left_out() -> None:
    z, logits, _, _ = planted_regression(100)
    z[3] = float("nan")
    logits[5] = float("inf")
    assert readout.fit_readout(z, logits)[2] > 0.99


def test_too_few_samples_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(FitError, match="at least 8"):
        readout.fit_readout(torch.randn(7, C), torch.randn(7, K))
    with pytest.raises(InputError, match=r"\(9, 6\) and \(8, 4\)"):
        readout.fit_readout(torch.randn(9, C), torch.randn(8, K))


@pytest.mark.parametrize("pool", readout.POOLS)
def test_readout_head_adds_up(pool: readout.Pool) -> None:
    width = C if pool == "mean" else 2 * C
    head = readout.ReadoutHead("output", (), torch.randn(K, width), torch.randn(K), 0.9, pool)
    features, target = torch.randn(3, C, 4, 5), torch.tensor([2, 0, 3])
    logits = head.logits(head, features)[torch.arange(3), target]
    total = head.class_map(head, features, target).mean((1, 2)) + head.constant(head, features, target)
    torch.testing.assert_close(total, logits, rtol=1e-4, atol=1e-5)
    evidence = head.channel_evidence(head, features, target).sum(1) + head.constant(head, features, target)
    torch.testing.assert_close(evidence, logits, rtol=1e-4, atol=1e-5)


def test_readout_head_moves_with_the_module_and_is_no_checkpoint() -> None:
    head = readout.ReadoutHead("output", (), torch.randn(K, C), torch.randn(K), 0.4)
    assert {name for name, _ in head.named_buffers()} == {"weight", "bias"}
    assert not head.state_dict()  # a checkpoint of the blocks fits with a read-out and without
    assert not list(head.parameters())
    assert "0.40" in head.describe()
    assert head.doubt() is not None
    assert readout.ReadoutHead("output", (), torch.randn(K, C), torch.randn(K), 0.9).doubt() is None


def test_readout_finds_the_planted_cell_behind_a_nonlinear_head() -> None:
    """Tokens on a large common offset, read by a head that is not linear: the class map of the read-out peaks at the
    evidence.
    """
    generator = torch.Generator().manual_seed(4)
    samples, side = 300, 6
    offset, answers = 5 * torch.randn(C, generator=generator), torch.randn(K, C, generator=generator)
    features = offset.view(1, C, 1, 1) + 0.3 * torch.randn(samples, C, side, side, generator=generator)
    target = torch.randint(0, K, (samples,), generator=generator)
    where = torch.randint(0, side * side, (samples,), generator=generator)
    flat = features.flatten(2)
    flat[torch.arange(samples), :, where] += 3 * answers[target]
    logits = torch.tanh(F.linear(features.mean((2, 3)) - offset, answers) * 4)
    for pool in readout.POOLS:
        squeezed = readout.squeeze_features(features, pool)
        weight, bias, r2 = readout.fit_readout(squeezed, logits, generator)
        head = readout.ReadoutHead("output", (), weight, bias, r2, pool)
        peaks = head.class_map(head, features, target).flatten(1).argmax(1)
        assert r2 > 0.5, pool
        hit = float((peaks == where).float().mean())  # chance is 1 / 36; a square does not know the class's sign
        assert hit > {"mean": 0.9, "contrast": 0.6}[pool], pool
