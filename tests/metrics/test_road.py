import numpy as np
import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.metrics import linear_imputation, road, road_combined


def dense_imputation(picture, known):
    """The same system, written down entry by entry and solved densely in float64."""
    channels, height, width = picture.shape
    matrix = np.zeros((height * width, height * width))
    right = np.zeros((height * width, channels))
    for y in range(height):
        for x in range(width):
            row = y * width + x
            if known[y, x]:
                matrix[row, row] = 1
                right[row] = picture[:, y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    weight = 1 / 12 if dy and dx else 1 / 6
                    matrix[row, row] += weight
                    matrix[row, (y + dy) * width + x + dx] -= weight
    return np.linalg.solve(matrix, right).T.reshape(channels, height, width)


def mean_model(inputs):
    mean = inputs.flatten(1).mean(dim=1)
    return torch.stack([mean, 1 - mean], dim=1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_agrees_with_a_dense_solve(share):
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(3, 2, 11, 8, generator=generator)
    known = torch.rand(3, 11, 8, generator=generator) >= share
    known[:, 0, 0] = True
    exact = np.stack([dense_imputation(p.double().numpy(), k.numpy()) for p, k in zip(pictures, known, strict=True)])
    fine = linear_imputation(pictures.double(), known, tolerance=1e-12)
    np.testing.assert_allclose(fine.numpy(), exact, atol=1e-9)
    usual = linear_imputation(pictures, known)
    assert usual.dtype == torch.float32
    np.testing.assert_allclose(usual.numpy(), exact, atol=2e-4)
    assert torch.equal(usual.movedim(1, -1)[known], pictures.movedim(1, -1)[known])


def test_one_pixel_by_hand():
    picture = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 99.0, 6.0], [7.0, 8.0, 9.0]]]])
    known = torch.ones(1, 3, 3, dtype=torch.bool)
    known[0, 1, 1] = False
    # (2 + 4 + 6 + 8) / 6 + (1 + 3 + 7 + 9) / 12 = 20 / 6 + 20 / 12 = 5
    assert linear_imputation(picture, known)[0, 0, 1, 1].item() == pytest.approx(5, abs=1e-4)
    # A corner has 2 direct and 1 diagonal neighbour: (2/6 + 4/6 + 99/12) / (5/12) = 9.25 * 12 / 5 = 22.2
    known[0, 1, 1], known[0, 0, 0] = True, False
    assert linear_imputation(picture, known)[0, 0, 0, 0].item() == pytest.approx(22.2, abs=1e-4)


def test_imputation_of_nothing_of_everything_and_of_ramps():
    picture = torch.randn(1, 3, 6, 6)
    assert torch.equal(linear_imputation(picture, torch.ones(1, 6, 6, dtype=torch.bool)), picture)
    filled = linear_imputation(picture, torch.zeros(1, 6, 6, dtype=torch.bool))
    torch.testing.assert_close(filled, picture.mean(dim=(2, 3), keepdim=True).expand_as(picture))
    assert torch.equal(
        linear_imputation(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.bool)), torch.ones(1, 1, 1, 1)
    )
    # A linear ramp is harmonic: a hole in it is filled without a trace.
    ramp = torch.arange(9.0).expand(1, 1, 9, 9).clone()
    known = torch.ones(1, 9, 9, dtype=torch.bool)
    known[0, 2:6, 3:7] = False
    torch.testing.assert_close(linear_imputation(ramp, known), ramp, atol=1e-3, rtol=0)


def test_imputation_does_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    pictures, known = torch.randn(3, 2, 12, 12, generator=generator), torch.rand(3, 12, 12, generator=generator) > 0.6
    known[0] = True
    whole = linear_imputation(pictures, known)
    for i in range(3):
        torch.testing.assert_close(linear_imputation(pictures[i : i + 1], known[i : i + 1])[0], whole[i])


def test_road_by_hand():
    picture = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 9.0, 6.0], [7.0, 8.0, 9.0]]]]) / 10
    heatmap = torch.tensor([[[7.0, 6.0, 5.0], [4.0, 8.0, 3.0], [2.0, 1.0, 0.0]]])
    # 1 of 9 pixels goes: the centre .9 becomes .5, so the sum 4.9 becomes 4.5 and the mean .5.
    result = road(mean_model, picture, heatmap, torch.tensor([0]), shares=(1 / 9,), noise=0, outputs="probabilities")
    assert result.score.item() == pytest.approx(0.5, abs=1e-5)
    # Least relevant first: the corner goes, .9:
    # (.8/6 + .6/6 + .9/12) / (5/12) = .74, so the mean is (4.9 - .9 + .74) / 9.
    result = road(
        mean_model, picture, heatmap, torch.tensor([0]), shares=(1 / 9,), noise=0, order="lerf", outputs="probabilities"
    )
    assert result.score.item() == pytest.approx(4.74 / 9, abs=1e-5)
    combined = road_combined(
        mean_model, picture, heatmap, torch.tensor([0]), shares=(1 / 9,), noise=0, outputs="probabilities"
    )
    assert combined.item() == pytest.approx((4.74 / 9 - 0.5) / 2, abs=1e-5)


def test_a_map_on_the_evidence_beats_its_opposite_and_nan_stays_nan():
    pictures = torch.full((3, 1, 10, 10), 0.1)
    pictures[:, :, 3:6, 4:7] = 0.9
    heatmap = pictures[:, 0].clone()
    heatmap[1] = -heatmap[1]
    heatmap[2, 0, 0] = float("nan")
    value = road_combined(mean_model, pictures, heatmap, torch.tensor([0, 0, 0]), shares=(0.09, 0.2), noise=0)
    assert value[0] > 0.01
    assert value[1].item() == pytest.approx(-value[0].item(), abs=0.01)
    assert value[1] < 0
    assert value[2].isnan()


def test_noise_is_repeatable_and_the_same_for_every_batch():
    pictures, heatmap = torch.rand(2, 1, 8, 8), torch.rand(2, 8, 8)
    target = torch.tensor([0, 1])
    kwargs = {"noise": 0.5, "shares": (0.3, 0.6), "seed": 4}
    whole = road(mean_model, pictures, heatmap, target, **kwargs)
    one = road(mean_model, pictures[1:], heatmap[1:], target[1:], **kwargs)
    torch.testing.assert_close(one.values[0], whole.values[1])
    other = road(mean_model, pictures, heatmap, target, noise=0.5, shares=(0.3, 0.6), seed=5)
    assert not torch.allclose(other.values, whole.values, atol=1e-6)


@pytest.mark.parametrize("metric", [road, road_combined])
def test_imputed_pixels_carry_noise_of_one_percent_by_default(metric):
    heatmap = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(1))  # not the numbers of the noise
    pictures, seen = torch.full((1, 3, 40, 40), 0.5), []

    def predict(inputs):
        seen.append(inputs)
        return mean_model(inputs)

    metric(predict, pictures, heatmap, torch.tensor([0]), shares=(0.5,))
    given = torch.cat(seen)
    noise = given[given != 0.5] - 0.5  # what is imputed in a flat picture is flat
    assert noise.numel() == pytest.approx(given.numel() / 2, rel=0.01)
    assert noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)


def test_errors():
    with pytest.raises(InputError, match=r"\(1, 1, 4, 4\).*\(1, 5, 4\)"):
        linear_imputation(torch.zeros(1, 1, 4, 4), torch.ones(1, 5, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="'random'"):
        road(mean_model, torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4), torch.tensor([0]), order="random")
    with pytest.raises(InputError, match="0 shares"):
        road(mean_model, torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4), torch.tensor([0]), shares=())
