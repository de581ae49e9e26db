"""Reading and replacing the tensor at a place, for the length of one call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from squeezecam import tree
from squeezecam.errors import SiteError
from squeezecam.site import Place

_lock = threading.Lock()
_held: dict[nn.Module, int] = {}  # modules in training mode that are held in evaluation mode, and by how many

Handler = Callable[[Tensor], Tensor | None]


def register(
    model: nn.Module, place: Place, handler: Handler, *, thread: int | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Hook ``handler`` to a place; returns the handle to remove it.

    ``handler`` gets the tensor and returns a replacement, or None to leave it. Only the call of the module that was
    found in the probe is served, and only in ``thread`` where one is given.
    """
    count = 0

    def mine() -> bool:
        nonlocal count
        if thread is not None and threading.get_ident() != thread:
            return False
        count += 1
        return count - 1 == place.call

    def serve(value: Any, within: Any) -> Any:
        """``within`` with the replacement of the tensor that ``value`` has at the place, wherever it stands there."""
        try:
            tensor = tree.get(value, place.item)
        except (KeyError, IndexError, AttributeError, TypeError):
            tensor = None
        if not isinstance(tensor, Tensor):
            raise SiteError(
                f"the {place.when} of '{place.module}' has no tensor at {tree.show(place.item)} in this call, "
                "unlike in the probe"
            )
        new = handler(tensor)
        return None if new is None else tree.replace_tensor(within, tensor, new)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not mine():
            return None
        return serve(kwargs if by_keyword(place) else args, (args, kwargs))

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return serve(output, output) if mine() else None

    module = model.get_submodule(place.module)
    if _is_fused(model, place.module):
        return _register_unseen(module, before, after, place.when)
    if place.when == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def by_keyword(place: Place) -> bool:
    """Whether the tensor at ``place`` comes as a keyword argument of the module."""
    return place.when == "input" and bool(place.item) and isinstance(place.item[0], str)


def _is_fused(model: nn.Module, name: str) -> bool:
    """Whether a module belongs to an encoder layer of PyTorch, whose fused path is switched off by hooks on its
    modules.
    """
    parts = name.split(".")
    owners = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts) + 1)]
    return any(isinstance(owner, nn.TransformerEncoderLayer) for owner in owners)


def _register_unseen(
    module: nn.Module, before: Callable[..., Any], after: Callable[..., Any], when: str
) -> contextlib.AbstractContextManager[Any]:
    """The same through PyTorch's global hooks, which leave the fused path, and so the bits of the output, alone."""
    if when == "input":

        def first(seen: nn.Module, args: Any) -> Any:
            new = before(seen, args, {}) if seen is module else None
            return None if new is None else new[0]

        return module_hooks.register_module_forward_pre_hook(first)

    def second(seen: nn.Module, args: Any, output: Any) -> Any:
        return after(seen, args, output) if seen is module else None

    return module_hooks.register_module_forward_hook(second)


@contextlib.contextmanager
def tapped(model: nn.Module, places: dict[str, Place], handlers: dict[str, Handler]) -> Iterator[None]:
    """Hooks at ``places`` while the block runs, in this thread only; all are removed whatever happens."""
    with contextlib.ExitStack() as stack:
        for stream, handler in handlers.items():
            stack.enter_context(register(model, places[stream], handler, thread=threading.get_ident()))
        yield


def _modules(model: nn.Module) -> list[nn.Module]:
    """All modules, each once. ``model.modules()`` makes up names for them, which takes four times as long, and this is
    for every call.
    """
    found, seen = [model], {model}
    for module in found:  # which grows on the way
        new = [child for child in module._modules.values() if child is not None and child not in seen]
        found += new
        seen.update(new)
    return found


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of ``model`` in evaluation mode, and each one's own flag put back afterwards.

    Where several threads hold the same module, the last one to leave puts its flag back.
    """
    mine: list[nn.Module] = []
    with _lock:
        for module in _modules(model):
            if module.training or module in _held:
                _held[module] = _held.get(module, 0) + 1
                module.training = False
                mine.append(module)
    try:
        yield
    finally:
        with _lock:
            for module in mine:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True
