"""Running only what comes after the map: from given features to the model's output."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.arguments import is_shared, where_given
from squeezecam.module import Squeeze
from squeezecam.tap import Handler, tapped

_lock = threading.Lock()


class HeadRunner:
    """The part of a model after its places, run on features that are handed in.

    The model itself is called, so any head works: module calls that end before the map is there return placeholders,
    the tensors at the places are replaced by the given ones, and what follows is the model's own code, with gradients
    where they are wanted. Whether this gives the model's output is a matter of trying: see :meth:`reproduces`.

    Args:
        squeeze: the attached model.
        inputs: one real batch, for the structure and the shapes of what the model takes.
        skip: leave out the module calls before the map. Without, the whole model runs on placeholders, slower and more
            surely.
        dtypes: ``{stream: dtype}`` of the model's own tensors at the places, where float32 may be handed in.
        keep: inputs, as paths in ``(args, kwargs)``, that are needed as they are beside the features; None: those that
            go past the places (``squeeze.beside`` of ``output``). Placeholders stand for all others.
        output: name of the output whose inputs these are; None: the default one.

    """

    def __init__(
        self,
        squeeze: Squeeze,
        inputs: Any,
        *,
        skip: bool = True,
        dtypes: dict[str, torch.dtype] | None = None,
        keep: Sequence[tree.Path] | None = None,
        output: str | None = None,
    ) -> None:
        self.squeeze = squeeze
        self.args, self.kwargs = tree.as_call(inputs)
        self.batch = tree.batch_size(self.args, self.kwargs)
        self.skip = skip and bool(squeeze.upstream)
        self.dtypes = dtypes or {}
        kept = squeeze.beside.get(squeeze.output_name(output), []) if keep is None else keep
        self.keep = [where_given(squeeze.model, path, (self.args, self.kwargs)) for path in kept]

    @property
    def per_sample(self) -> list[tree.Path]:
        """The inputs of ``keep`` that have a row for each sample; the others are the same in all batches."""
        call = (self.args, self.kwargs)
        kept = {path: tree.get(call, path) for path in self.keep}
        own = {path: tensor for path, tensor in kept.items() if not is_shared(self.squeeze, path, tensor)}
        return [path for path, tensor in own.items() if len(tensor) == self.batch]

    def rows(self, index: Tensor) -> list[Tensor]:
        """The inputs of ``per_sample`` for the samples in ``index`` of the batch that the runner was made with."""
        found = [tree.get((self.args, self.kwargs), path) for path in self.per_sample]
        return [tensor[index.to(tensor.device)] for tensor in found]

    def run(self, raws: dict[str, Tensor], batch: int, beside: Sequence[Tensor] | None = None) -> Any:
        """The model's output for tensors at the places, in the layout of the place and with ``batch`` samples.

        ``beside`` are the inputs of ``per_sample`` for these samples; None: they are those of the runner's own batch.
        """
        if beside is None and self.per_sample:
            if batch != self.batch:
                raise ValueError(f"{batch} samples, and the inputs beside the map of {self.batch}: give beside=...")
            beside = self.rows(torch.arange(batch))
        args, kwargs = self._placeholders(batch, beside or [])
        raws = {stream: raw.to(self.dtypes.get(stream, raw.dtype)) for stream, raw in raws.items()}
        handlers: dict[str, Handler] = {stream: (lambda _, raw=raw: raw) for stream, raw in raws.items()}  # type: ignore[misc]
        with self._skipping(batch), tapped(self.squeeze.model, self.squeeze.places, handlers):
            return self.squeeze.model(*args, **kwargs)

    def reproduces(self, raws: dict[str, Tensor], expected: Tensor, output: str, *, tolerance: float = 1e-4) -> bool:
        """Whether the head alone gives ``expected`` (the values of one output) on these features."""
        if expected.is_floating_point():
            tolerance = max(tolerance, 4 * torch.finfo(expected.dtype).eps)
        if expected.is_cuda:  # another memory format may choose another kernel, and TF32 has few digits
            tolerance = max(tolerance, 1e-3)
        try:
            with torch.no_grad():
                got = self.squeeze.select(self.run(raws, len(expected)), output)
        except Exception:  # whatever a foreign model raises on placeholders, the answer is no
            return False
        if got.shape != expected.shape or not expected.isfinite().all():
            return False
        scale = expected.abs().amax().clamp_min(1e-6)
        return bool((got - expected).abs().amax() <= tolerance * scale)

    def _placeholders(self, batch: int, beside: Sequence[Tensor]) -> tuple[Any, Any]:
        call = (self.args, self.kwargs)
        own = dict(zip(self.per_sample, beside, strict=True))
        for path, tensor in tree.leaves(call):
            if path in own:
                call = tree.replace(call, path, own[path])
            if path in self.keep:
                continue
            shape = list(tensor.shape)
            if shape and shape[0] == self.batch:
                shape[0] = batch
            call = tree.replace(call, path, torch.zeros(shape, dtype=tensor.dtype, device=tensor.device))
        return call

    @contextlib.contextmanager
    def _skipping(self, batch: int) -> Iterator[None]:
        if not self.skip:
            yield
            return
        skipped: dict[str, dict[int, tuple[int, ...]]] = {}
        for name, call, shape in self.squeeze.upstream:
            skipped.setdefault(name, {})[call] = shape
        reference = next(iter(tree.leaves((self.args, self.kwargs))))[1]
        with contextlib.ExitStack() as stack:
            for name, shapes in skipped.items():
                module = self.squeeze.model.get_submodule(name)
                stack.enter_context(_stubbed(module, shapes, self.squeeze.example_batch, batch, reference.device))
            yield


@contextlib.contextmanager
def _stubbed(
    module: nn.Module, shapes: dict[int, tuple[int, ...]], example_batch: int, batch: int, device: torch.device
) -> Iterator[None]:
    """``module`` returns placeholders in the calls named in ``shapes`` and works as ever in the others, and in other
    threads.
    """
    count = 0

    def placeholder() -> Tensor | None:
        nonlocal count
        count += 1
        shape = shapes.get(count - 1)
        if shape is None:
            return None
        return torch.zeros((), device=device).expand(shape[0] // example_batch * batch, *shape[1:])

    with _lock:
        stub = module.__dict__.get("forward")
        if not isinstance(stub, _Stub):
            stub = module.__dict__["forward"] = _Stub(module)
        stub.by_thread[threading.get_ident()] = placeholder
    try:
        yield
    finally:
        with _lock:
            del stub.by_thread[threading.get_ident()]
            if not stub.by_thread:
                stub.remove()


class _Stub:
    """Stands in for the ``forward`` of a module, for as long as a thread wants placeholders of it."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.original = module, module.forward
        self.had_own = "forward" in module.__dict__
        self.by_thread: dict[int, Callable[[], Tensor | None]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wanted = self.by_thread.get(threading.get_ident())
        found = wanted() if wanted is not None else None
        return self.original(*args, **kwargs) if found is None else found

    def remove(self) -> None:
        """The module has its own back."""
        if self.had_own:
            self.module.__dict__["forward"] = self.original
        else:
            del self.module.__dict__["forward"]
