"""The data flow of a pass: what was made of what, what the axes stand for, and what stood at the doors of modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from squeezecam.axes import Factor, follow, regroup, unknown
from squeezecam.details import details
from squeezecam.graph import Graph, Node, trace
from squeezecam.reading import read_layout


class Function(nn.Module):
    """A function as a module, with a patch layer to start from."""

    def __init__(self, function) -> None:
        super().__init__()
        self.patch, self.function = nn.Conv2d(3, 6, 4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.patch(x))


def layout_of(function, batch: int = 2) -> tuple[str, tuple[int, ...]] | None:
    """The layout of what ``function`` makes of a map (N, 6, 3, 5)."""
    graph, _ = trace(Function(function), (torch.randn(batch, 3, 12, 20),), {})
    node = graph.nodes[graph.outputs[0][1]]
    return read_layout(node.axes, node.shape, batch)


def windows(y: Tensor) -> Tensor:
    """Windows of 3 x 2 after padding to 3 x 6, in the batch."""
    y = F.pad(y, (0, 1)).permute(0, 2, 3, 1)
    return y.reshape(len(y), 1, 3, 3, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, 6)


def unwindows(y: Tensor) -> Tensor:
    return y.reshape(-1, 1, 3, 3, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(-1, 3, 6, 6)[:, :, :5]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda y: y, ("n c h w", (3, 5))),
        (lambda y: y.permute(0, 2, 3, 1), ("n h w c", (3, 5))),
        (lambda y: y.permute(0, 3, 2, 1), ("n w h c", (5, 3))),
        (lambda y: y.flatten(2), ("n c (h w)", (3, 5))),
        (lambda y: y.flatten(2).transpose(1, 2), ("n (h w) c", (3, 5))),
        (lambda y: y.transpose(2, 3).flatten(2).transpose(1, 2), ("n (w h) c", (5, 3))),
        (lambda y: y.flatten(2).permute(2, 0, 1), ("(h w) n c", (3, 5))),
        (lambda y: torch.cat([torch.zeros(len(y), 1, 6), y.flatten(2).transpose(1, 2)], 1), ("n (1+ h w) c", (3, 5))),
        (lambda y: torch.cat([y.flatten(2).transpose(1, 2), torch.zeros(len(y), 4, 6)], 1), ("n (h w + 4) c", (3, 5))),
        (
            lambda y: torch.cat([torch.zeros(len(y), 5, 6), y.flatten(2).transpose(1, 2)], 1)[:, 5:],
            ("n (h w) c", (3, 5)),
        ),
        (
            lambda y: torch.cat([torch.zeros(len(y), 5, 6), y.flatten(2).transpose(1, 2)], 1)[:, 1:],
            ("n (4+ h w) c", (3, 5)),
        ),
        (lambda y: F.linear(y.flatten(2).transpose(1, 2), torch.randn(7, 6)), ("n (h w) c", (3, 5))),
        (lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (6,)), ("n h w c", (3, 5))),
        (lambda y: F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 2), ("n c h w", (2, 3))),
        (lambda y: F.relu_(y).mul_(2), ("n c h w", (3, 5))),
        (lambda y: unwindows(windows(y)), ("n h w c", (3, 5))),
        (lambda y: torch.cat([y, y], 1), ("n c h w", (3, 5))),
        (lambda y: y.unflatten(1, (2, 3)).flatten(1, 2), ("n c h w", (3, 5))),
        (windows, None),
        (lambda y: y.mean((2, 3)), None),
        (lambda y: torch.stack([y.mean((2, 3)), y.amax((2, 3))], 1), None),
    ],
)
def test_layouts_are_followed(function, expected, batch: int) -> None:
    assert layout_of(function, batch) == expected


def test_attention_keeps_the_grid_of_the_queries() -> None:
    def attend(y: Tensor) -> Tensor:
        queries = y.flatten(2).transpose(1, 2)
        keys = queries[:, :10]
        return (queries @ keys.transpose(1, 2)).softmax(-1) @ keys

    assert layout_of(attend) == ("n (h w) c", (3, 5))


def test_heads_and_qkv_are_taken_apart_and_put_together() -> None:
    weight = torch.randn(18, 6)

    def attend(y: Tensor) -> Tensor:
        x = y.flatten(2).transpose(1, 2)
        q, k, v = F.linear(x, weight).reshape(len(y), 15, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(y), 15, 6)

    assert layout_of(attend) == ("n (h w) c", (3, 5))


def test_patches_cut_by_views_keep_height_and_width() -> None:
    """Without any convolution: rows and columns are told apart by where they came from."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(48, 8)

        def forward(self, x: Tensor) -> Tensor:
            cells = x.reshape(len(x), 3, 3, 4, 5, 4).permute(0, 2, 4, 1, 3, 5)
            return self.embed(cells.reshape(len(x), 15, 48))

    graph, _ = trace(Cut(), (torch.randn(2, 3, 12, 20),), {})
    node = graph.nodes[graph.outputs[0][1]]
    assert read_layout(node.axes, node.shape, 2) == ("n (h w) c", (3, 5))


def test_frames_in_the_batch_are_time() -> None:
    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.flatten(0, 1))

    for batch in (1, 2):
        graph, _ = trace(Clip(), (torch.randn(batch, 7, 3, 12, 20),), {})
        node = graph.nodes[graph.outputs[0][1]]
        assert read_layout(node.axes, node.shape, batch) == ("(n t) c h w", (7, 3, 5))


