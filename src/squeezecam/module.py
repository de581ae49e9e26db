"""The ``Squeeze`` module: a model and its blocks together."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.anatomy import Candidate, Place
from squeezecam.block import IDENTITY_GATE, SEBlock
from squeezecam.calls import Calls
from squeezecam.errors import InputError, ModelError, SiteError, SqueezeWarning
from squeezecam.frames import scale_by, squeeze_stream
from squeezecam.head import Head
from squeezecam.heatmap import AGGREGATES
from squeezecam.joined import layer_inputs
from squeezecam.locator import Locator
from squeezecam.misfed import told
from squeezecam.origin import Origins
from squeezecam.readout import Readout, ReadoutHead
from squeezecam.refiner import Refiner
from squeezecam.sides import two_sides
from squeezecam.tap import Handler, evaluating, register, tapped

Apply = Literal["observe", "gate"]

_NO_GRADIENT = (
    "{}: this part of the model runs without gradients (torch.no_grad, or activation checkpointing), so its block does "
    "not train there, and what is computed again for the backward pass has no block in it: name a place outside that "
    "part with at=..."
)
_RUN_TWICE = (
    "{}: this part of the model runs under activation checkpointing, so it runs again in the backward pass, where no "
    "block is in its path: switch checkpointing off for this part, or name a place outside it with at=..."
)


@dataclass
class Capture:
    """What one stream showed in one pass: features ``(N, C, *S)``, squeezed vectors, SE vectors.

    Vectors are ``(N, C)``, or ``(N, T, C)`` where there is one for every frame. ``finer`` are features ``(N, C', H',
    W')`` of the last map that is twice as fine, where a locator is fitted, which looks at them. ``taken`` is, by
    output, what a classification layer takes of which this map is only some of the columns, ``(N, J)``.
    """

    features: Tensor
    squeezed: Tensor
    gates: Tensor
    finer: Tensor | None = None
    taken: dict[str, Tensor] = field(default_factory=dict)


class Squeeze(Calls):
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
        self.frames_first: dict[str, bool | None] = {}
        self.channels_last: dict[str, bool | None] = {}
        self.beside: dict[str, list[tree.Path]] = {}
        self.links: dict[str, str] = {}
        self.single: dict[str, str] = {}
        self.binary: set[str] = set()
        self.independent: set[str] = set()
        self.upstream: list[tuple[str, int, tuple[int, ...]]] = []
        self.example_batch = 1
        self.positional = 1
        self.example_leaves: dict[tree.Path, tuple[tuple[int, ...], torch.dtype]] = {}
        self.fit_info: dict[str, Any] = {}
        self.origins = Origins()
        self.candidates: list[Candidate] = []
        self.classifiers: dict[str, str | None] = {}
        self._readouts = nn.ModuleList()
        self._refiners = nn.ModuleList()
        self._locators = nn.ModuleList()
        self.finer: Place | None = None

    # --- passes -------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output: its own in ``observe`` mode, with gated features in ``gate`` mode."""
        if self.apply_mode == "observe":
            return self.model(*args, **kwargs)
        with self._taps(args, kwargs, None):
            return self.model(*args, **kwargs)

    def capture(
        self, inputs: Any, lengths: Tensor | None = None, *, finer: bool = True
    ) -> tuple[Any, dict[str, Capture]]:
        """One pass: the output, and per stream the features that came to the block, squeezed vectors and SE vectors.

        Of several streams those that the model did not run (an input that was not given) are left out. ``lengths``
        ``(N,)`` are the frames of each clip that are no padding. ``finer`` says whether the last finer map of the model
        is kept too, where it has one: what ``focus`` and ``refined`` look at.
        """
        args, kwargs = tree.as_call(inputs)
        found: dict[str, Capture] = {}
        fine: list[Tensor] = []
        taps = self._taps(args, kwargs, found, lengths)
        joined = {name: head.weight for name, head in self.heads.items() if head.columns is not None}
        with (
            told(self, inputs),
            tree.on_one_device(self, (args, kwargs)),
            taps,
            self._finer_tap(fine, finer),
            layer_inputs(self.model, joined) as taken,
        ):
            output = self.model(*args, **kwargs)
        missing = [stream for stream in self.places if stream not in found]
        if not found:
            places = ", ".join(self.places[stream].describe() for stream in missing)
            raise SiteError(
                f"the model did not pass {places} in this call, although it did in the probe: "
                "attach with a like example"
            )
        if fine:
            next(iter(found.values())).finer = fine[0]
        next(iter(found.values())).taken = taken
        return output, found

    def _finer_tap(self, fine: list[Tensor], wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Puts a copy of the finer features into ``fine``, where there are any to be read."""
        if self.finer is None or not wanted:
            return contextlib.nullcontext()

        def keep(tensor: Tensor) -> None:
            fine.append(tensor.detach().clone(memory_format=torch.contiguous_format))

        return register(self.model, self.finer, keep, thread=threading.get_ident())

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
        around = _checkpoint()  # of this module as a whole: what runs again then has the block in it

        def handle(tensor: Tensor) -> Tensor | None:
            if learning and not torch.is_grad_enabled():
                warnings.warn(_NO_GRADIENT.format(place.describe()), SqueezeWarning, stacklevel=2)
            if learning and _checkpoint() is not around:
                raise InputError(_RUN_TWICE.format(place.describe()))
            seen = self._see(stream, tensor, batch, lengths)
            if found is not None:  # a copy, because an in-place activation may follow
                features = seen.features.detach().clone(memory_format=torch.contiguous_format)
                found[stream] = Capture(features, seen.squeezed, seen.gates)
            return scale_by(place, tensor, seen.gates / IDENTITY_GATE, batch) if self.apply_mode == "gate" else None

        return handle

    def _see(self, stream: str, tensor: Tensor, batch: int, lengths: Tensor | None = None) -> Capture:
        place = self.places[stream]
        if tensor.is_complex():
            raise SiteError(
                f"{place.describe()}: its numbers are complex; name a place where they are real with at=..."
            )
        features = self._unpack(tensor, place, batch)
        squeezed = squeeze_stream(features, place.layout, per_frame=self.per_frame, lengths=lengths)
        return Capture(features, squeezed, self.block(stream).gates(squeezed))

    @staticmethod
    def _unpack(tensor: Tensor, place: Place, batch: int) -> Tensor:
        features = place.layout.unpack(tensor, batch, place.grid)
        if len(features) != batch:
            raise SiteError(
                f"{place.describe()}: the tensor of shape {tuple(tensor.shape)} holds {len(features)} samples, the "
                f"input {batch}; frames may have been folded into them: attach with a clip of several frames"
            )
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

    def save(self, path: Any) -> None:
        """Write blocks, site, settings and the model's fingerprint; see :func:`squeezecam.adapter.save`."""
        from squeezecam.adapter import save

        save(self, path)

    def as_module(
        self, method: str | None = None, target: int | None = None, *, output: str | None = None
    ) -> nn.Module:
        """A plain module ``inputs -> (output, heatmap, gates)`` for ``torch.compile``, export and ONNX.

        It shares parameters with this one, but its hooks are its own and permanent. ``output`` names the output to
        explain, where the model has several; all that it returns is passed on. What ``explain`` would say of every map
        (a block that is not fitted, a model that has changed since) is warned of, and kept as ``doubts``.
        """
        from squeezecam.plain import Plain
        from squeezecam.status import notice_of

        made = Plain(self, method, target, output)
        if said := notice_of("; ".join(made.doubts)):
            warnings.warn(f"the map of as_module: {said}", SqueezeWarning, stacklevel=2)
        return made

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

    @property
    def readouts(self) -> dict[str, Readout]:
        """Fitted class read-outs of outputs whose classification layer is of no known form."""
        return {readout.output: readout for readout in self._readouts if isinstance(readout, Readout)}

    def set_readouts(self, readouts: Iterable[Readout]) -> None:
        """Put these read-outs in the place of those there are."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        self._readouts = nn.ModuleList(readouts).to(device).train(self.training)
        for name, readout in self.readouts.items():
            for stream in readout:
                readout[stream].labels = name in self.independent

    def refiner(self, output: str | None = None) -> Refiner | None:
        """The fitted refiner of an output, or None."""
        name = self.output_name(output)
        return next((refiner for refiner in self.refiners if refiner.output == name), None)

    @property
    def refiners(self) -> list[Refiner]:
        """The fitted refiners, one per output at most."""
        return [refiner for refiner in self._refiners if isinstance(refiner, Refiner)]

    def set_refiner(self, refiner: Refiner, finer: Place | None = None) -> None:
        """Put this refiner in the place of the one of its output; ``finer`` is where it looks at a finer map."""
        self.finer = self.finer if finer is None else finer
        others = [known for known in self.refiners if known.output != refiner.output]
        self._refiners = nn.ModuleList([*others, refiner.eval().requires_grad_(False)])  # none of a training's business

    def locator(self, output: str | None = None) -> Locator | None:
        """The fitted locator of an output, or None."""
        name = self.output_name(output)
        return next((locator for locator in self.locators if locator.output == name), None)

    @property
    def locators(self) -> list[Locator]:
        """The fitted locators, one per output at most."""
        return [locator for locator in self._locators if isinstance(locator, Locator)]

    def set_locator(self, locator: Locator, finer: Place) -> None:
        """Put this locator in the place of the one of its output; ``finer`` is where its finer features are read."""
        self.finer = finer
        others = [known for known in self.locators if known.output != locator.output]
        self._locators = nn.ModuleList([*others, locator.eval().requires_grad_(False)])

    def evidence(self, output: str | None = None, stream: str | None = None) -> Head | ReadoutHead | None:
        """What gives the evidence for a class: the verified formula, else the fitted read-out of ``stream``, or None.

        ``stream`` is the first one by default.
        """
        name = self.output_name(output)
        readout = self.readouts.get(name)
        if name in self.heads or readout is None:
            return self.heads.get(name)
        return readout.get(stream if stream is not None else next(iter(self.places)))

    def output_name(self, output: str | None) -> str:
        """``output`` checked, or the default."""
        if output is None:
            return self.default_output
        if str(output) not in self.outputs:  # str: the outputs of a tuple are named by their place
            raise InputError(f"the model has no output '{output}'; it has {', '.join(self.outputs)}")
        return str(output)

    def select(self, result: Any, output: str | None = None) -> Tensor:
        """The tensor of one output out of what the model returned; of a binary one the scores of its two sides.

        Raises:
            ModelError: the model returned something else than when it was attached.
        """
        name = self.output_name(output)
        try:
            found = tree.get(result, self.outputs[name])
        except (KeyError, IndexError, AttributeError):
            found = None
        if not isinstance(found, Tensor):
            raise ModelError(
                f"the model returned {type(result).__name__}, in which its output '{name}' is not where it was: some "
                "return auxiliary outputs too while they are trained; give a model without them"
            )
        return two_sides(found, self.single[name]) if name in self.binary else found

    def extra_repr(self) -> str:
        """Where, layout, channels, grid, head, parameters added."""
        lines = [f"apply={self.apply_mode}, {'fitted' if self.fitted else 'not fitted'}"]
        for stream, place in self.places.items():
            added = sum(p.numel() for p in self.block(stream).parameters())
            lines.append(f"{stream}: {place.describe()}, {added:,} parameters added")
        for name in self.outputs:
            head = self.evidence(name)
            lines.append(
                f"head of '{name}': {head.describe() if head else 'not one of the known forms, no exact class map'}"
            )
        looks = "" if self.finer is None else f", looks at the {self.finer.describe()}"
        lines += [f"{refiner.describe()}{looks if refiner.finer else ''}" for refiner in self.refiners]
        lines += [f"{locator.describe()}{looks}" for locator in self.locators]
        return "\n".join(lines)

    def __repr__(self) -> str:
        inner = self.extra_repr().replace("\n", "\n  ")
        return f"Squeeze around {type(self.model).__name__}\n  {inner}"


def _checkpoint() -> Any:
    """The checkpoint of ``torch.utils.checkpoint`` that is at work (not of its reentrant form, which runs without
    gradients), or None.
    """
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    top = hooks(False) if hooks is not None else None
    return top[0] if top is not None and getattr(top[0], "__module__", "") == "torch.utils.checkpoint" else None


def shared_copy(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` that shares its parameters and buffers."""
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)
