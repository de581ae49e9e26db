"""Models from timm, torchvision and Hugging Face transformers, each imported only when one of its models is wanted."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import nn

from squeezecam.errors import ModelError
from squeezecam.models.labels import Labels
from squeezecam.models.loaded import (
    DEFAULT_SIDE,
    ClipPreprocess,
    DefaultPreprocess,
    LoadedModel,
    PicturePreprocess,
    ProcessorPreprocess,
    as_pixel_values,
)
from squeezecam.models.torchvision_guard import require
from squeezecam.models.weights import classes_in, load_weights, names

# Their published weights expect inputs that the model itself rescales; without weights the switch would stay off.
_RESCALING = frozenset({"inception_v3", "googlenet"})


def from_timm(name: str, weights: Path | None, random: bool) -> LoadedModel:
    """``timm:NAME`` with timm's own transform for it. See `squeezecam.models.resolve.load_model`."""
    timm = require("timm", "vision")
    data = require("timm.data", "vision")
    if ":" not in name and not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_similar(name, timm.list_models())}")

    def build(**options: Any) -> nn.Module:
        created: nn.Module = timm.create_model(name, **options)
        return created

    if weights is None and not random:
        with _fetching(f"timm:{name}"):
            model, note, named = build(pretrained=True), "pretrained weights", True
    else:
        model, note, named = _without_download(f"timm:{name}", build, "num_classes", weights)
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    labels = _timm_labels(data, model) if named else None
    return _loaded(model, PicturePreprocess(transform), labels, name, f"timm {name}, {note}")


def from_torchvision(name: str, weights: Path | None, random: bool) -> LoadedModel:
    """``torchvision:NAME`` with the transform and the class names of its default weights."""
    models = require("torchvision.models", "vision")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{_similar(name, models.list_models())}")
    default = models.get_model_weights(name).DEFAULT
    own: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        own["weights_backbone"] = None  # else the backbone of a detector or segmenter is downloaded
    if name in _RESCALING:
        own |= {"transform_input": True, "init_weights": False}

    def build(**options: Any) -> nn.Module:
        created: nn.Module = models.get_model(name, **own, **options)
        return created

    if weights is None and not random:
        with _fetching(f"torchvision:{name}"):
            model, note, named = models.get_model(name, weights=default), f"pretrained weights {default.name}", True
    else:
        model, note, named = _without_download(f"torchvision:{name}", build, "num_classes", weights)
    labels = tuple(default.meta.get("categories") or ()) or None
    transform: Any = default.transforms()
    source = f"torchvision {name}, {note}"
    if type(transform).__name__ == "VideoClassification":
        frames = max(16, int(default.meta.get("min_temporal_size", 1)))
        return _loaded(model, ClipPreprocess(transform, frames), labels if named else None, name, source, clip=True)
    return _loaded(model, PicturePreprocess(transform), labels if named else None, name, source)


def from_transformers(name: str, weights: Path | None, random: bool) -> LoadedModel:
    """``hf:NAME`` or ``hf:FOLDER``: an image classifier with its image processor, fed by ``pixel_values=``."""
    spec = f"hf:{name}"
    local = name.startswith((".", "/", "~")) or Path(name).is_dir()
    if local:
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{spec}: {folder} is not a folder with a config.json, as save_pretrained writes it")
        name = str(folder)
    hf = require("transformers", "hf")
    with _fetching(spec, "give a folder that save_pretrained wrote, as hf:./folder"):
        config = hf.AutoConfig.from_pretrained(name)
    note, named = ("local weights" if local else "pretrained weights"), True
    if weights is None and not random:
        with _fetching(spec):
            model, info = hf.AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
        absent = sorted(str(key) for key in [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())])
        if absent:
            raise ModelError(
                f"{spec} has no weights for {len(absent)} tensors of {type(model).__name__} ({names(absent)}): "
                "it is not a trained image classifier"
            )
        model = model.float()  # checkpoints in half precision would otherwise stay so, also on the CPU
    else:

        def build(**options: Any) -> nn.Module:
            for key, value in options.items():
                setattr(config, key, value)
            created: nn.Module = hf.AutoModelForImageClassification.from_config(config)
            return created.float()

        model, note, named = _without_download(spec, build, "num_labels", weights)
    assumed = ""
    try:
        with _hub_or_cache():
            preprocess: Any = ProcessorPreprocess(hf.AutoImageProcessor.from_pretrained(name))
    except Exception:  # a folder without one; which error says so differs between versions
        side = getattr(config, "image_size", None) or DEFAULT_SIDE
        size = (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))
        preprocess = DefaultPreprocess(size, 1 if getattr(config, "num_channels", 3) == 1 else 3)
        assumed = str(preprocess)
        note += f"; no image processor found, assumed: {preprocess}"
    labels = _hf_labels(config) if named else None
    short = Path(name).name or name
    source = f"transformers {name}, {note}"
    return _loaded(model, preprocess, labels, short, source, make_inputs=as_pixel_values, assumed=assumed)


