"""Networks in which the position of the evidence is known: the map has to peak there, whatever the layout."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezecam
from squeezecam import Site
from squeezecam.heatmap import aggregate

CELL = 4


class Planted(nn.Module):
    """A patch layer, the map laid out in some way, and a head that pools it.

    Every channel answers to the brightness of its cell, half of them with the opposite sign. ``lay`` brings ``(N, C,
    *S)`` into the layout, ``pool`` takes that to ``(N, C)``.
    """

    def __init__(self, lay, pool, rank: int = 2, channels: int = 12, norm: bool = False) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
        generator = torch.Generator().manual_seed(3)
        self.patch = conv(1, channels, CELL, CELL)
        answer = torch.randn(channels, generator=generator)
        with torch.no_grad():
            self.patch.weight.copy_((answer / CELL**rank).view(-1, *[1] * (rank + 1)).expand_as(self.patch.weight))
            self.patch.bias.copy_(torch.randn(channels, generator=generator))
        self.lay, self.pool = lay, pool
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.extra = nn.Parameter(torch.randn(1, 2, channels, generator=generator))
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)
        self.head = nn.Linear(channels, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([answer, -answer, answer.flip(0)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self, self.norm(self.lay(self, self.patch(x)))))


class Frames(Planted):
    """Frames (N, T, 1, H, W) folded into the batch."""

    def __init__(self) -> None:
        super().__init__(lambda m, y: y, lambda m, y: y.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        return self.head(self.pool(self, self.norm(self.patch(x.flatten(0, 1)))).unflatten(0, (n, t)).mean(1))


class VideoTokens(Planted):
    """Frame patches as tokens, in the order time-height-width or height-width-time, a class token before them."""

    def __init__(self, time_first: bool) -> None:
        super().__init__(lambda m, y: y, lambda m, y: y[:, 1:].mean(1))
        self.time_first = time_first

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        y = self.patch(x.flatten(0, 1)).unflatten(0, (n, t))  # n t c h w
        y = y.permute(0, 1, 3, 4, 2) if self.time_first else y.permute(0, 3, 4, 1, 2)
        tokens = torch.cat([self.extra[:, :1].expand(n, -1, -1), y.flatten(1, 3)], 1)
        return self.head(self.pool(self, self.norm(tokens)))


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


def with_extra(count: int, after: bool = False):
    def lay(m: Planted, y: Tensor) -> Tensor:
        extra = m.extra[:, :count].expand(len(y), -1, -1)
        return torch.cat([tokens(y), extra] if after else [extra, tokens(y)], 1)

    return lay


def attended(m: Planted, y: Tensor) -> Tensor:
    """Only the class token is read, after it attended the others."""
    return (y + m.attention(y, y, y, need_weights=False)[0])[:, 0]


def windows(m: Planted, y: Tensor) -> Tensor:
    """Cut into windows and put together again, as Swin does, channels last."""
    n, c, h, w = y.shape
    cut = y.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 3, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, c)
    cut = cut + 0.0
    back = cut.reshape(n, h // 2, w // 3, 2, 3, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return back.flip(1).flip(1)


IMAGE, CLIP = (1, 16, 24), (4, 1, 16, 24)
CASES = {
    "n c h w": (lambda: Planted(lambda m, y: y, lambda m, y: y.mean((2, 3))), IMAGE),
    "n h w c": (lambda: Planted(lambda m, y: y.permute(0, 2, 3, 1), lambda m, y: y.mean((1, 2))), IMAGE),
    "n h w c, normed": (
        lambda: Planted(lambda m, y: y.permute(0, 2, 3, 1), lambda m, y: y.mean((1, 2)), norm=True),
        IMAGE,
    ),
    "n h w c, windows": (lambda: Planted(windows, lambda m, y: y.mean((1, 2)), norm=True), IMAGE),
    "n (h w) c": (lambda: Planted(lambda m, y: tokens(y), lambda m, y: y.mean(1), norm=True), IMAGE),
    "n (1+ h w) c": (lambda: Planted(with_extra(1), lambda m, y: y[:, 1:].mean(1), norm=True), IMAGE),
    "n (2+ h w) c": (lambda: Planted(with_extra(2), lambda m, y: y[:, 2:].mean(1), norm=True), IMAGE),
    "n (h w + 2) c": (lambda: Planted(with_extra(2, after=True), lambda m, y: y[:, :-2].mean(1)), IMAGE),
    "n (1+ h w) c, class token": (lambda: Planted(with_extra(1), attended, norm=True), IMAGE),
    "(h w) n c": (
        lambda: Planted(lambda m, y: y.flatten(2).permute(2, 0, 1), lambda m, y: y.mean(0), norm=True),
        IMAGE,
    ),
    "n c (h w)": (lambda: Planted(lambda m, y: y.flatten(2), lambda m, y: y.mean(2)), IMAGE),
    "n c l": (lambda: Planted(lambda m, y: y, lambda m, y: y.mean(2), rank=1), (1, 40)),
    "n l c": (lambda: Planted(lambda m, y: y.transpose(1, 2), lambda m, y: y.mean(1), rank=1), (1, 40)),
    "n c t h w": (lambda: Planted(lambda m, y: y, lambda m, y: y.mean((2, 3, 4)), rank=3), (1, 8, 16, 24)),
    "n t h w c": (
        lambda: Planted(lambda m, y: y.permute(0, 2, 3, 4, 1), lambda m, y: y.mean((1, 2, 3)), rank=3),
        (1, 8, 16, 24),
    ),
    "n (t h w) c": (lambda: Planted(lambda m, y: tokens(y), lambda m, y: y.mean(1), rank=3), (1, 8, 16, 24)),
    "(n t) c h w": (Frames, CLIP),
    "n (1+ t h w) c": (lambda: VideoTokens(True), CLIP),
    "n (1+ h w t) c": (lambda: VideoTokens(False), CLIP),
}


def planted_input(shape: tuple[int, ...], batch: int, seed: int) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Faint noise with one bright cell per sample, and the cell's place on the native grid."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.02 * torch.randn((batch, *shape), generator=generator)
    frames = shape[0] if len(shape) == 4 and shape[1] == 1 else None
    sides = shape[2:] if frames else shape[1:]
    places = []
    for i in range(batch):
        cell = [int(torch.randint(0, side // CELL, (), generator=generator)) for side in sides]
        window = tuple(slice(at * CELL, (at + 1) * CELL) for at in cell)
        if frames:
            at = int(torch.randint(0, frames, (), generator=generator))
            x[(i, at, 0, *window)] += 2.0
            places.append((at, *cell))
        else:
            x[(i, 0, *window)] += 2.0
            places.append(tuple(cell))
    return x, places


def peak(grid_map: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(grid_map.argmax(), grid_map.shape))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_map_peaks_at_the_planted_cell(name: str, batch: int) -> None:
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    squeeze = squeezecam.attach(model, planted_input(shape, batch, 7)[0])
    assert str(squeeze.places["map"].layout) == name.partition(",")[0]
    x, places = planted_input(shape, 3, 11)
    for method in ("published", "class"):
        if method == "class" and squeeze.head() is None:
            continue
        explanation = squeeze.explain(x, method=method, target=None if method == "published" else 0)
        for i, place in enumerate(places):
            assert peak(explanation.raw[i]) == place, (method, i)
            large = peak(explanation.heatmap[i])
            scale = [
                big // small
                for big, small in zip(explanation.heatmap.shape[1:], explanation.raw.shape[1:], strict=True)
            ]
            assert tuple(at // by for at, by in zip(large, scale, strict=True)) == place, (method, i)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("n (h w) c", Site("norm", layout="n (h w) c", grid=(6, 4))),
        ("n (1+ h w) c", Site("norm", layout="n (1+ w h) c", grid=(6, 4))),
        ("n (2+ h w) c", Site("norm", layout="n (1+ l) c")),
        ("n (1+ h w t) c", Site("norm", layout="n (1+ t h w) c", grid=(4, 4, 6))),
        ("n (1+ t h w) c", Site("norm", layout="n (1+ h w t) c", grid=(4, 4, 6))),
    ],
)
def test_a_wrong_layout_is_seen(name: str, site: Site) -> None:
    """The test above can fail: with another layout the peak is elsewhere."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    x, places = planted_input(shape, 3, 11)
    squeeze = squeezecam.attach(model, x, at=site)
    raw = squeeze.explain(x, method="published").raw
    assert any(peak(raw[i]) != place for i, place in enumerate(places))


