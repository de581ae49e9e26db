"""From a ``--model`` string to a model that can be fed and whose outputs have names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam.errors import ModelError
from squeezecam.models.clips import stated_frames
from squeezecam.models.feeding import feeding
from squeezecam.models.labels import read_labels
from squeezecam.models.loaded import CLIP_FRAMES, LoadedModel

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMS", "LoadedModel", "load_model"]

FORMS = "demo, timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER, file.py:factory, module.path:factory"
_PROBE_SIZE = (320, 240)


def load_model(
    spec: str,
    *,
    weights: Path | str | None = None,
    random: bool = False,
    labels: Path | str | None = None,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """The model that ``spec`` names, in evaluation mode on ``device``.

    * ``demo``: the embedded default, no download.
    * ``timm:NAME``, ``torchvision:NAME``: the library's pretrained model with its transform and ImageNet's names.
    * ``hf:NAME``, ``hf:./folder``: ``AutoModelForImageClassification`` with its image processor and ``id2label``.
    * ``file.py:factory``, ``module.path:factory``: a function that returns a model or ``(model, preprocess)``.

    Args:
        spec: one of these.
        weights: a file to load instead of pretrained weights (all of it or an error; see
            `squeezecam.models.weights.load_weights`). A model whose file differs only in the number of classes gets
            that number, and no class names.
        random: fresh random weights instead of pretrained ones. Its outputs mean nothing and get no class names.
        labels: a file of class names instead of the model's own; see `squeezecam.models.labels.read_labels`.
        device: where the model goes.

    Raises:
        ModelError: a string that names nothing, a missing package, a failed download, factory or weights file, a model
            that takes more than a batch of pictures.
        InputError: a labels file that cannot be used.
    """
    target = _device(device)
    if weights is not None and random:
        raise ModelError("--weights FILE and --random contradict each other: give one of them")
    loaded = _build(spec.strip(), Path(weights) if weights is not None else None, random)
    if labels is not None:
        loaded = replace(loaded, labels=read_labels(Path(labels)))
    shape, clip, given = _probe(loaded)
    try:
        model = loaded.model.eval().to(target)
    except RuntimeError as error:
        raise ModelError(f"{spec} cannot go to device {str(target)!r}: {' '.join(str(error).split())[:200]}") from error
    return replace(
        loaded, model=model, input_size=shape, clip=clip, random=random, make_inputs=feeding(loaded), given=given
    )


def _build(spec: str, weights: Path | None, random: bool) -> LoadedModel:
    kind, colon, name = spec.partition(":")
    libraries = _libraries()
    if colon and kind in libraries:
        if not name:
            raise ModelError(f"--model {spec!r} lacks a name after the colon; expected is {FORMS}")
        return libraries[kind](name, weights, random)
    if spec == "demo":
        return _demo(weights, random)
    if colon or spec.endswith(".py"):
        return _own(spec if colon else spec + ":", weights, random)
    hint = f"; a library's model is written timm:{spec} or torchvision:{spec}" if spec.isidentifier() else ""
    raise ModelError(f"--model {spec!r} is not understood; expected is {FORMS}{hint}")


def _libraries() -> dict[str, Callable[[str, Path | None, bool], LoadedModel]]:
    from squeezecam.models import zoos

    return {"timm": zoos.from_timm, "torchvision": zoos.from_torchvision, "hf": zoos.from_transformers}


def _demo(weights: Path | None, random: bool) -> LoadedModel:
    from squeezecam.models.demo import DEMO_LABELS, demo_model

    model, preprocess = demo_model(random=random)
    source = "embedded demo model" + (", random weights" if random else "")
    loaded = LoadedModel(model, preprocess, None if random else tuple(DEMO_LABELS), "demo", (), source)
    return _with_file(loaded, weights)


def _own(spec: str, weights: Path | None, random: bool) -> LoadedModel:
    from squeezecam.models.factory import from_factory

    if random:
        raise ModelError(f"--random says nothing for {spec}: the factory itself decides about its weights")
    return _with_file(from_factory(spec), weights)


def _with_file(loaded: LoadedModel, weights: Path | None) -> LoadedModel:
    from squeezecam.models.classifier import take_classes
    from squeezecam.models.weights import load_weights

    if weights is None:
        return loaded
    classes = take_classes(loaded.model, weights)
    source = f"{loaded.source}; {load_weights(loaded.model, weights)}"
    if classes is None:
        return replace(loaded, source=source)
    counted = f"{classes} class{'es' if classes > 1 else ''}"
    return replace(loaded, source=f"{source}, {counted}", labels=None)  # names are those of other classes


def _probe(loaded: LoadedModel) -> tuple[tuple[int, ...], bool, int | None]:
    """Shape of what the preprocessing gives, whether it takes clips, and how many pictures it was given for one."""
    from PIL import Image

    picture = Image.new("RGB", _PROBE_SIZE, (128, 128, 128))
    shown = f"the preprocessing of {loaded.name}"
    given: int | None = None
    try:
        found: Any = loaded.preprocess(picture)
        clip = loaded.clip
    except Exception as error:
        try:
            found, given = _probe_clip(loaded, picture)
            clip = True
        except Exception:
            reason = " ".join(str(error).split()) or "no message"
            raise ModelError(
                f"{shown} fails on a {_PROBE_SIZE[0]}x{_PROBE_SIZE[1]} RGB picture: {type(error).__name__}: {reason}"
            ) from error
    if not isinstance(found, Tensor):
        raise ModelError(f"{shown} gives {type(found).__name__}; a torch.Tensor (C, h, w) is expected")
    shape = tuple(found.shape)
    batched = len(shape) == 4 and (shape[0] > 4 or (shape[0] == 1 and shape[1] in (1, 3, 4)))
    if batched or not 3 <= len(shape) <= 4:
        expected = "without batch axis, (C, h, w) or for clips (C, T, h, w), is expected"
        raise ModelError(f"{shown} gives a tensor {shape}; one {expected}")
    return shape, clip or len(shape) == 4, given


def _probe_clip(loaded: LoadedModel, picture: Image.Image) -> tuple[Any, int]:
    """What the preprocessing gives for a clip, and how many pictures it was given.

    As many as the model says it takes, if they become as many frames; else the usual number, of which the preprocessing
    may take every second one.
    """
    stated = stated_frames(loaded.model)
    if stated is not None:
        with contextlib.suppress(Exception):  # it may want more pictures than it gives frames
            found = loaded.preprocess([picture] * stated)
            if isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == stated:
                return found, stated
    return loaded.preprocess([picture] * CLIP_FRAMES), CLIP_FRAMES


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"device {str(device)!r} cannot be used ({reason}); try --device cpu") from error
    return target
