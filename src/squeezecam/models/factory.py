"""``file.py:factory`` and ``module.path:factory``: somebody's own function that returns a model."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from squeezecam.errors import ModelError
from squeezecam.models.clips import Clips, DefaultClipPreprocess, clips_of
from squeezecam.models.labels import Labels, as_labels
from squeezecam.models.loaded import DEFAULT_SIDE, DefaultPreprocess, LoadedModel
from squeezecam.models.weights import names


def from_factory(spec: str) -> LoadedModel:
    """The model of ``file.py:factory`` or ``module.path:factory``.

    The factory is a function without required arguments (or an ``nn.Module`` subclass, or a ready model) that gives a
    model or ``(model, preprocess)``. Class names are taken from ``FACTORY_LABELS`` or ``LABELS`` in its file, if any.
    Without a preprocessing `DefaultPreprocess` is assumed, and ``source`` says so. A model of clips (see `clips_of`)
    has a preprocessing that takes a list of pictures and gives ``(C, T, h, w)``.

    Raises:
        ModelError: the file, the function or what it returns is not usable.
    """
    place, _, attribute = spec.rpartition(":")
    module = load_file(Path(place)) if is_file(place) else _import(place)
    shown = f"{Path(place).name if is_file(place) else place}:{attribute}"
    model, preprocess = _call(_attribute(module, attribute, place), shown, place)
    source, assumed = shown, ""
    clips = clips_of(model)
    if preprocess is None:
        preprocess = _assumed(model) if clips is None else DefaultClipPreprocess(clips.frames, _assumed(model, clips))
        assumed = str(preprocess)
        source += f"; it gives no preprocessing, assumed: {preprocess}"
    labels = _labels(module, attribute, shown)
    if clips is None:
        return LoadedModel(model, preprocess, labels, attribute, (), source, assumed=assumed)
    return LoadedModel(model, preprocess, labels, attribute, (), source, clips.feed, clip=True, assumed=assumed)


def is_file(place: str) -> bool:
    """Whether the part before the colon names a file rather than a module."""
    return place.endswith(".py") or "/" in place or "\\" in place


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own.

    Its name in ``sys.modules`` is made of the file's name and a hash of its place and content: it collides with
    nothing, classes of the file can be pickled, an edited file is a new module, and an unchanged one is run only once.

    Raises:
        ModelError: no such file, or running it fails.
    """
    resolved = path.expanduser().resolve()
    try:
        code = resolved.read_bytes()
    except OSError as error:
        raise ModelError(f"--model file {path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(str(resolved).encode() + b"\0" + code).hexdigest()[:12]
    name = f"_squeezecam_model_{''.join(c if c.isalnum() else '_' for c in resolved.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None:
        raise ModelError(f"--model file {path} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Compiled here, not by the loader: that would trust a stale __pycache__ and write one beside the user's file.
        exec(compile(code, str(resolved), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"--model file {path} failed while it was read: {_reason(error, resolved)}") from error
    return module


def _import(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == place.partition(".")[0]:
            hint = "; a module in this folder is found with PYTHONPATH=. , a file as path/to/file.py:factory"
        raise ModelError(f"module {place!r} cannot be imported: {_reason(error, None)}{hint}") from error


def _attribute(module: ModuleType, attribute: str, place: str) -> Any:
    if hasattr(module, attribute):
        return getattr(module, attribute)
    offered = _offered(module)
    listing = (
        f"it offers {names(offered, 12)}" if offered else "it has no function that can be called without arguments"
    )
    raise ModelError(f"{place} has no {attribute!r}; {listing}" if attribute else f"{place}: name a factory; {listing}")


def _offered(module: ModuleType) -> list[str]:
    """What could be a factory: functions first, then classes of models and models."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    functions = [
        name
        for name, value in own.items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not _required(value)
    ]
    modules = [
        name
        for name, value in own.items()
        if isinstance(value, nn.Module)
        or (
            inspect.isclass(value)
            and issubclass(value, nn.Module)
            and value.__module__ == module.__name__
            and not _required(value)
        )
    ]
    return functions or modules


def _required(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in free]


def _call(factory: Any, shown: str, place: str) -> tuple[nn.Module, Callable[[Any], Any] | None]:
    returned = factory
    if not isinstance(factory, nn.Module):
        if not callable(factory):
            raise ModelError(f"{shown} is of type {type(factory).__name__}, not a function that returns a model")
        required = _required(factory)
        if required:
            raise ModelError(f"{shown} needs arguments ({names(required)}); a factory takes none")
        try:
            returned = factory()
        except (Exception, SystemExit) as error:
            where = Path(place).expanduser().resolve() if is_file(place) else None
            raise ModelError(f"{shown} failed: {_reason(error, where)}") from error
    if isinstance(returned, nn.Module):
        return returned, None
    if isinstance(returned, (tuple, list)) and len(returned) == 2:
        model, preprocess = returned
        if isinstance(model, nn.Module) and (preprocess is None or callable(preprocess)):
            return model, preprocess
    held = type(returned).__name__
    if isinstance(returned, (tuple, list)):
        held += f" of {len(returned)} ({names((type(item).__name__ for item in returned), 4)})"
    raise ModelError(f"{shown} returned {held}; a torch.nn.Module, or (model, preprocess), is expected")


def _assumed(model: nn.Module, clips: Clips | None = None) -> DefaultPreprocess:
    """The input size a model states (timm's and Hugging Face's way), else the usual one; colours by its first layer."""
    if clips is not None and clips.side is not None:
        return DefaultPreprocess((clips.side, clips.side), clips.channels)
    config = getattr(model, "pretrained_cfg", None)
    stated = config.get("input_size") if isinstance(config, dict) else None
    side = getattr(getattr(model, "config", None), "image_size", None)
    size = (DEFAULT_SIDE, DEFAULT_SIDE)
    if isinstance(stated, (tuple, list)) and len(stated) == 3:
        size = (int(stated[1]), int(stated[2]))
    elif isinstance(side, int):
        size = (side, side)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return DefaultPreprocess(size, 1 if first is not None and first.in_channels == 1 else 3)


def _labels(module: ModuleType, attribute: str, shown: str) -> Labels | None:
    for name in (f"{attribute.upper()}_LABELS", "LABELS"):
        if hasattr(module, name):
            return as_labels(getattr(module, name), f"{name} beside {shown}")
    return None


def _reason(error: BaseException, path: Path | None) -> str:
    """Type and message of an error on one line, with the line of the user's file that it passed through last."""
    text = " ".join(str(error).split()) or "no message"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if path and frame.filename == str(path)
    ]
    at = f" (line {lines[-1]})" if lines else ""
    hint = ""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and path:
        neighbour = path.parent / missing.partition(".")[0]
        if neighbour.is_dir() or neighbour.with_suffix(".py").is_file():
            hint = f"; it lies beside the file: set PYTHONPATH={path.parent}"
    return f"{type(error).__name__}: {text}{at}{hint}"
