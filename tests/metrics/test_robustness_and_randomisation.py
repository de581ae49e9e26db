import pytest
import torch
from torch import nn

from squeezecam.errors import InputError
from squeezecam.metrics import model_randomisation, pearson, sensitivity_max, spearman, ssim
from squeezecam.metrics.correlation import average_ranks
from squeezecam.metrics.model_randomisation import reinitialise

NAN = float("nan")


def test_sensitivity_by_hand():
    inputs = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]])
    shifts = iter([0.1, -0.5, 0.2])

    def perturb(batch):
        return batch + next(shifts)

    def explain(batch):
        return batch[:, 0] * 2

    # Largest shift .5: the map changes by (1, 1), norm sqrt(2), over ||(6, 8)|| = 10. The zero map is not divided.
    value = sensitivity_max(explain, inputs, samples=3, perturb=perturb)
    assert value.tolist() == pytest.approx([2**0.5 / 10, 2**0.5])
    shifts = iter([0.1, -0.5, 0.2])
    assert sensitivity_max(explain, inputs, samples=3, perturb=perturb, relative=False)[0].item() == pytest.approx(
        2**0.5
    )


def test_sensitivity_of_constant_and_wild_methods_and_repeatability():
    inputs = torch.randn(3, 1, 4, 4)
    assert sensitivity_max(lambda x: torch.ones(len(x), 4, 4), inputs).tolist() == [0, 0, 0]
    calm, wild = (sensitivity_max(lambda x, k=k: (k * x[:, 0]).sin(), inputs) for k in (1, 100))
    assert (wild > 5 * calm).all()
    torch.testing.assert_close(sensitivity_max(lambda x: x[:, 0].sin(), inputs[1:2])[0], calm[1])
    # Noise is within the radius: |2 e| <= 2 r in each of 16 places.
    plain = sensitivity_max(lambda x: 2 * x[:, 0], inputs, radius=0.1, relative=False, samples=50)
    assert (plain <= 2 * 0.1 * 4).all()
    assert (plain > 0.1 * 4).all()


def test_the_noise_goes_up_and_down_as_far_as_the_radius():
    seen = []

    def explain(batch):
        seen.append(batch)
        return torch.ones(len(batch), 20, 20)

    sensitivity_max(explain, torch.zeros(1, 1, 20, 20), radius=0.5)
    noise = torch.cat(seen[1:])
    assert len(noise) == 10
    assert noise.abs().max() <= 0.5
    assert noise.max() > 0.49
    assert noise.min() < -0.49
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


def test_sensitivity_works_for_gradient_methods_and_passes_nan():
    inputs = torch.ones(2, 1, 3, 3)

    def gradients(batch):
        batch = batch.clone().requires_grad_()
        (batch**2).sum().backward()
        return batch.grad[:, 0]

    assert (sensitivity_max(gradients, inputs) > 0).all()
    value = sensitivity_max(lambda x: torch.stack([x[0, 0], x[1, 0] * NAN]), inputs)
    assert value.isnan().tolist() == [False, True]
    with pytest.raises(InputError, match="samples is 0"):
        sensitivity_max(gradients, inputs, samples=0)
    with pytest.raises(InputError, match=r"\(1, 3\)"):
        sensitivity_max(lambda x: torch.ones(1, 3), inputs)


def test_ranks_and_correlations_by_hand():
    values = torch.tensor([[10.0, 20.0, 20.0, 5.0]])
    assert average_ranks(values).tolist() == [[2, 3.5, 3.5, 1]]
    a, b = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 3.0, 2.0, 4.0]])
    # No ties: 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 6 * 2 / 60 = .8
    assert spearman(a, b).item() == pytest.approx(0.8)
    assert spearman(a, a.exp()).item() == pytest.approx(1)
    assert spearman(a, -a).item() == pytest.approx(-1)
    # Deviations (-1.5, -.5, .5, 1.5) and (-.75, -.75, -.75, 2.25): 4.5 / sqrt(5 * 6.75)
    assert pearson(a, torch.tensor([[0.0, 0.0, 0.0, 3.0]])).item() == pytest.approx(4.5 / (5 * 6.75) ** 0.5)
    assert pearson(a * 1e-30, b * 1e-30).item() == pytest.approx(0.8)
    for undefined in (torch.ones(1, 4), torch.tensor([[1.0, NAN, 2.0, 3.0]])):
        assert spearman(a, undefined).isnan().item()
        assert pearson(a, undefined).isnan().item()


