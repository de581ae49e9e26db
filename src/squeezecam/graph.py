"""The data flow of one forward pass: which tensor was made from which, and what stood at every module's door.

The operations are seen below Python (a dispatch mode), so functional pooling, in-place activations and modules that
nobody registered are seen as well. Nothing is registered on the model, and no tensor is kept alive.
"""

from __future__ import annotations

import contextlib
import itertools
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
from squeezecam.axes import CONVOLUTION, Axes, follow, unknown
from squeezecam.details import details, span

WEIGHTED = (
    "convolution",
    "_convolution",
    "addmm",
    "mm",
    "linear",
    "bmm",
    "baddbmm",
    "matmul",
    "einsum",
    "mkldnn_rnn_layer",
    "addmv",
    "mv",
)


@dataclass
class Node:
    """One tensor of the pass: the operation that made it, its parents, and what is known of its axes."""

    op: str
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    live: bool  # depends on an input of the model
    const: str | None = None  # name of the parameter or buffer, also through views of it
    root: int | None = None  # index of the input leaf
    axes: Axes | None = None  # what its axes stand for; None for constants
    details: tuple[int, ...] = ()  # see details()


@dataclass(frozen=True)
class Door:
    """A tensor at the input or the output of a module.

    The path of a keyword argument begins with its name. ``moment`` orders doors and calls; ``known`` is the number of
    nodes that there were: what was made before does not see a tensor that is put in the place of this one.
    """

    module: str
    call: int
    when: str  # "input" | "output"
    item: tree.Path
    node: int
    moment: int
    known: int


@dataclass(frozen=True)
class Call:
    """One run of a module: the moments at which it began and ended, and the shapes that it returned."""

    module: str
    call: int
    start: int
    end: int
    shapes: tuple[tuple[tree.Path, tuple[int, ...]], ...]
    known: int  # nodes that there were at its end


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

    def reaches(self, roots: set[int], target: int, *, without: set[int], children: dict[int, list[int]]) -> bool:
        """Whether a path leads from ``roots`` to ``target`` past the nodes in ``without``."""
        stack, seen = list(roots - without), set(without)
        while stack:
            node = stack.pop()
            if node == target:
                return True
            if node not in seen:
                seen.add(node)
                stack.extend(children.get(node, []))
        return False

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
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # asked by PyTorch: otherwise every trace would first import the whole compiler, a second or more

    def __init__(self, graph: Graph, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.batch = batch
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
        for i, (_, tensor) in enumerate(made):
            node = Node(name, parents, tuple(tensor.shape), live, const)
            if live:
                self._label(node, args, given, i)
            self.add(tensor, node)
        return out

    def _label(self, node: Node, args: tuple[Any, ...], given: list[Tensor], index: int) -> None:
        """Note what the axes of ``node`` stand for and, of the operation, what that depends on."""
        parents = [self.graph.nodes[p] for p in node.parents]
        shape = next(p.shape for p in parents if p.live)
        cut = span(node.op, args, shape, index)
        if cut is not None:
            node.op, node.details = "slice", cut
        elif node.op in CONVOLUTION:
            node.details = tuple(given[1].shape[2:]) if len(given) > 1 else ()
        else:
            node.details = details(node.op, args, len(shape), index, shape)
        node.axes = follow(
            node.op, node.details, node.shape, [p.axes for p in parents], self.batch, str(len(self.graph.nodes))
        )


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Graph, Any]:
    """Run ``model`` once without gradients and return the data flow and the output.

    The model's hooks are not touched: module boundaries are seen through PyTorch's global hooks, only for this model,
    only in this thread, and only during the call.
    """
    graph = Graph()
    batch = tree.batch_size(args, kwargs)
    recorder = _Recorder(graph, batch)
    names = {id(module): name for name, module in reversed(list(model.named_modules(remove_duplicate=False)))}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if tensor not in recorder.index:
            recorder.add(tensor, Node("constant", (), tuple(tensor.shape), live=False, const=name))
    for path, tensor in tree.leaves((args, kwargs)):
        axes = unknown(tuple(tensor.shape), batch, f"{len(graph.inputs)}.")
        node = Node("input", (), tuple(tensor.shape), live=True, root=len(graph.inputs), axes=axes)
        graph.inputs.append((path, recorder.add(tensor, node)))
    # under inference mode operations are seen before they are taken apart, by other names
    with torch.inference_mode(False), torch.no_grad(), _doors(graph, recorder, names), recorder:
        output = model(*args, **kwargs)
    graph.outputs = [(path, recorder.lookup(tensor)) for path, tensor in tree.leaves(output)]
    return graph, output


@contextlib.contextmanager
def _doors(graph: Graph, recorder: _Recorder, names: dict[int, str]) -> Iterator[None]:
    thread = threading.get_ident()
    counts: dict[str, int] = {}
    open_calls: list[tuple[str, int, int, int]] = []
    clock = itertools.count()

    def seen(module: nn.Module) -> bool:
        return threading.get_ident() == thread and id(module) in names

    def note(name: str, call: int, when: str, value: Any, moment: int, known: int) -> None:
        for item, tensor in tree.leaves(value):
            node = recorder.lookup(tensor)
            if node < known or not graph.nodes[node].live:
                graph.doors.append(Door(name, call, when, item, node, moment, known))

    def before(module: nn.Module, args: Any) -> None:
        if not seen(module):
            return
        name = names[id(module)]
        call = counts.get(name, 0)
        counts[name] = call + 1
        moment = next(clock)
        open_calls.append((name, call, moment, len(graph.nodes)))
        note(name, call, "input", args, moment, len(graph.nodes))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not seen(module):
            return
        name = names[id(module)]
        while open_calls and open_calls[-1][0] != name:  # a module that raised and was caught inside the model
            open_calls.pop()
        if not open_calls:
            return
        _, call, start, known = open_calls.pop()
        # PyTorch shows keyword arguments to global hooks only now: what the module changed in place is no input any
        # more
        note(name, call, "input", kwargs, start, known)
        moment = next(clock)
        shapes = tuple((item, tuple(tensor.shape)) for item, tensor in tree.leaves(output))
        graph.calls.append(Call(name, call, start, moment, shapes, len(graph.nodes)))
        note(name, call, "output", output, moment, len(graph.nodes))

    first = module_hooks.register_module_forward_pre_hook(before)
    second = module_hooks.register_module_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        first.remove()
        second.remove()
