"""Saving and loading what was fitted: safetensors with the site, the settings and a fingerprint of the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from squeezecam.anatomy import Site
from squeezecam.attach import attach
from squeezecam.block import SEBlock
from squeezecam.errors import AdapterError, SqueezeWarning
from squeezecam.links import MULTI_LABEL, read_as_labels
from squeezecam.module import Squeeze
from squeezecam.origin import FIT, LOCATE, REFINE, alike, clean_name, numbers, rough
from squeezecam.sides import declare
from squeezecam.stored_locator import locator_records, locator_tensors, put_locators
from squeezecam.stored_readout import readout_records, readout_tensors, readouts_from
from squeezecam.stored_refiner import put_refiners, refiner_records, refiner_tensors

FORMAT = "squeezecam-adapter/1"
_RECORD = ("sites", "apply", "hidden", "output", "fit", "model")


def save(squeeze: Squeeze, path: str | Path) -> None:
    """Write blocks, class read-outs, refiners and locators, a head that was trained with them, sites, settings of the
    fit and the model's fingerprint.

    Raises:
        InputError: the file cannot be written; an older one stays as it was.

    """
    from safetensors.torch import save as to_bytes

    from squeezecam.files import atomic_write

    tensors = {f"blocks.{name}": tensor for name, tensor in squeeze.blocks.state_dict().items()}
    changed = [clean_name(name) for name in squeeze.fit_info.get("trained", [])]
    state = _clean(squeeze.model.state_dict())
    tensors.update({f"model.{name}": state[name] for name in changed})
    tensors.update(readout_tensors(squeeze))
    tensors.update(refiner_tensors(squeeze))
    tensors.update(locator_tensors(squeeze))
    clean = {name: clean_name(name) for name, _ in squeeze.model.named_modules()}
    about = {
        "format": FORMAT,
        "sites": {stream: _site_record(squeeze, stream) for stream in squeeze.places},
        "apply": squeeze.apply_mode,
        "gates": "frame" if squeeze.per_frame else "clip",
        "hidden": {stream: squeeze.block(stream).hidden for stream in squeeze.places},
        "output": squeeze.default_output,
        "binary": sorted(squeeze.binary),
        "labels": sorted(squeeze.independent),
        "fit": squeeze.fit_info,
        "readouts": readout_records(squeeze),
        "refiners": refiner_records(squeeze, clean),
        "locators": locator_records(squeeze, clean),
        "model": _fitted_model(squeeze, changed),
    }
    alone = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # tied ones too
    data = to_bytes(alone, metadata={"squeezecam": json.dumps(about)})
    with atomic_write(path) as file:
        file.write(data)


def _fitted_model(squeeze: Squeeze, without: list[str]) -> dict[str, str]:
    """The fingerprint of the model that the block was fitted on, which need not be the one around it any more."""
    found = fingerprint(squeeze.model, without)
    if squeeze.origins.lines(squeeze, FIT):
        before = squeeze.origins.records[FIT].model
        names = _valued(_clean(squeeze.model.state_dict()), without)
        if all(name in before for name in names):
            found["values"] = json.dumps([before[name] for name in names])
    return found


def load(
    path: str | Path,
    model: nn.Module,
    example: Any,
    *,
    strict: bool = False,
    apply: Literal["observe", "gate"] | None = None,
) -> Squeeze:
    """Attach to ``model`` as the adapter says and give it the fitted blocks.

    Args:
        path: from :func:`save`.
        model: the same architecture as the one that was fitted.
        example: what the model takes.
        strict: refuse, instead of warn, when the weights are other ones.
        apply: override the mode that was saved.

    Raises:
        AdapterError: the file is damaged, no adapter, or belongs to another architecture (or, with ``strict``, to other
            weights).

    """
    about, tensors = read(path)
    model = getattr(model, "_orig_mod", model)
    trained = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    _check_model(about["model"], fingerprint(model, without=list(trained)), Path(path), strict)
    at = {stream: _site(record, model) for stream, record in about["sites"].items()}
    with _installed(trained, _clean(model.state_dict()), Path(path)):
        gates = about.get("gates", "clip")
        squeeze = attach(model, example, at=at, apply=apply or about["apply"], gates=gates)
        declare(squeeze, about.get("binary", []))
        for name in _labels(about):
            if name in squeeze.outputs:
                read_as_labels(squeeze, name)
        for stream in at:
            squeeze.blocks[stream] = _block(squeeze, stream, int(about["hidden"][stream]), tensors, Path(path))
        squeeze.set_readouts(readouts_from(squeeze, about.get("readouts", []), tensors, Path(path)))
        put_refiners(squeeze, about.get("refiners", []), tensors, _names(model), Path(path))
        put_locators(squeeze, about.get("locators", []), tensors, _names(model), Path(path))
    squeeze.fit_info = about["fit"]
    _note_origin(squeeze, about["model"]["values"], list(trained))
    if about["output"] in squeeze.outputs:
        squeeze.default_output = about["output"]
    return squeeze


def _labels(about: dict[str, Any]) -> list[str]:
    """Outputs that are independent labels; an older file says so of the one that was fitted for."""
    fit = about["fit"]
    found: list[str] = about.get("labels", [fit.get("output")] if fit.get("task") == MULTI_LABEL else [])
    return found


def _note_origin(squeeze: Squeeze, values: str, trained: list[str]) -> None:
    """What came with the adapter was fitted on the weights that its record tells of."""
    names, saved = _valued(_clean(squeeze.model.state_dict()), trained), json.loads(values)
    if len(names) == len(saved):
        whats = (FIT, *([REFINE] if squeeze.refiners else []), *([LOCATE] if squeeze.locators else []))
        squeeze.origins.put(squeeze, whats, dict(zip(names, map(tuple, saved), strict=True)))


@contextlib.contextmanager
def _installed(trained: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> Iterator[None]:
    """The adapter's own model tensors in place; what was there comes back if the block fails."""
    for name, tensor in trained.items():
        if name not in state or state[name].shape != tensor.shape:
            given = tuple(state[name].shape) if name in state else "none"
            raise AdapterError(f"{path}: '{name}' has shape {tuple(tensor.shape)}, the model's has {given}")
    before = {name: state[name].clone() for name in trained}
    with torch.no_grad():
        for name, tensor in trained.items():
            state[name].copy_(tensor)
        try:
            yield
        except BaseException:
            for name, tensor in before.items():
                state[name].copy_(tensor)
            raise