def test_spearman_agrees_with_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 6, (5, 40), generator=generator), torch.randint(0, 9, (5, 40), generator=generator)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman(a.float(), b.float()).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_by_hand():
    a = torch.rand(2, 16, 16)
    torch.testing.assert_close(ssim(a, 3 * a - 1), torch.ones(2))
    # One window of 1 pixel: no variance, so each place gives (2 a b + c1) / (a^2 + b^2 + c1), with c1 = 1e-4.
    # Maps (0, 1) and (1, 0): both places c1 / (1 + c1).
    first, second = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert ssim(first, second).item() == pytest.approx(1e-4 / (1 + 1e-4))
    assert ssim(a, 1 - a).max() < 0.2
    assert ssim(a * NAN, a).isnan().all()


def test_ssim_of_two_maps_that_share_something():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(13.0), indexing="ij")
    first = (y * x) % 7
    second = first + 2 * ((2 * y + x) % 5)
    # The mean over 2 x 3 windows of the formula of Wang et al., written out with sums over 11 x 11 pixels in float64.
    assert ssim(first[None], second[None]).item() == pytest.approx(0.5110990, abs=1e-5)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    ).eval()


def test_randomisation_tells_a_faithful_map_from_an_edge_detector():
    model, pictures = make_model(), torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))

    def class_map(m):
        features = m[2](m[1](m[0](pictures)))
        return (features * m[4].weight[0].view(8, 6, 6)).sum(dim=1).detach()

    before = {name: value.clone() for name, value in model.state_dict().items()}
    faithful = model_randomisation(class_map, model, ["4", "0"], ssim=True)
    assert faithful.names == ("4", "0")
    assert faithful.spearman.shape == faithful.ssim.shape == (2, 2)
    assert faithful.spearman.abs().max() < 0.7
    unfaithful = model_randomisation(lambda m: pictures[:, 0], model, ["4", "0"])
    assert unfaithful.spearman.tolist() == [[1, 1], [1, 1]]
    assert unfaithful.ssim is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_cascade_adds_up_and_independent_does_not():
    model, seen = make_model(), []

    def explain(m):
        seen.append([not torch.equal(m[i].weight, model[i].weight) for i in (4, 0)])
        return torch.rand(1, 3, 3)

    model_randomisation(explain, model, ["4", "0"])
    model_randomisation(explain, model, ["4", "0"], cascade=False)
    assert seen == [[False, False], [True, False], [True, True], [False, False], [True, False], [False, True]]


def test_randomisation_is_seeded_and_reaches_loose_parameters():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.arange(9.0).view(1, 3, 3))

    model = nn.Sequential(Scale())
    state = torch.get_rng_state()
    first, second, other = (
        model_randomisation(lambda m: m[0].scale, model, ["0"], seed=seed).spearman for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.item() < 1
    assert torch.equal(torch.get_rng_state(), state)


def test_loose_parameters_are_drawn_around_their_own_mean():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([4.0, 6.0]).repeat(500).view(1, 10, 100))

    seen = []

    def explain(model):
        seen.append(model[0].scale.detach().clone())
        return seen[-1]

    model_randomisation(explain, nn.Sequential(Scale()), ["0"])
    # Mean 5, standard deviation 1; the mean of 1000 draws is within .03 of it, mostly.
    assert not torch.equal(seen[1], seen[0])
    assert seen[1].mean().item() == pytest.approx(5, abs=0.15)
    assert seen[1].std().item() == pytest.approx(1, abs=0.1)


def test_randomisation_errors_help():
    model = make_model()
    with pytest.raises(InputError, match="'features'"):
        model_randomisation(lambda m: torch.rand(1, 3, 3), model, ["features"])
    with pytest.raises(InputError, match=r"ReLU.*no parameters"):
        model_randomisation(lambda m: torch.rand(1, 3, 3), model, ["2"])
    with pytest.raises(InputError, match="list of module names"):
        model_randomisation(lambda m: torch.rand(1, 3, 3), model, "4")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_randomisation_reaches_weights_that_are_made_of_others_and_what_a_reset_leaves_out():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.scale = nn.Parameter(torch.tensor([1.0, 5.0, 9.0]))

        def forward(self, x):
            return super().forward(x) * self.scale

    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    normed = torch.nn.utils.weight_norm(nn.Linear(4, 3, bias=False))
    spectral = torch.nn.utils.spectral_norm(nn.Linear(4, 3, bias=False)).eval()
    for module in (normed, spectral):
        before = module(x)
        reinitialise(module, 0)
        assert float((module(x) - before).detach().abs().max()) > 0.05
    scaled = Scaled()
    reinitialise(scaled, 0)
    assert not torch.equal(scaled.scale, torch.tensor([1.0, 5.0, 9.0]))
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.fill_(7.0)
    reinitialise(norm, 0)
    assert torch.equal(norm.weight, torch.ones(3))