def _without_download(
    spec: str, build: Callable[..., nn.Module], argument: str, weights: Path | None
) -> tuple[nn.Module, str, bool]:
    """Model, what its weights are, and whether the names of the original's classes still hold."""
    try:
        model = build()
        classes = classes_in(weights, model) if weights is not None else None
        if classes is not None:
            model = build(**{argument: classes})
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{spec} could not be built: {_line(error)}") from error
    if weights is None:
        return model, "random weights", False
    note = load_weights(model, weights)
    return model, note if classes is None else f"{note}, {classes} classes", classes is None


def _loaded(
    model: nn.Module, preprocess: Any, labels: Labels | None, name: str, source: str, **options: Any
) -> LoadedModel:
    return LoadedModel(model, preprocess, labels, name, (), source, **options)


def _timm_labels(data: Any, model: nn.Module) -> tuple[str, ...] | None:
    """The first name of each ImageNet class; all of its names, or its synset too, where that alone is ambiguous."""
    subset = data.infer_imagenet_subset(model) if hasattr(data, "infer_imagenet_subset") else None
    if not subset or not hasattr(data, "ImageNetInfo"):
        return None
    info = data.ImageNetInfo(subset)
    synsets, full = list(info.label_names()), [str(text) for text in info.label_descriptions()]
    first = [text.split(",")[0] for text in full]
    short_count, full_count = Counter(first), Counter(full)
    return tuple(
        short if short_count[short] == 1 else text if full_count[text] == 1 else f"{text} ({synset})"
        for short, text, synset in zip(first, full, synsets, strict=True)
    )


def _hf_labels(config: Any) -> tuple[str, ...] | None:
    given = getattr(config, "id2label", None) or {}
    listed = tuple(str(given[index]) for index in sorted(given))
    placeholders = all(re.fullmatch(r"LABEL_\d+", name) for name in listed)
    return None if placeholders or sorted(given) != list(range(len(given))) else listed


_WITHOUT = "give its weights as a file with --weights FILE, or go without them with --random"


@contextmanager
def _fetching(spec: str, advice: str = _WITHOUT) -> Iterator[None]:
    """Whatever goes wrong while a library fetches and loads pretrained weights, as one line with the ways around it."""
    try:
        with _hub_or_cache():
            yield
    except Exception as error:
        raise ModelError(
            f"{spec}: the pretrained model could not be fetched or loaded ({_line(error)}); {advice}"
        ) from error


@contextmanager
def _hub_or_cache() -> Iterator[None]:
    """Look only into the local cache where the hub's address does not resolve: its client would retry for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    was = constants.HF_HUB_OFFLINE
    if not was and not _resolves(urlsplit(constants.ENDPOINT).hostname or ""):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def _resolves(host: str) -> bool:
    if any(os.environ.get(key) for name in ("https_proxy", "all_proxy") for key in (name, name.upper())):
        return True  # behind a proxy it is the proxy that resolves names
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _similar(name: str, known: Iterable[str]) -> str:
    listed = list(known)
    close = difflib.get_close_matches(name, listed, 3, 0.6) or [item for item in listed if name and name in item]
    return f"; similar: {names(close)}" if close else ""


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"
