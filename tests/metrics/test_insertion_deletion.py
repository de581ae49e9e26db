import pytest
import torch

from squeezecam.errors import InputError
from squeezecam.metrics import deletion, gaussian_blur, insertion
from squeezecam.metrics.baseline import baseline


def mean_model(inputs):
    """Two classes whose probabilities are the mean pixel and the rest: everything can be worked out by hand."""
    mean = inputs.flatten(1).mean(dim=1)
    return torch.stack([mean, 1 - mean], dim=1)


PICTURE = torch.tensor([[[[1.0, 0.0], [0.6, 0.4]]]])
MAP = torch.tensor([[[4.0, 1.0], [3.0, 2.0]]])
ZERO = torch.tensor([0])


def test_deletion_by_hand():
    # The pixels 1, .6, .4, 0 go in this order; the mean of what is left is 2/4, 1/4, .4/4, 0, 0.
    # Trapezoid with steps of 1/4: (.5/2 + .25 + .1 + 0 + 0/2) / 4 = .6 / 4 = .15
    result = deletion(mean_model, PICTURE, MAP, ZERO, steps=4, outputs="probabilities")
    torch.testing.assert_close(result.values, torch.tensor([[0.5, 0.25, 0.1, 0.0, 0.0]]))
    assert result.score.item() == pytest.approx(0.15)
    assert result.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_insertion_by_hand():
    # From zeros, in the same order: 0, 1/4, 1.6/4, 2/4, 2/4; (0 + .25 + .4 + .5 + .5/2) / 4 = 1.4 / 4 = .35
    result = insertion(mean_model, PICTURE, MAP, ZERO, steps=4, base="zero", outputs="probabilities")
    torch.testing.assert_close(result.values, torch.tensor([[0.0, 0.25, 0.4, 0.5, 0.5]]))
    assert result.score.item() == pytest.approx(0.35)


def test_insertion_begins_by_default_with_the_blur_of_the_paper():
    pictures = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    maps, target = pictures[:, 0], torch.tensor([0, 1])

    def contrast(inputs):
        spread = inputs.flatten(1).std(dim=1)
        return torch.stack([spread, 1 - spread], dim=1)

    found = insertion(contrast, pictures, maps, target, steps=4, outputs="probabilities").values
    base = gaussian_blur(pictures, kernel=11, sigma=5.0)
    expected = insertion(contrast, pictures, maps, target, steps=4, base=base, outputs="probabilities").values
    torch.testing.assert_close(found, expected)


def test_softmax_is_applied_to_logits():
    # Logits (m, 1 - m): the softmax of class 0 is sigmoid(2 m - 1). Deleting all at once: m = .5, then 0.
    # (sigmoid(0) + sigmoid(-1)) / 2 = (.5 + .26894) / 2
    result = deletion(mean_model, PICTURE, MAP, ZERO, steps=1)
    assert result.score.item() == pytest.approx((0.5 + 0.2689414) / 2)


def test_mean_base_by_hand():
    # Deleted pixels become the picture's mean .5. After the first (1 -> .5) the mean is 1.5 / 4; at the end .5 again.
    result = deletion(mean_model, PICTURE, MAP, ZERO, steps=4, base="mean", outputs="probabilities")
    torch.testing.assert_close(result.values, torch.tensor([[0.5, 0.375, 0.35, 0.375, 0.5]]))


def test_blur_keeps_constants_and_is_the_gaussian_of_the_formula():
    assert torch.allclose(gaussian_blur(torch.full((1, 2, 9, 7), 3.0)), torch.tensor(3.0))
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1
    # Window of 3, sigma 1: (e^-.5, 1, e^-.5) / (1 + 2 e^-.5) = (.27407, .45186, .27407); its outer product.
    blurred = gaussian_blur(spike, kernel=3, sigma=1.0)
    assert blurred[0, 0, 2, 2].item() == pytest.approx(0.45186**2, abs=1e-5)
    assert blurred[0, 0, 1, 2].item() == pytest.approx(0.27407 * 0.45186, abs=1e-5)
    assert blurred[0, 0, 0, 2].item() == 0
    assert gaussian_blur(torch.rand(2, 1, 4, 5, 6)).shape == (2, 1, 4, 5, 6)


def test_good_maps_beat_bad_ones():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 1, 6, 6, generator=generator)
    target = torch.zeros(3, dtype=torch.long)
    good, bad = pictures[:, 0], -pictures[:, 0]
    kwargs = {"steps": 9, "base": "zero", "outputs": "probabilities"}
    assert (
        insertion(mean_model, pictures, good, target, **kwargs).score
        > insertion(mean_model, pictures, bad, target, **kwargs).score
    ).all()
    assert (
        deletion(mean_model, pictures, good, target, **kwargs).score
        < deletion(mean_model, pictures, bad, target, **kwargs).score
    ).all()


def test_only_the_order_matters_and_samples_and_batches_are_independent():
    generator = torch.Generator().manual_seed(0)
    pictures, maps = torch.rand(4, 2, 5, 7, generator=generator), torch.randn(4, 5, 7, generator=generator)
    target = torch.tensor([0, 1, 0, 1])
    whole = insertion(mean_model, pictures, maps, target, steps=6)
    torch.testing.assert_close(
        insertion(mean_model, pictures, maps.exp() * 5, target, steps=6, batch_size=3).score, whole.score
    )
    for i in range(4):
        one = insertion(mean_model, pictures[i : i + 1], maps[i : i + 1], target[i : i + 1], steps=6)
        torch.testing.assert_close(one.values[0], whole.values[i])


def test_nan_map_gives_nan_and_leaves_the_others_alone():
    pictures, maps = PICTURE.repeat(2, 1, 1, 1), MAP.repeat(2, 1, 1)
    maps[0, 0, 0] = float("nan")
    result = deletion(mean_model, pictures, maps, torch.tensor([0, 0]), steps=4, outputs="probabilities")
    assert result.score[0].isnan()
    assert result.values[0].isnan().all()
    assert result.score[1].item() == pytest.approx(0.15)


def test_volumes_work_too():
    inputs, maps = torch.rand(2, 1, 3, 4, 5), torch.rand(2, 3, 4, 5)
    result = insertion(mean_model, inputs, maps, torch.tensor([0, 1]), steps=5, base="blur", outputs="probabilities")
    torch.testing.assert_close(result.values[:, -1], mean_model(inputs)[torch.arange(2), torch.tensor([0, 1])])


def test_errors_name_both_shapes():
    with pytest.raises(InputError, match=r"\(1, 7, 7\).*\(1, 1, 2, 2\)"):
        deletion(mean_model, PICTURE, torch.zeros(1, 7, 7), ZERO)
    with pytest.raises(InputError, match=r"target has shape \(2,\)"):
        deletion(mean_model, PICTURE, MAP, torch.tensor([0, 0]), steps=2)
    with pytest.raises(InputError, match="steps is 5, expected 1 to 4"):
        deletion(mean_model, PICTURE, MAP, ZERO, steps=5)
    with pytest.raises(InputError, match="'nothing'"):
        baseline(PICTURE, "nothing")
    with pytest.raises(InputError, match=r"base has shape \(3, 3\)"):
        baseline(PICTURE, torch.zeros(3, 3))


def test_pictures_of_whole_numbers_are_refused():
    with pytest.raises(InputError, match=r"uint8, expected floating point"):
        insertion(
            lambda x: x.float().mean((2, 3)),
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            torch.rand(1, 4, 4),
            torch.tensor([0]),
        )