def _block(squeeze: Squeeze, stream: str, hidden: int, tensors: dict[str, Tensor], path: Path) -> SEBlock:
    fresh = squeeze.block(stream)
    block = SEBlock(fresh.channels, hidden=hidden).to(fresh.reduce.weight).train(fresh.training)
    for name, parameter in block.named_parameters():
        tensor = tensors.get(f"blocks.{stream}.{name}")
        if tensor is None or tensor.shape != parameter.shape:
            raise AdapterError(
                f"{path}: '{stream}.{name}' has shape {None if tensor is None else tuple(tensor.shape)}, "
                f"expected {tuple(parameter.shape)} for {squeeze.places[stream].describe()}"
            )
        with torch.no_grad():
            parameter.copy_(tensor)
    return block


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of an adapter file, checked.

    Raises:
        AdapterError: missing, cut short, not safetensors, not an adapter.

    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise AdapterError(
            f"{path}: no such adapter file; it is made by 'squeezecam fit --out FILE' or squeeze.save(FILE)"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise AdapterError(
            f"{path}: not a complete safetensors file ({error}); it may be cut short: fit and save it again"
        ) from None
    try:
        about: dict[str, Any] = json.loads(metadata["squeezecam"])
        if about["format"] != FORMAT:
            raise AdapterError(f"{path}: format '{about['format']}', this version reads '{FORMAT}'")
        missing = [name for name in _RECORD if name not in about]
        if missing:
            raise AdapterError(f"{path}: the adapter's record lacks {', '.join(missing)}: fit and save it again")
    except (KeyError, ValueError, TypeError):
        raise AdapterError(
            f"{path}: a safetensors file, but not an adapter of squeezecam (its record is missing)"
        ) from None
    return about, tensors


def fingerprint(model: nn.Module, without: list[str] | None = None) -> dict[str, str]:
    """Class, a digest of names and shapes, and a digest of the values that does not depend on dtype or device.

    Values are compared through a few rounded statistics per tensor, so that a half-precision copy of the same weights
    is the same model. ``without`` names tensors that are left out of the values: those that the adapter itself brings.
    """
    state = _clean(model.state_dict())
    shapes = hashlib.sha256()
    for name in sorted(state):
        shapes.update(f"{name}:{tuple(state[name].shape)};".encode())
    values = numbers(rough(state[name]) for name in _valued(state, without))
    return {
        "class": type(model).__qualname__,
        "architecture": shapes.hexdigest()[:16],
        "parameters": str(sum(t.numel() for t in state.values())),
        "values": json.dumps(values),
    }


def _valued(state: dict[str, Tensor], without: list[str] | None) -> list[str]:
    """Names of the tensors whose values count, in order."""
    left_out = set(without or ())
    return [
        name
        for name in sorted(state)
        if name not in left_out and state[name].is_floating_point() and state[name].numel()
    ]


def _same_values(first: str, second: str) -> bool:
    a, b = json.loads(first), json.loads(second)
    return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))


def _check_model(saved: dict[str, str], given: dict[str, str], path: Path, strict: bool) -> None:
    if saved["architecture"] != given["architecture"]:
        raise AdapterError(
            f"{path}: this adapter was fitted on {_name(saved)}, the model given is {_name(given)}: "
            "fit one for this model"
        )
    if not _same_values(saved["values"], given["values"]):
        message = (
            f"{path}: this adapter was fitted on a {saved['class']} with other weights than the one given; "
            "its maps may mislead"
        )
        if strict:
            raise AdapterError(message)
        warnings.warn(message, SqueezeWarning, stacklevel=3)


def _name(record: dict[str, str]) -> str:
    return f"{record['class']} ({int(record['parameters']):,} values, layout {record['architecture'][:6]})"


def _clean(state: dict[str, Any]) -> dict[str, Tensor]:
    return {clean_name(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _names(model: nn.Module) -> dict[str, str]:
    """Names of the modules by what they are without wrappers; the outermost wins."""
    return {clean_name(name): name for name, _ in reversed(list(model.named_modules()))}


def _site_record(squeeze: Squeeze, stream: str) -> dict[str, Any]:
    place = squeeze.places[stream]
    return {
        "module": clean_name(place.module),
        "when": place.when,
        "layout": place.layout.text,
        "grid": list(place.grid),
        "item": list(place.item),
        "call": -1 if place.last else place.call,
    }


def _site(record: dict[str, Any], model: nn.Module) -> Site:
    names = _names(model)
    layout = record["layout"]
    folded = "(" in layout and "(n" not in layout
    return Site(
        names.get(record["module"], record["module"]),
        record["when"],
        layout,
        tuple(record["grid"]) if folded else None,
        tuple(record["item"]),
        record["call"],
    )
