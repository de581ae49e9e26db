"""A plain function of the inputs, for compilers and exporters: ``(output, heatmap, gates)``."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import heatmap, tree, vector
from squeezecam.block import IDENTITY_GATE, full_precision, squeeze_positions
from squeezecam.errors import InputError
from squeezecam.explanation import standing_doubts
from squeezecam.focus import focus_map, focused
from squeezecam.locator import located_map
from squeezecam.methods import METHODS, default_method
from squeezecam.module import Squeeze, shared_copy
from squeezecam.refiner import refined_map
from squeezecam.sides import two_sides
from squeezecam.sizes import enlarged, input_size
from squeezecam.tap import by_keyword


class Plain(nn.Module):
    """``inputs -> (output, heatmap, gates)`` with permanent hooks on a copy of the model that shares its parameters.

    For ``torch.compile``, ``torch.export`` and ONNX: no decisions on values, no bookkeeping. One stream, the
    map of one output beside all that the model returns. It is that of :meth:`Squeeze.explain`; there is no status, but
    ``doubts`` has what is true of every map, one line each.

    Args:
        squeeze: from :func:`squeezecam.attach`.
        method: as in ``explain``; None is the same default.
        target: the class to explain; None is the predicted one.
        output: name of the output to explain; None is the default one.

    Raises:
        InputError: several streams, gates per frame, an unknown method or output, a class that the head does not have,
            or a site that runs more than once in a pass.

    """

    def __init__(
        self, squeeze: Squeeze, method: str | None = None, target: int | None = None, output: str | None = None
    ) -> None:
        super().__init__()
        self.training = squeeze.training  # its own flag only: the model's layers keep theirs
        if len(squeeze.places) != 1:
            raise InputError(
                f"as_module serves one stream, this model has {len(squeeze.places)}: {', '.join(squeeze.places)}"
            )
        if squeeze.per_frame:
            raise InputError("as_module serves one SE vector per clip: attach with gates='clip'")
        self.stream, self.place = next(iter(squeeze.places.items()))
        self.output = squeeze.output_name(output)
        self.method = method or default_method(squeeze, self.output, target)
        if self.method not in METHODS:
            raise InputError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
        self.head = squeeze.evidence(self.output)
        needed = METHODS[self.method].needs_refiner
        self.refiner = squeeze.refiner(self.output) if needed else None
        if needed and self.refiner is None:
            raise InputError(f"the map '{self.method}' needs a refiner, which squeeze.refine(batches) fits")
        if METHODS[self.method].of_class and self.head is None:
            raise InputError(
                "the class map needs a classification layer of a known form, or a read-out, which squeeze.fit(batches) "
                "makes: fit, or use method='published'"
            )
        if target is not None and self.head is not None:
            classes = len(self.head.offsets(squeeze.model))
            if not 0 <= target < classes:
                raise InputError(f"the target must lie in 0..{classes - 1}, got {target}")
        if self.place.call or not self.place.last:
            raise InputError(
                f"'{self.place.module}' runs more than once in a pass, which as_module does not serve: "
                "name another site"
            )
        self.locator = squeeze.locator(self.output) if METHODS[self.method].aggregate == "focus" else None
        self.target = target
        self.doubts = standing_doubts(squeeze, self.method, self.output, target)
        self.sides = squeeze.single[self.output] if self.output in squeeze.binary else None
        self.path = squeeze.outputs[self.output]
        self.input_path, self.frames_first = squeeze.input_paths[self.stream], squeeze.frames_first[self.stream]
        self.channels_last = squeeze.channels_last[self.stream]
        self.signed = squeeze.signed[self.stream]
        self.gating = squeeze.apply_mode == "gate"
        self.aggregate = squeeze.aggregate
        self.model = shared_copy(squeeze.model)
        self.block = squeeze.block(self.stream)
        self._box: dict[int, tuple[Tensor, Tensor]] = {}  # by thread, as the other two
        self._batch: dict[int, int] = {}
        # Methods, not closures: a copy of this module then hooks itself, and pickles.
        module = self.model.get_submodule(self.place.module)
        if self.place.when == "input":
            module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            module.register_forward_hook(self._after)
        self._fine: dict[int, Tensor] = {}
        self.looks_closer = METHODS[self.method].looks_closer and squeeze.finer is not None
        if self.looks_closer:
            assert squeeze.finer is not None
            self.model.get_submodule(squeeze.finer.module).register_forward_hook(self._keep_finer)

    def _keep_finer(self, module: nn.Module, args: Any, output: Any) -> None:
        self._fine[_thread()] = output.clone(memory_format=torch.contiguous_format)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return self._serve(kwargs if by_keyword(self.place) else args, (args, kwargs))

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._serve(output, output)

    def _serve(self, value: Any, within: Any) -> Any:
        tensor = tree.get(value, self.place.item)
        features = self.place.layout.unpack(tensor, self._batch[_thread()], self.place.grid)
        gates = self.block.gates(squeeze_positions(features))
        self._box[_thread()] = (features.clone(memory_format=torch.contiguous_format), gates)
        if not self.gating:
            return None
        return tree.replace_tensor(within, tensor, self.place.layout.scale(tensor, gates / IDENTITY_GATE))

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Tensor]:
        """The model's output, the heatmap at the input's size, and the SE vectors ``(N, C)``."""
        self._batch[_thread()] = tree.batch_size(args, kwargs)
        output = self.model(*args, **kwargs)
        features, gates = self._box.pop(_thread())
        del self._batch[_thread()]
        size = input_size(self.place, self.input_path, (args, kwargs), self.frames_first, self.channels_last)
        with full_precision(gates.device):
            values = tree.get(output, self.path)
            raw = self._map(features, gates, values if self.sides is None else two_sides(values, self.sides))
        return output, enlarged(raw[:, None], size, METHODS[self.method].upsample)[:, 0], gates

    def _map(self, features: Tensor, gates: Tensor, values: Tensor) -> Tensor:
        if METHODS[self.method].of_class:
            assert self.head is not None
            goal = values.argmax(1) if values.ndim == 2 else torch.zeros_like(values, dtype=torch.long)
            if self.target is not None:
                goal = torch.full_like(goal, self.target)
            in_path = gates / IDENTITY_GATE if self.gating else torch.ones_like(gates)
            scaled = features * in_path.view(*in_path.shape, *[1] * (features.ndim - 2))
            fine = self._fine.pop(_thread()) if self.looks_closer else None
            if self.refiner is not None:
                return refined_map(self.refiner, self.head, self.model, scaled, goal, values, fine)
            if self.locator is not None and fine is not None:
                component = heatmap.principal(scaled)
                located = located_map(self.locator, self.head, self.model, scaled, fine, component, goal, values)
                return focused(located, component, scaled, fine, signed=self.signed)
            if self.method == "focus":
                return focus_map(self.head, self.model, scaled, goal, self.signed, fine)
            return self.head.class_map(self.model, scaled, goal)
        score = gates
        if self.method == "contribution":
            score = gates * (self.head.squeeze(features) if self.head is not None else squeeze_positions(features))
        kept = vector.keep_rule(METHODS[self.method].keep)(score).mask
        return heatmap.aggregate(features, gates, kept, self.aggregate)


def _thread() -> int:
    """This thread, whose pass is its own; one name for all in what is compiled, where nothing is kept between calls."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()
