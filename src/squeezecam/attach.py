"""The ``Squeeze`` module: a model and its blocks together."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.anatomy import Anatomy, Candidate, Place, Site, examine
from squeezecam.block import IDENTITY_GATE, SEBlock
from squeezecam.errors import InputError, SiteError, SqueezeError, SqueezeWarning
from squeezecam.frames import name_time, scale_by, squeeze_stream
from squeezecam.graph import Call
from squeezecam.head import Head, find_head
from squeezecam.heatmap import AGGREGATES, suited_aggregate
from squeezecam.tap import Handler, evaluating, tapped

if TYPE_CHECKING:
    from squeezecam.explanation import Explanation
    from squeezecam.fit import FitReport

Apply = Literal["observe", "gate"]
Gates = Literal["clip", "frame"]

_NO_GRADIENT = (
    "{}: this part of the model runs without gradients (torch.no_grad, or activation checkpointing), so its block does "
    "not train there: name a place outside it with at=..."
)

_COMPILED = (
    "the model was compiled before attaching: Squeeze runs the eager model inside it, whose weights it shares; "
    "for speed compile squeeze.as_module() instead"
)


@dataclass
class Capture:
    """What one stream showed in one pass: features ``(N, C, *S)``, squeezed vectors, SE vectors.

    Vectors are ``(N, C)``, or ``(N, T, C)`` where there is one for every frame.
    """

    features: Tensor
    squeezed: Tensor
    gates: Tensor


class Squeeze(nn.Module):
    """A model with an SE block before its classifier. Calling it calls the model; ``explain`` gives the heatmap.

    Made by :func:`attach`. The wrapped model keeps its class, its ``state_dict`` keys and what ``model(x)`` returns:
    hooks exist only while a pass through this module runs. In ``observe`` mode outputs are the model's own to the bit;
    in ``gate`` mode the block is in the path and trains with the model.
    """

    def __init__(self, model: nn.Module, places: dict[str, Place], blocks: dict[str, SEBlock], apply: Apply) -> None:
        super().__init__()
        self.model = model
        self.blocks = nn.ModuleDict(blocks)
        self.places = places
        self.apply_mode: Apply = apply
        self.per_frame = False
        self.heads: dict[str, Head] = {}
        self.outputs: dict[str, tree.Path] = {}
        self.default_output = "output"
        self.signed: dict[str, bool] = {}
        self.aggregates: dict[str, str] = {}
        self.input_paths: dict[str, tree.Path] = {}
        self.upstream: list[tuple[str, int, tuple[int, ...]]] = []
        self.example_batch = 1
        self.positional = 1
        self.fit_info: dict[str, Any] = {}
        self.candidates: list[Candidate] = []
        self.classifiers: dict[str, str | None] = {}

    # --- passes -------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output: its own in ``observe`` mode, with gated features in ``gate`` mode."""
        if self.apply_mode == "observe":
            return self.model(*args, **kwargs)
        with self._taps(args, kwargs, None):
            return self.model(*args, **kwargs)

    def capture(self, inputs: Any, lengths: Tensor | None = None) -> tuple[Any, dict[str, Capture]]:
        """One pass: the output, and per stream the features that came to the block, squeezed vectors and SE vectors.

        Of several streams those that the model did not run (an input that was not given) are left out. ``lengths``
        ``(N,)`` are the frames of each clip that are no padding.
        """
        args, kwargs = tree.as_call(inputs)
        found: dict[str, Capture] = {}
        with self._taps(args, kwargs, found, lengths):
            output = self.model(*args, **kwargs)
        missing = [stream for stream in self.places if stream not in found]
        if not found:
            places = ", ".join(self.places[stream].describe() for stream in missing)
            raise SiteError(
                f"the model did not pass {places} in this call, although it did in the probe: "
                "attach with a like example"
            )
        return output, found

    def _taps(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        found: dict[str, Capture] | None,
        lengths: Tensor | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        batch = tree.batch_size(args, kwargs)
        handlers = {stream: self._handler(stream, batch, found, lengths) for stream in self.places}
        return tapped(self.model, self.places, handlers)

    def _handler(
        self, stream: str, batch: int, found: dict[str, Capture] | None, lengths: Tensor | None = None
    ) -> Handler:
        place = self.places[stream]
        learning = self.training and torch.is_grad_enabled() and self.apply_mode == "gate"

        def handle(tensor: Tensor) -> Tensor | None:
            if learning and not torch.is_grad_enabled():
                warnings.warn(_NO_GRADIENT.format(place.describe()), SqueezeWarning, stacklevel=2)
            seen = self._see(stream, tensor, batch, lengths)
            if found is not None:  # a copy, because an in-place activation may follow
                features = seen.features.detach().clone(memory_format=torch.contiguous_format)
                found[stream] = Capture(features, seen.squeezed, seen.gates)
            return scale_by(place, tensor, seen.gates / IDENTITY_GATE, batch) if self.apply_mode == "gate" else None

        return handle

    def _see(self, stream: str, tensor: Tensor, batch: int, lengths: Tensor | None = None) -> Capture:
        place = self.places[stream]
        features = self._unpack(tensor, place, batch)
        squeezed = squeeze_stream(features, place.layout, per_frame=self.per_frame, lengths=lengths)
        return Capture(features, squeezed, self.block(stream).gates(squeezed))

    @staticmethod
    def _unpack(tensor: Tensor, place: Place, batch: int) -> Tensor:
        features = place.layout.unpack(tensor, batch, place.grid)
        if features.shape[1] != place.channels:
            raise SiteError(
                f"{place.describe()}: the tensor of shape {tuple(tensor.shape)} has {features.shape[1]} channels "
                "in this call"
            )
        return features

    def predict(self, inputs: Any, change: Callable[[str, Capture], Tensor]) -> Any:
        """The output when the features of each stream are scaled by ``change(stream, capture)``, shaped as the gates.

        For interventions: ``squeeze.predict(x, lambda stream, seen: intervene(torch.ones_like(seen.gates), channels,
        "drop"))``.
        """
        args, kwargs = tree.as_call(inputs)
        batch = tree.batch_size(args, kwargs)

        def handler(stream: str) -> Handler:
            place = self.places[stream]

            def handle(tensor: Tensor) -> Tensor:
                return scale_by(place, tensor, change(stream, self._see(stream, tensor, batch)), batch)

            return handle

        with torch.no_grad(), evaluating(self), tapped(self.model, self.places, {s: handler(s) for s in self.places}):
            return self.model(*args, **kwargs)

    # --- what users call ----------------------------------------------------------------------------

    def explain(self, inputs: Any, **options: Any) -> Explanation:
        """Heatmaps for a batch in one forward pass; see :func:`squeezecam.explanation.explain` for the options."""
        from squeezecam.explanation import explain

        return explain(self, inputs, **options)

    def fit(self, batches: Any, **options: Any) -> FitReport:
        """Fit the blocks, without labels unless told; see :func:`squeezecam.fit.fit` for the options."""
        from squeezecam.fit import fit

        return fit(self, batches, **options)

    def save(self, path: Any) -> None:
        """Write blocks, site, settings and the model's fingerprint; see :func:`squeezecam.adapter.save`."""
        from squeezecam.adapter import save

        save(self, path)

    def as_module(self, method: str | None = None, target: int | None = None) -> nn.Module:
        """A plain module ``inputs -> (output, heatmap, gates)`` for ``torch.compile``, export and ONNX.

        It shares parameters with this one, but its hooks are its own and permanent.
        """
        from squeezecam.plain import Plain

        return Plain(self, method, target)

    def block(self, stream: str | None = None) -> SEBlock:
        """The block of a stream; of the only one by default."""
        block = self.blocks[stream if stream is not None else next(iter(self.blocks))]
        assert isinstance(block, SEBlock)
        return block

    @property
    def fitted(self) -> bool:
        """Whether every block has left its identity start."""
        return all(self.block(stream).fitted for stream in self.places)

    @property
    def aggregate(self) -> str:
        """How kept channels make a map where nobody says how: the mean unless it would cancel in one of the streams."""
        return max(self.aggregates.values(), key=AGGREGATES.index, default="mean")

    def head(self, output: str | None = None) -> Head | None:
        """The verified formula of an output's classification layer, or None."""
        return self.heads.get(self.output_name(output))

    def output_name(self, output: str | None) -> str:
        """``output`` checked, or the default."""
        if output is None:
            return self.default_output
        if str(output) not in self.outputs:  # str: the outputs of a tuple are named by their place
            raise InputError(f"the model has no output '{output}'; it has {', '.join(self.outputs)}")
        return str(output)

    def select(self, result: Any, output: str | None = None) -> Tensor:
        """The tensor of one output out of what the model returned."""
        found = tree.get(result, self.outputs[self.output_name(output)])
        assert isinstance(found, Tensor)
        return found

    def extra_repr(self) -> str:
        """Where, layout, channels, grid, head, parameters added."""
        lines = [f"apply={self.apply_mode}, {'fitted' if self.fitted else 'not fitted'}"]
        for stream, place in self.places.items():
            added = sum(p.numel() for p in self.block(stream).parameters())
            lines.append(f"{stream}: {place.describe()}, {added:,} parameters added")
        for name in self.outputs:
            head = self.heads.get(name)
            lines.append(
                f"head of '{name}': {head.describe() if head else 'not one of the known forms, no exact class map'}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        inner = self.extra_repr().replace("\n", "\n  ")
        return f"Squeeze around {type(self.model).__name__}\n  {inner}"


def attach(
    model: nn.Module,
    example: Any,
    *,
    at: Any = None,
    apply: Apply = "observe",
    gates: Gates = "clip",
    reduction: int = 16,
    hidden: int | None = None,
) -> Squeeze:
    """Put an SE block before the classifier of ``model``.

    Two forward passes on ``example``: one to trace the data flow, one to verify what was found on the numbers
    themselves.

    Args:
        model: any classifier, regressor or multi-label network. It is not changed.
        example: what the model takes: a tensor, a tuple (positional) or a dict (keyword arguments).
        at: None (found), a module or its name, a :class:`Site`, or ``{stream: any of these}``.
        apply: ``"observe"``: outputs stay the model's own, to the bit; ``"gate"``: the block is in the path, as
            published.
        gates: ``"clip"``: one SE vector per sample, as published; ``"frame"``: one for every frame of a clip.
        reduction: channels divided by the hidden width of the block.
        hidden: the hidden width itself.

    Raises:
        SiteError: no feature map with spatial extent, or ``at`` does not name one.
        InputError: something else than a module, or a Squeeze, was given; ``at`` or ``apply`` is of no known form.

    """
    if isinstance(model, Squeeze):
        raise InputError("this model is a Squeeze already: attach to its .model, or go on with it")
    if not isinstance(model, nn.Module):
        raise InputError(f"attach takes an nn.Module, got {type(model).__name__}")
    if apply not in ("observe", "gate"):
        raise InputError(f"apply must be 'observe' or 'gate', got '{apply}'")
    if gates not in ("clip", "frame"):
        raise InputError(f"gates must be 'clip' or 'frame', got '{gates}'")
    _check_sites(at)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise InputError("the model has lazy layers that never ran: run it once on an example, then attach")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a scripted or traced model shows nothing of its inside: attach to the nn.Module it was made from"
        )
    if hasattr(model, "_orig_mod"):
        warnings.warn(_COMPILED, SqueezeWarning, stacklevel=2)
        model = model.get_submodule("_orig_mod")
    args, kwargs = tree.as_call(example)
    if not tree.leaves((args, kwargs)):
        raise InputError(
            f"the example holds no tensor, it is {type(example).__name__}: give what the model takes, "
            "a tensor with a batch axis, a tuple or a dict of arguments"
        )
    with torch.no_grad(), evaluating(model):
        anatomy = examine(model, args, kwargs, at)
        anatomy.places = _named_streams(model, anatomy.places)
        probed = tree.get(anatomy.result, anatomy.outputs[anatomy.default_output])
        if len(anatomy.places) > 1 and probed.ndim == 3:
            anatomy.places = name_time(anatomy.places, probed.shape[1])
        squeeze = Squeeze(model, anatomy.places, _blocks(model, anatomy, reduction, hidden), apply)
        squeeze.per_frame = gates == "frame"
        _describe(squeeze, anatomy, args, kwargs)
    squeeze.training = model.training  # not train(): the model's layers keep their own flags
    squeeze.blocks.train(model.training)
    return squeeze


def get(module: nn.Module) -> Squeeze:
    """The :class:`Squeeze` inside a wrapped, compiled or copied module.

    Raises:
        SqueezeError: there is none, or more than one.

    """
    found = [m for m in module.modules() if isinstance(m, Squeeze)]
    if len(found) != 1:
        raise SqueezeError(
            f"{type(module).__name__} holds {len(found)} Squeeze modules, expected one; made by squeezecam.attach"
        )
    return found[0]


def _check_sites(at: Any) -> None:
    if isinstance(at, dict) and not at:
        raise InputError("at={} names no place: give {stream: place}, or None to have it found")
    for stream, site in at.items() if isinstance(at, dict) else [("map", at)]:
        if not isinstance(stream, str) or not stream or "." in stream or hasattr(nn.ModuleDict, stream):
            raise InputError(f"{stream!r} cannot name a stream: take a word such as 'face' or 'audio'")
        if not isinstance(site, (str, nn.Module, Site)) and not (site is None and at is None):
            raise InputError(f"a place is a module, its name or a Site; got {type(site).__name__}")


def _named_streams(model: nn.Module, places: dict[str, Place]) -> dict[str, Place]:
    """Streams that were found by the place of their input, ``0`` and ``1``, by the names that the model gives them."""
    if not all(stream.isdigit() for stream in places):
        return places
    try:
        names = list(inspect.signature(model.forward).parameters)
        named = {names[int(stream)]: place for stream, place in places.items()}
    except (ValueError, TypeError, IndexError):
        return places
    taken = any(hasattr(nn.ModuleDict, name) for name in named)
    return places if taken or len(named) != len(places) else named


def _blocks(model: nn.Module, anatomy: Anatomy, reduction: int, hidden: int | None) -> dict[str, SEBlock]:
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    dtype = torch.promote_types(reference.dtype, torch.float32)  # half would drown the narrow gates
    with torch.inference_mode(False):  # weights made under inference mode could never be trained
        return {
            stream: SEBlock(place.channels, reduction, hidden=hidden).to(device=reference.device, dtype=dtype)
            for stream, place in anatomy.places.items()
        }


def _describe(squeeze: Squeeze, anatomy: Anatomy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Second pass: verify heads on the numbers, note signs, outputs and what stands before the map."""
    batch = tree.batch_size(args, kwargs)
    squeeze.outputs, squeeze.default_output = anatomy.outputs, anatomy.default_output
    squeeze.example_batch, squeeze.positional = batch, max(1, len(args))
    squeeze.candidates = anatomy.candidates
    squeeze.classifiers = {name: weights[0] for name, weights in anatomy.weights.items()}
    mode, squeeze.apply_mode = squeeze.apply_mode, "observe"
    try:
        found: dict[str, Capture] = {}
        with squeeze._taps(args, kwargs, found):
            result = squeeze.model(*args, **kwargs)
    finally:
        squeeze.apply_mode = mode
    for stream, seen in found.items():
        squeeze.signed[stream] = bool((seen.features < 0).any())
        squeeze.aggregates[stream] = suited_aggregate(seen.features)
        squeeze.input_paths[stream] = _input_of(anatomy, squeeze.places[stream])
    if len(found) == 1:
        features = next(iter(found.values())).features
        for name, path in squeeze.outputs.items():
            output = tree.get(result, path)
            head = find_head(squeeze.model, features, output, name, path, anatomy.weights[name])
            if head is not None:
                squeeze.heads[name] = head
        squeeze.upstream = _before(anatomy, next(iter(squeeze.places.values())))
    else:
        squeeze.upstream = _before_all(anatomy, list(squeeze.places.values()))


def _input_of(anatomy: Anatomy, place: Place) -> tree.Path:
    """The input leaf that the map at ``place`` is made of: the one with the most axes."""
    made_of = anatomy.graph.ancestors([place.node])
    leaves = [(path, node) for path, node in anatomy.graph.inputs if node in made_of]
    return max(leaves, key=lambda leaf: len(anatomy.graph.nodes[leaf[1]].shape))[0] if leaves else (0, 0)


def _before(anatomy: Anatomy, place: Place) -> list[tuple[str, int, tuple[int, ...]]]:
    """Module calls that end before the map is there and return one tensor: outermost only, with their shapes."""
    doors = anatomy.graph.doors
    at_place = (place.module, place.when, place.item, place.call)
    here = max(d.moment for d in doors if (d.module, d.when, d.item, d.call) == at_place)
    return _outermost([c for c in anatomy.graph.calls if c.end <= here])


def _before_all(anatomy: Anatomy, places: list[Place]) -> list[tuple[str, int, tuple[int, ...]]]:
    """The same for several streams: calls without a place inside, whose results pass places before the output."""
    graph = anatomy.graph
    nodes, children = {place.node for place in places}, graph.children()
    leaves = [node for path, node in graph.outputs if path in anatomy.outputs.values()]
    moments = [
        max(d.moment for d in graph.doors if (d.module, d.when, d.item, d.call) == (p.module, p.when, p.item, p.call))
        for p in places
    ]
    results = {(d.module, d.call): d.node for d in graph.doors if d.when == "output"}

    def replaced(call: Call) -> bool:
        if any(call.start <= moment < call.end for moment in moments) or (call.module, call.call) not in results:
            return False
        node = results[call.module, call.call]
        return not any(graph.reaches({node}, leaf, without=nodes, children=children) for leaf in leaves)

    return _outermost([c for c in graph.calls if replaced(c)])


def _outermost(calls: list[Call]) -> list[tuple[str, int, tuple[int, ...]]]:
    """Module, number of the call and shape, of calls that return one tensor and lie in no other of them."""
    calls = [c for c in calls if len(c.shapes) == 1 and c.shapes[0][0] == () and c.module]
    return [
        (c.module, c.call, c.shapes[0][1])
        for c in calls
        if not any(
            o.start <= c.start and c.end <= o.end and o is not c and (o.end - o.start) > (c.end - c.start)
            for o in calls
        )
    ]


def shared_copy(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` that shares its parameters and buffers."""
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)
