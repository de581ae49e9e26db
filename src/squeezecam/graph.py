"""The data flow of one forward pass: which tensor was made from which, and what stood at every module's door.

The operations are seen below Python (a dispatch mode), so functional pooling, in-place activations and modules that nobody registered
are seen as well. Nothing is registered on the model, and no tensor is kept alive.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from squeezecam import tree

WEIGHTED = ("convolution", "_convolution", "addmm", "mm", "linear", "bmm", "baddbmm", "matmul", "einsum", "mkldnn_rnn_layer", "addmv", "mv")


@dataclass
class Node:
    """One tensor of the pass: the operation that made it, its parents, and what is known of its axes."""

    op: str
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    live: bool  # depends on an input of the model
    const: str | None = None  # name of the parameter or buffer, also through views of it
    root: int | None = None  # index of the input leaf
    channel_axis: int | None = None
    grid: tuple[int, ...] | None = None
    details: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Door:
    """A tensor at the input or the output of a module."""

    module: str
    call: int
    when: str  # "input" | "output"
    item: tree.Path
    node: int


@dataclass(frozen=True)
class Call:
    """One run of a module: the positions in the list of doors at which it began and ended, and the shapes that it returned."""

    module: str
    call: int
    start: int
    end: int
    shapes: tuple[tuple[tree.Path, tuple[int, ...]], ...]


@dataclass
class Graph:
    """Nodes in the order of execution (parents first), module doors in order, and the nodes of inputs and outputs."""

    nodes: list[Node] = field(default_factory=list)
    doors: list[Door] = field(default_factory=list)
    inputs: list[tuple[tree.Path, int]] = field(default_factory=list)
    outputs: list[tuple[tree.Path, int]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def ancestors(self, targets: list[int]) -> set[int]:
        """All live nodes that ``targets`` are made of, themselves included."""
        seen: set[int] = set()
        stack = [i for i in targets if self.nodes[i].live]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(p for p in self.nodes[node].parents if self.nodes[p].live)
        return seen

    def dominators(self, target: int, roots: set[int]) -> list[int]:
        """Nodes that every path from ``roots`` to ``target`` passes, from ``target`` back to the start."""
        within = self.ancestors([target])
        reach: set[int] = set()
        idom: dict[int, int] = {}
        depth: dict[int, int] = {-1: 0}
        for i in sorted(within):
            parents = [p for p in self.nodes[i].parents if p in reach]
            if i in roots:
                parents = []
            elif not parents:
                continue
            reach.add(i)
            common = parents[0] if parents else -1
            for other in parents[1:]:
                while common != other:
                    if depth[common] >= depth[other]:
                        common = idom[common]
                    else:
                        other = idom[other]
            idom[i], depth[i] = common, depth[common] + 1
        chain, node = [], target
        while node in idom:
            chain.append(node)
            node = idom[node]
        return chain

    def children(self) -> dict[int, list[int]]:
        """Live children of every live node."""
        found: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            if node.live:
                for parent in set(node.parents):
                    if self.nodes[parent].live:
                        found.setdefault(parent, []).append(i)
        return found


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.index: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def add(self, tensor: Tensor, node: Node) -> int:
        self.graph.nodes.append(node)
        self.index[tensor] = len(self.graph.nodes) - 1
        return len(self.graph.nodes) - 1

    def lookup(self, tensor: Tensor) -> int:
        found: int | None = self.index.get(tensor)
        return self.add(tensor, Node("constant", (), tuple(tensor.shape), live=False)) if found is None else found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for _, t in tree.leaves((args, kwargs))]
        parents = tuple(self.lookup(t) for t in given)
        out = func(*args, **kwargs)
        name = func._schema.name.split("::")[-1].rstrip("_") or func._schema.name
        nodes = self.graph.nodes
        live = any(nodes[p].live for p in parents)
        const = nodes[parents[0]].const if parents and not live else None
        made = tree.leaves(out)
        if func._schema.is_mutable and not made:  # foreach and out variants write into arguments
            made = [((), t) for t in given]
        for _, tensor in made:
            node = Node(name, parents, tuple(tensor.shape), live, const)
            if live:
                _label(node, [nodes[p] for p in parents], args)
            self.add(tensor, node)
        return out


def _label(node: Node, parents: list[Node], args: tuple[Any, ...]) -> None:
    """Carry channel axis and grid from the parents to ``node``."""
    source = next((p for p in parents if p.live), None)
    if source is None:
        return
    axis, grid, shape = source.channel_axis, source.grid, node.shape
    for other in parents:
        if other.live and axis is None and len(other.shape) == len(shape):
            axis = other.channel_axis
        if other.live and grid is None:
            grid = other.grid
    op = node.op
    if op in ("convolution", "_convolution"):
        kernel = next((p.shape for p in parents if not p.live and len(p.shape) == len(shape)), ())
        node.channel_axis, node.details = 1, tuple(kernel[2:])
        node.grid = shape[2:]
        return
    if op in ("addmm", "mm", "linear", "mkldnn_rnn_layer"):
        axis = len(shape) - 1
    elif op in ("native_layer_norm", "layer_norm", "_fused_rms_norm") and args and len(args) > 1:
        normalised = args[1]
        if isinstance(normalised, (list, tuple)) and len(normalised) == 1:
            axis = len(shape) - 1
    elif op in ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "native_group_norm", "batch_norm"):
        axis = 1
    elif op == "permute":
        order = [int(i) % len(shape) for i in args[1]]
        axis = order.index(axis) if axis is not None and axis in order else None
    elif op in ("transpose", "t"):
        first, second = (args[1], args[2]) if op == "transpose" else (0, 1)
        first, second = int(first) % max(len(shape), 1), int(second) % max(len(shape), 1)
        axis = {first: second, second: first}.get(axis, axis) if axis is not None else None
    elif op in ("view", "_unsafe_view", "reshape", "expand", "_reshape_alias", "unsqueeze", "squeeze") and source.shape != shape:
        axis = _moved_axis(source.shape, shape, axis)
    elif op in ("select", "unbind"):
        removed = int(args[1] if len(args) > 1 else 0) % len(source.shape)
        axis = None if axis is None or axis == removed else axis - (removed < axis)
        node.details = (removed,)
    elif op in ("slice", "narrow", "index_select") and len(args) > 1:
        node.details = (int(args[1]) % len(source.shape),)
    elif op in ("mean", "sum", "amax", "max", "logsumexp") and len(args) > 1 and isinstance(args[1], (list, tuple, int)):
        dims = [args[1]] if isinstance(args[1], int) else list(args[1])
        reduced = sorted(int(d) % len(source.shape) for d in dims)
        node.details = tuple(reduced)
        if len(shape) < len(source.shape) and axis is not None:
            axis = None if axis in reduced else axis - sum(d < axis for d in reduced)
    elif len(shape) != len(source.shape):
        axis = None
    if source.shape != shape and len(shape) >= 3 and axis is not None and op in ("avg_pool2d", "max_pool2d_with_indices", "avg_pool3d"):
        grid = shape[2:]
    node.channel_axis, node.grid = axis, grid


def _moved_axis(old: tuple[int, ...], new: tuple[int, ...], axis: int | None) -> int | None:
    """Where ``axis`` went in a reshape: the axis of the same size with as many elements before it, where there is one."""
    if axis is None:
        return None
    before = 1
    for size in old[:axis]:
        before *= size
    count = 1
    for i, size in enumerate(new):
        if count == before and size == old[axis]:
            return i
        count *= size
    return None


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Graph, Any]:
    """Run ``model`` once without gradients and return the data flow and the output.

    The model's hooks are not touched: module boundaries are seen through PyTorch's global hooks, only for this model, only in this
    thread, and only during the call.
    """
    graph = Graph()
    recorder = _Recorder(graph)
    names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if tensor not in recorder.index:
            recorder.add(tensor, Node("constant", (), tuple(tensor.shape), live=False, const=name))
    for path, tensor in tree.leaves((args, kwargs)):
        node = Node("input", (), tuple(tensor.shape), live=True, root=len(graph.inputs))
        graph.inputs.append((path, recorder.add(tensor, node)))
    with torch.no_grad(), _doors(graph, recorder, names), recorder:
        output = model(*args, **kwargs)
    graph.outputs = [(path, recorder.lookup(tensor)) for path, tensor in tree.leaves(output)]
    return graph, output


@contextlib.contextmanager
def _doors(graph: Graph, recorder: _Recorder, names: dict[int, str]) -> Iterator[None]:
    thread = threading.get_ident()
    counts: dict[str, int] = {}
    open_calls: list[tuple[str, int, int]] = []

    def seen(module: nn.Module) -> bool:
        return threading.get_ident() == thread and id(module) in names

    def before(module: nn.Module, args: Any) -> None:
        if not seen(module):
            return
        name = names[id(module)]
        call = counts.get(name, 0)
        counts[name] = call + 1
        open_calls.append((name, call, len(graph.doors)))
        for item, tensor in tree.leaves(args):
            graph.doors.append(Door(name, call, "input", item, recorder.lookup(tensor)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if not seen(module):
            return
        name = names[id(module)]
        while open_calls and open_calls[-1][0] != name:  # a module that raised and was caught inside the model
            open_calls.pop()
        if not open_calls:
            return
        _, call, start = open_calls.pop()
        shapes = tuple((item, tuple(tensor.shape)) for item, tensor in tree.leaves(output))
        graph.calls.append(Call(name, call, start, len(graph.doors), shapes))
        for item, tensor in tree.leaves(output):
            graph.doors.append(Door(name, call, "output", item, recorder.lookup(tensor)))

    first = module_hooks.register_module_forward_pre_hook(before)
    second = module_hooks.register_module_forward_hook(after)
    try:
        yield
    finally:
        first.remove()
        second.remove()