def test_peak_of_another_input_size() -> None:
    """The grid follows the input, also where height and width share an axis."""
    model = CASES["n (1+ h w) c"][0]().eval()
    squeeze = squeezecam.attach(model, planted_input((1, 16, 24), 1, 7)[0])
    x, places = planted_input((1, 32, 48), 2, 5)
    raw = squeeze.explain(x, method="published").raw
    assert raw.shape[1:] == (8, 12)
    assert [peak(m) for m in raw] == places


def test_plain_mean_after_a_layer_norm_is_noise_and_contrast_is_not() -> None:
    model = CASES["n h w c, normed"][0]().eval()
    x, places = planted_input(IMAGE, 8, 4)
    squeeze = squeezecam.attach(model, x[:1])
    assert squeeze.aggregate == "contrast"
    features = squeeze.capture(x)[1]["map"].features
    ones, every = torch.ones(features.shape[:2]), torch.ones(features.shape[:2], dtype=torch.bool)
    assert float(aggregate(features, ones, every, "mean").abs().max()) < 1e-6  # what is left is rounding
    energy = aggregate(features, ones, every, "energy")
    assert float(energy.max() - energy.min()) < 1e-2  # and every position has the same energy
    contrast = aggregate(features, ones, every, "contrast")
    assert [peak(m) for m in contrast] == places
    assert float(contrast.amax((1, 2)).div(contrast.mean((1, 2))).min()) > 3


def test_mostly_positive_features_keep_their_sign() -> None:
    """After SiLU, what is present is what is positive: a dark cell among bright ones must not light up."""
    x, places = planted_input(IMAGE, 4, 2)
    model = nn.Sequential(
        nn.Conv2d(1, 4, CELL, CELL), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    with torch.no_grad():
        model[0].weight.fill_(1 / CELL**2)
        model[0].bias.fill_(-0.3)
    squeeze = squeezecam.attach(model, x, at="1")
    assert squeeze.aggregate == "contrast" or squeeze.aggregate == "positive"
    bright = torch.full((1, *IMAGE), 2.0)
    bright[0, 0, 4:8, 8:12] = 0.0
    squeeze = squeezecam.attach(model, bright, at="1")
    assert squeeze.aggregate == "positive"
    raw = squeeze.explain(bright, method="published").raw[0]
    assert peak(raw) != (1, 2)
    assert math.isclose(float(raw[1, 2]), float(raw.min()), abs_tol=1e-6)
    assert places


def test_silu_and_gelu_are_positive_and_normed_features_are_contrast() -> None:
    noise = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    from squeezecam.heatmap import suited_aggregate

    assert suited_aggregate(noise.relu()) == "mean"
    assert suited_aggregate(F.silu(noise)) == "positive"
    assert suited_aggregate(F.gelu(noise)) == "positive"
    assert suited_aggregate(F.layer_norm(noise.movedim(1, -1), (64,)).movedim(-1, 1)) == "contrast"
