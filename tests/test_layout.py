"""Layouts as users write them, and the way to canonical features and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from squeezecam.errors import SiteError
from squeezecam.layout import parse_layout

N, C = 2, 3
CASES = [
    ("n c h w", (N, C, 4, 5), None, (4, 5)),
    ("n h w c", (N, 4, 5, C), None, (4, 5)),
    ("n w h c", (N, 5, 4, C), None, (5, 4)),
    ("n (h w) c", (N, 20, C), (4, 5), (4, 5)),
    ("n (1+ h w) c", (N, 21, C), (4, 5), (4, 5)),
    ("n (5+ h w) c", (N, 25, C), (4, 5), (4, 5)),
    ("n (h w + 2) c", (N, 22, C), (4, 5), (4, 5)),
    ("n (1+ h w + 1) c", (N, 22, C), (4, 5), (4, 5)),
    ("(h w) n c", (20, N, C), (4, 5), (4, 5)),
    ("n c (h w)", (N, C, 20), (4, 5), (4, 5)),
    ("n c l", (N, C, 7), None, (7,)),
    ("n l c", (N, 7, C), None, (7,)),
    ("l n c", (7, N, C), None, (7,)),
    ("n c t h w", (N, C, 6, 4, 5), None, (6, 4, 5)),
    ("n c d h w", (N, C, 6, 4, 5), None, (6, 4, 5)),
    ("n t h w c", (N, 6, 4, 5, C), None, (6, 4, 5)),
    ("(n t) c h w", (N * 6, C, 4, 5), None, (6, 4, 5)),
    ("(t n) c h w", (N * 6, C, 4, 5), None, (6, 4, 5)),
    ("n (t h w) c", (N, 120, C), (6, 4, 5), (6, 4, 5)),
    ("n (1+ h w t) c", (N, 121, C), (6, 4, 5), (6, 4, 5)),
    ("n c f t", (N, C, 4, 6), None, (4, 6)),
]


@pytest.mark.parametrize(("text", "shape", "grid", "positions"), CASES)
def test_scaling_channels_is_scaling_canonical_features(text: str, shape: tuple, grid: tuple, positions: tuple) -> None:
    """Each sample and channel gets its own factor, wherever the layout has put them; extra tokens are left alone."""
    layout = parse_layout(text)
    tensor = torch.randn(shape)
    factors = torch.rand(N, C) + 0.5
    before = layout.unpack(tensor, N, grid)
    assert before.shape == (N, C, *positions)
    scaled = layout.scale(tensor, factors)
    after = layout.unpack(scaled, N, grid)
    torch.testing.assert_close(after, before * factors.view(N, C, *[1] * len(positions)), rtol=0, atol=0)
    for i, axis in enumerate(layout.axes):
        if axis.before:
            assert torch.equal(scaled.narrow(i, 0, axis.before), tensor.narrow(i, 0, axis.before))
        if axis.after:
            start = tensor.shape[i] - axis.after
            assert torch.equal(scaled.narrow(i, start, axis.after), tensor.narrow(i, start, axis.after))


@pytest.mark.parametrize(("text", "shape", "grid", "positions"), CASES)
def test_pack_is_the_inverse_of_unpack(text: str, shape: tuple, grid: tuple, positions: tuple) -> None:
    layout = parse_layout(text)
    tensor = torch.randn(shape)
    if any(axis.before or axis.after for axis in layout.axes):
        with pytest.raises(SiteError, match="beside the grid"):
            layout.pack(layout.unpack(tensor, N, grid))
    else:
        assert torch.equal(layout.pack(layout.unpack(tensor, N, grid)), tensor)


def test_order_of_positions_is_kept() -> None:
    """Row-major and column-major tokens are different maps of the same tensor."""
    tensor = torch.arange(6.0).view(1, 6, 1)
    rows = parse_layout("n (h w) c").unpack(tensor, 1, (2, 3))[0, 0]
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    frames = parse_layout("n (h t) c").unpack(tensor, 1, (2, 3))  # canonical features have time first
    assert frames[0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_scale_does_not_write_into_its_argument() -> None:
    for text, shape in (("n c h w", (2, 3, 4, 4)), ("n (1+ h w) c", (2, 17, 3))):
        tensor = torch.randn(shape)
        kept = tensor.clone()
        parse_layout(text).scale(tensor, torch.full((2, 3), 2.0))
        assert torch.equal(tensor, kept)


def test_scaling_by_one_is_the_identity_to_the_bit() -> None:
    tensor = torch.randn(2, 17, 3)
    assert torch.equal(parse_layout("n (1+ h w) c").scale(tensor, torch.ones(2, 3)), tensor)


def test_gradients_pass_through_extra_tokens_and_grid() -> None:
    tensor = torch.randn(1, 5, 2, requires_grad=True)
    parse_layout("n (1+ h w) c").scale(tensor, torch.full((1, 2), 3.0)).sum().backward()
    assert tensor.grad is not None
    assert tensor.grad[0, :, 0].tolist() == [1, 3, 3, 3, 3]


@pytest.mark.parametrize("grid", [(4, 6), (6, 4)])
def test_grid_follows_the_size_of_the_input(grid: tuple[int, int]) -> None:
    """Seen at 4 x 6 tokens, the same proportions are found at other scales."""
    layout = parse_layout("n (1+ h w) c")
    for factor in (1, 2, 3):
        sides = tuple(side * factor for side in grid)
        tensor: Tensor = torch.zeros(1, 1 + sides[0] * sides[1], 3)
        assert layout.unpack(tensor, 1, grid).shape[2:] == sides


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SiteError, match=r"23.*4x6"):
        parse_layout("n (h w) c").unpack(torch.zeros(1, 23, 3), 1, (4, 6))


def test_a_batch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SiteError, match="multiple of the batch size 2"):
        parse_layout("(n t) c h w").unpack(torch.zeros(7, 3, 2, 2), 2)


def test_a_tensor_of_another_rank_is_refused() -> None:
    with pytest.raises(SiteError, match=r"4 axes.*\(2, 3\)"):
        parse_layout("n c h w").unpack(torch.zeros(2, 3), 2)


@pytest.mark.parametrize(
    "text", ["", "n c", "n c c h", "n h w", "c h w", "n c q", "n c (h", "n [c] h", "N C H W", "n (c h w)x"]
)
def test_what_is_no_layout_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SiteError, match="layout"):
        parse_layout(text)