def test_an_axis_of_which_one_is_left_keeps_its_place() -> None:
    strided = nn.Sequential(nn.Conv3d(3, 4, (2, 4, 4), (2, 4, 4)), nn.Conv3d(4, 6, (3, 1, 1)))
    for model, x, expected in (
        (strided, torch.randn(2, 3, 6, 12, 20), ("n c t h w", (1, 3, 5))),
        (nn.Conv2d(3, 4, (12, 4), 4), torch.randn(2, 3, 12, 20), ("n c h w", (1, 5))),
        (nn.Conv2d(3, 4, (4, 20), 4), torch.randn(2, 3, 12, 20), ("n c h w", (3, 1))),
    ):
        graph, _ = trace(model, (x,), {})
        node = graph.nodes[graph.outputs[0][1]]
        assert read_layout(node.axes, node.shape, 2) == expected


def test_regroup_splits_and_merges() -> None:
    axes = ((Factor("n", 2),), (Factor("h", 4),), (Factor("w", 6),))
    split = regroup(axes, (2, 2, 2, 6))
    assert split is not None
    assert split[1] == (Factor("h", 2, stride=2),)
    assert split[2] == (Factor("h", 2, stride=1),)
    assert regroup(split, (2, 4, 6)) == axes
    assert regroup(axes, (2, 24)) == (axes[0], (Factor("h", 4), Factor("w", 6)))
    assert regroup(axes, (2, 5, 5)) is None


def test_unknown_operations_make_no_claim() -> None:
    axes = unknown((2, 3, 4, 5), 2)
    assert read_layout(follow("mystery", (), (2, 7), [axes], 2, "9"), (2, 7), 2) is None


@pytest.mark.parametrize(
    ("op", "args", "rank", "expected"),
    [
        ("permute", (None, [0, -1, 1]), 3, (0, 2, 1)),
        ("transpose", (None, -1, 1), 3, (2, 1)),
        ("select", (None, 1, 0), 3, (1, 0)),
        ("mean", (None, [-1, 1]), 3, (1, 2)),
        ("mean", (None,), 3, ()),
        ("max", (None, 1), 3, (1,)),
        ("cat", (None, -2), 3, (1,)),
        ("cat", (None,), 3, (0,)),
        ("stack", (None, -1), 3, (3,)),
        ("topk", (None, 5), 3, (2,)),
        ("_softmax", (None, -1, False), 3, (2,)),
    ],
)
def test_details_are_normalised(op: str, args: tuple, rank: int, expected: tuple[int, ...]) -> None:
    assert details(op, args, rank) == expected


def graph_of(parents: dict[int, tuple[int, ...]]) -> Graph:
    return Graph([Node("op", p, (1,), live=True) for _, p in sorted(parents.items())])


def test_dominators_of_a_diamond() -> None:
    #   0 - 1 - 2 - 4 - 5
    #        \- 3 -/
    graph = graph_of({0: (), 1: (0,), 2: (1,), 3: (1,), 4: (2, 3), 5: (4,)})
    assert graph.dominators(5, {0}) == [5, 4, 1, 0]
    assert graph.reaches({0}, 5, without={2}, children=graph.children())
    assert not graph.reaches({0}, 5, without={2, 3}, children=graph.children())
    assert graph.ancestors([4]) == {0, 1, 2, 3, 4}


def test_constants_do_not_count_as_paths() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(1, 3, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.bias * 2).sum((1, 2, 3))

    graph, _ = trace(Biased(), (torch.randn(2, 3, 4, 4),), {})
    live = [node.op for node in graph.nodes if node.live]
    assert live == ["input", "add", "sum"]
    assert any(node.const == "bias" for node in graph.nodes)


def test_doors_of_positional_and_keyword_arguments() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            y.mul_(2)
            return x + y

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x * 3, y=x.relu())

    graph, _ = trace(Outer(), (torch.randn(2, 3),), {})
    doors = {(d.when, d.item): graph.nodes[d.node].op for d in graph.doors if d.module == "inner"}
    assert doors["input", (0,)] == "mul"
    assert ("input", ("y",)) not in doors  # changed in place: a tensor put there would not be the one that was seen
    assert doors["output", ()] == "add"


def test_inference_mode_shows_the_same_operations() -> None:
    model = Function(lambda y: F.linear(y.flatten(2).transpose(1, 2), torch.ones(7, 6)))
    x = torch.randn(2, 3, 12, 20)
    expected = [node.op for node in trace(model, (x,), {})[0].nodes if node.live]
    with torch.inference_mode():
        assert [node.op for node in trace(model, (x,), {})[0].nodes if node.live] == expected
        made_inside = torch.randn(2, 3, 12, 20)
        assert [node.op for node in trace(model, (made_inside,), {})[0].nodes if node.live] == expected


def test_nothing_is_left_behind() -> None:
    before = len(module_hooks._global_forward_hooks), len(module_hooks._global_forward_pre_hooks)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        trace(Broken(), (torch.randn(2, 3),), {})
    assert (len(module_hooks._global_forward_hooks), len(module_hooks._global_forward_pre_hooks)) == before


def test_no_tensor_is_kept_alive() -> None:
    import gc
    import weakref

    seen: list[weakref.ref[Tensor]] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            seen.append(weakref.ref(y))
            return (y + 1).sum(1)

    graph, _ = trace(Watch(), (torch.randn(2, 3),), {})
    gc.collect()
    assert seen[0]() is None
    assert len(graph.nodes) == 4
