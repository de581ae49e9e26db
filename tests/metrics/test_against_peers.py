"""The same figures from other people's libraries, where these are installed and define a metric the same way."""

import numpy as np
import pytest
import torch

from squeezecam.metrics import (
    average_drop,
    coherency,
    complexity,
    increase_in_confidence,
    linear_imputation,
    mask_inputs,
    masked_confidence,
    min_max,
    road_combined,
    sensitivity_max,
)


@pytest.fixture(scope="module")
def peer():
    guard = pytest.importorskip("squeezecam.models.torchvision_guard", reason="needs the guard for torchvision")
    guard.ensure_torchvision()
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    from pytorch_grad_cam.metrics import arcc, cam_mult_image, road
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    return {"arcc": arcc, "mult": cam_mult_image, "road": road, "target": ClassifierOutputSoftmaxTarget}


class TinyModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 2 * 16 * 16, generator=torch.Generator().manual_seed(5)) * 0.2)

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight.T


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    inputs, maps = torch.randn(6, 2, 16, 16, generator=generator), torch.randn(6, 16, 16, generator=generator)
    return TinyModel(), inputs, maps, torch.tensor([0, 1, 2, 0, 1, 2])


def test_drop_and_increase(peer, case):
    model, inputs, maps, target = case
    full, masked = masked_confidence(model, inputs, maps, target)
    arguments = (inputs, min_max(maps).numpy(), [peer["target"](int(t)) for t in target], model)
    # Theirs is the absolute drop: ours times the full confidence.
    np.testing.assert_allclose(
        (average_drop(full, masked) * full).numpy(), peer["mult"].DropInConfidence()(*arguments), atol=1e-6
    )
    np.testing.assert_array_equal(
        increase_in_confidence(full, masked).numpy(), peer["mult"].IncreaseInConfidence()(*arguments)
    )


def test_complexity_and_coherency(peer, case):
    _, inputs, maps, _ = case
    scaled = min_max(maps)
    np.testing.assert_allclose(complexity(maps).numpy(), peer["arcc"].Complexity()(scaled.numpy()), atol=1e-6)

    def explain(batch):
        return (batch.mean(dim=1) + 0.1).relu()

    theirs = peer["arcc"].Coherency()(
        inputs, scaled.numpy(), None, None, lambda input_tensor, targets: explain(input_tensor).numpy()
    )
    np.testing.assert_allclose(coherency(maps, explain(mask_inputs(inputs, maps))).numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_imputation(peer, case, share):
    _, inputs, maps, _ = case
    known = maps < maps.flatten(1).quantile(1 - share, dim=1)[:, None, None]
    imputer = peer["road"].NoisyLinearImputer(noise=0)
    theirs = torch.stack([imputer(picture, k.float()) for picture, k in zip(inputs, known, strict=True)])
    torch.testing.assert_close(linear_imputation(inputs, known), theirs, atol=2e-4, rtol=0)


def test_road_combined(peer, case, monkeypatch):
    model, inputs, maps, target = case
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # their noise cannot be seeded per call
    # 16 x 16 pixels and quarters: their percentile and our rank remove the same pixels.
    theirs = peer["road"].ROADCombined(percentiles=[25, 50, 75])(
        inputs, min_max(maps).numpy(), [peer["target"](int(t)) for t in target], model
    )
    ours = road_combined(model, inputs, maps, target, shares=(0.25, 0.5, 0.75), noise=0)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


def test_sensitivity():
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    inputs = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))

    def explain(batch):
        return (3 * batch[:, 0]).sin()

    def explain_tuple(batch):
        return (explain(batch[0] if isinstance(batch, tuple) else batch),)

    def make_perturb():
        generator = torch.Generator().manual_seed(9)

        def perturb(batch):
            batch = batch[0] if isinstance(batch, tuple) else batch
            return batch + 0.1 * torch.rand(batch.shape, generator=generator)

        return perturb

    theirs = captum.sensitivity_max(
        explain_tuple, inputs, perturb_func=make_perturb(), n_perturb_samples=5, max_examples_per_batch=4
    )
    ours = sensitivity_max(explain, inputs, samples=5, perturb=make_perturb())
    torch.testing.assert_close(ours, theirs)
