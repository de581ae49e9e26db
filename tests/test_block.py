"""The squeeze-and-excitation block."""

import pytest
import torch
from torch import nn

import oracle
from squeezecam import SEBlock
from squeezecam.block import squeeze_positions
from squeezecam.errors import InputError

SHAPES = [((3, 32), 1), ((3, 32, 7), 1), ((3, 7, 32), -1), ((3, 32, 5, 4), 1), ((3, 5, 4, 32), -1),
          ((3, 32, 3, 4, 2), 1), ((3, 2, 32, 4, 5), 2)]  # fmt: skip


def excited(channels: int, **options) -> SEBlock:
    block = SEBlock(channels, **options)
    nn.init.normal_(block.expand.weight)
    return block


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_a_fresh_block_is_the_identity_to_the_bit(shape, axis, dtype):
    features = torch.randn(shape).to(dtype)
    out = SEBlock(32, channel_axis=axis)(features)
    assert out.dtype == dtype
    assert torch.equal(out, features)


def test_a_fresh_block_reports_half_open_gates():
    block = SEBlock(32)
    assert torch.equal(block.gates(torch.randn(4, 32)), torch.full((4, 32), 0.5))
    assert not block.fitted


def test_the_second_layer_learns_at_once_and_the_first_after_one_step():
    block = SEBlock(32)
    features, wanted = torch.rand(8, 32, 3, 3), torch.rand(8, 32, 3, 3)
    optimiser = torch.optim.SGD(block.parameters(), lr=1.0)
    (block(features) - wanted).square().sum().backward()
    assert block.expand.weight.grad.abs().max() > 1e-3
    assert block.reduce.weight.grad.abs().max() == 0
    optimiser.step()
    optimiser.zero_grad()
    (block(features) - wanted).square().sum().backward()
    assert block.reduce.weight.grad.abs().max() > 1e-3
    assert block.fitted


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_a_narrow_fresh_block_is_never_dead_on_rectified_features(hidden):
    for seed in range(40):
        torch.manual_seed(seed)
        block, squeezed = SEBlock(24, hidden=hidden), torch.rand(4, 24) + 0.5
        block.logits(squeezed).sum().backward()
        assert block.expand.weight.grad.abs().max() > 0, seed


def test_reset_parameters_is_the_identity_start_again():
    block = excited(32)
    before = block.reduce.weight.clone()
    block.reset_parameters()
    assert not block.fitted
    assert not torch.equal(block.reduce.weight, before)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_squeeze_excite_and_scale_are_those_of_the_paper(shape, axis):
    block = excited(32, channel_axis=axis).double()
    features = torch.randn(shape, dtype=torch.float64)
    squeezed, scaled = block.squeeze(features), block(features)
    for i in range(len(features)):
        channels, _ = oracle.flat_channels(features[i], axis % features.ndim - 1)
        z = oracle.squeeze(channels)
        s = oracle.excite(z, block.reduce.weight, block.expand.weight)
        torch.testing.assert_close(squeezed[i], torch.tensor(z).double(), atol=1e-7, rtol=0)
        for c, (gate, values) in enumerate(zip(s, channels, strict=True)):
            got = scaled[i].select(axis % features.ndim - 1, c).reshape(-1)
            torch.testing.assert_close(got, torch.tensor([2 * gate * u for u in values]).double(), atol=1e-6, rtol=0)


def test_the_published_form_has_two_matrices_and_no_biases():
    sizes = {name: tuple(p.shape) for name, p in SEBlock(64).named_parameters()}
    assert sizes == {"reduce.weight": (4, 64), "expand.weight": (64, 4)}


@pytest.mark.parametrize(
    ("channels", "options", "hidden"),
    [(64, {}, 4), (8, {}, 1), (1, {}, 1), (100, {}, 6), (64, {"reduction": 4}, 16), (64, {"hidden": 80}, 80)],
)
def test_hidden_width(channels, options, hidden):
    assert SEBlock(channels, **options).hidden == hidden


def test_a_sample_does_not_see_its_batch():
    block = excited(32).double()
    features = torch.randn(5, 32, 4, 4, dtype=torch.float64)
    together = block(features)
    for i in range(5):
        torch.testing.assert_close(block(features[i : i + 1])[0], together[i], atol=1e-12, rtol=0)


def test_half_precision_is_squeezed_in_single():
    assert squeeze_positions(torch.full((1, 2, 40, 40), 6e4, dtype=torch.float16)).dtype == torch.float32
    fine = (
        (torch.arange(1600) % 2 * 2.0**-10 + 1).to(torch.float16).view(1, 1, 40, 40)
    )  # the mean lies between two halves
    assert squeeze_positions(fine).item() == 1 + 2.0**-11
    assert squeeze_positions(torch.ones(1, 2, 3, dtype=torch.float64)).dtype == torch.float64


def test_autocast_does_not_touch_the_gates():
    block, squeezed = excited(32), torch.randn(4, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = block.gates(squeezed)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, block.gates(squeezed))


def test_a_block_with_nan_weights_counts_as_fitted():
    block = SEBlock(4)
    nn.init.constant_(block.expand.weight, float("nan"))
    assert block.fitted


@pytest.mark.parametrize(("shape", "axis"), [((2, 31, 4, 4), 1), ((2, 4, 4, 32), 1), ((32,), 1), ((32, 4), 0), ((), 1)])
def test_features_without_the_channels_are_refused_with_their_shape(shape, axis):
    block = SEBlock(32, channel_axis=axis)
    with pytest.raises(InputError, match="32 channels on axis"):
        block(torch.zeros(shape))


@pytest.mark.parametrize("options", [{"channels": 0}, {"channels": 4, "reduction": 0}, {"channels": 4, "hidden": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(InputError, match="at least"):
        SEBlock(**options)


@pytest.mark.parametrize("write", [
    lambda block: block.reset_parameters(),
    lambda block: nn.init.zeros_(block.expand.weight),
    lambda block: block.load_state_dict({k: torch.zeros_like(v) for k, v in block.state_dict().items()}),
    lambda block: setattr(block.expand.weight, "data", torch.zeros_like(block.expand.weight)),
    lambda block: setattr(block.expand, "weight", nn.Parameter(torch.zeros_like(block.expand.weight))),
], ids=["reset", "init", "load", "data", "parameter"])  # fmt: skip
def test_a_block_is_fitted_as_long_as_its_weights_say_so(write):
    block = SEBlock(16)
    assert not block.fitted
    block.expand.weight.data.fill_(0.1)  # which no version tells of
    assert block.fitted
    assert block.fitted
    write(block)
    assert not block.fitted


def test_a_block_made_in_inference_mode_says_whether_it_is_fitted():
    with torch.inference_mode():
        block = SEBlock(16)
        assert not block.fitted
        block.expand.weight.fill_(0.1)
        assert block.fitted
        block.expand.weight.zero_()
    assert not block.fitted
