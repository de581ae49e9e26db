"""From a model and an example to a :class:`~squeezecam.module.Squeeze`."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.anatomy import Anatomy, Place, Site, examine
from squeezecam.block import SEBlock
from squeezecam.errors import InputError, SqueezeError, SqueezeWarning
from squeezecam.finer import last_finer, watching
from squeezecam.frames import name_time
from squeezecam.head import as_used, find_head, told_apart
from squeezecam.heatmap import suited_aggregate
from squeezecam.joined import find_joined, layer_inputs, map_changed
from squeezecam.links import MULTI_LABEL, last_links, read_as_labels
from squeezecam.module import Apply, Capture, Squeeze, shared_copy
from squeezecam.sides import BINARY, links_of_single, read_as_binary
from squeezecam.tap import evaluating
from squeezecam.upstream import before, before_all, beside, channels_last, frames_first, input_of

__all__ = ["Squeeze", "attach", "get"]

Gates = Literal["clip", "frame"]

_COMPILED = (
    "the model was compiled before attaching: Squeeze runs the eager model inside it, whose weights it shares; "
    "for speed compile squeeze.as_module() instead"
)


def attach(
    model: nn.Module,
    example: Any,
    *,
    at: Any = None,
    apply: Apply = "observe",
    gates: Gates = "clip",
    reduction: int = 16,
    hidden: int | None = None,
    task: str | None = None,
) -> Squeeze:
    """Put an SE block before the classifier of ``model``.

    Two forward passes on ``example``: one to trace the data flow, one to verify what was found on the numbers
    themselves; more of them where the map is the same everywhere or its maximum is pooled, or where something is joined
    to the pooled map. The new block is drawn from where torch's generator stands, which is put back: what you draw next
    is as without attaching.

    Args:
        model: any classifier, regressor or multi-label network. It is not changed.
        example: what the model takes: a tensor, a tuple (positional) or a dict (keyword arguments).
        at: None (found), a module or its name, a :class:`Site`, or ``{stream: any of these}``.
        apply: ``"observe"``: outputs stay the model's own, to the bit; ``"gate"``: the block is in the path, as
            published.
        gates: ``"clip"``: one SE vector per sample, as published; ``"frame"``: one for every frame of a clip.
        reduction: channels divided by the hidden width of the block.
        hidden: the hidden width itself.
        task: ``"binary"`` where the (default) output is one value that is a decision, yes above 0: a logit, or its
            sigmoid. Maps then show the evidence for the side that was decided for, or for ``target`` 0 or 1.
            ``"multi-label"`` where its values are logits of independent labels, which a softmax would hold against each
            other. None: one value is a regression, and maps show what raises it; several are classes that compete, or
            what the model's last layer says.

    Raises:
        SiteError: no feature map with spatial extent, or ``at`` does not name one.
        InputError: something else than a module, or a Squeeze, was given; ``at``, ``apply`` or ``task`` is of no known
            form, or does not fit the output.

    """
    if isinstance(model, Squeeze):
        raise InputError("this model is a Squeeze already: attach to its .model, or go on with it")
    if not isinstance(model, nn.Module):
        raise InputError(f"attach takes an nn.Module, got {type(model).__name__}")
    if apply not in ("observe", "gate"):
        raise InputError(f"apply must be 'observe' or 'gate', got '{apply}'")
    if gates not in ("clip", "frame"):
        raise InputError(f"gates must be 'clip' or 'frame', got '{gates}'")
    if task not in (None, BINARY, MULTI_LABEL):
        raise InputError(
            f"attach needs to be told of task='binary' and task='multi-label' alone, got '{task}': others go to "
            "fit(task=...)"
        )
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
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        warnings.warn(_COMPILED, SqueezeWarning, stacklevel=2)
        model = shared_copy(model)  # in place, by model.compile(): a copy is eager
    args, kwargs = tree.distinct(tree.as_call(example))
    if not tree.leaves((args, kwargs)):
        raise InputError(
            f"the example holds no tensor, it is {type(example).__name__}: give what the model takes, "
            "a tensor with a batch axis, a tuple or a dict of arguments"
        )
    with torch.no_grad(), evaluating(model), tree.on_one_device(model, (args, kwargs)):
        anatomy = examine(model, args, kwargs, at)
        anatomy.places = _named_streams(model, anatomy.places)
        probed = tree.get(anatomy.result, anatomy.outputs[anatomy.default_output])
        if len(anatomy.places) > 1 and probed.ndim == 3:
            anatomy.places = name_time(anatomy.places, probed.shape[1])
        squeeze = Squeeze(model, anatomy.places, _blocks(model, anatomy, reduction, hidden), apply)
        squeeze.per_frame = gates == "frame"
        _describe(squeeze, anatomy, args, kwargs)
        if task == BINARY:
            read_as_binary(squeeze)
        elif task == MULTI_LABEL:
            read_as_labels(squeeze, squeeze.default_output)
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


def _flat(features: Tensor) -> bool:
    """Whether every channel is the same everywhere."""
    positions = features.flatten(2)
    return bool((positions == positions[..., :1]).all())


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
    # Weights made under inference mode could never be trained. Drawn on the CPU from where its generator stands, which
    # is put back: two attached models differ by what the user seeded, and what he draws next is as without attaching.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return {
            stream: SEBlock(place.channels, reduction, hidden=hidden).to(device=reference.device, dtype=dtype)
            for stream, place in anatomy.places.items()
        }


def _describe(squeeze: Squeeze, anatomy: Anatomy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Second pass: verify heads on the numbers, note signs, outputs and what stands before the map."""
    batch = tree.batch_size(args, kwargs)
    squeeze.outputs, squeeze.default_output = anatomy.outputs, anatomy.default_output
    squeeze.example_batch, squeeze.positional = batch, max(1, len(args))
    given = tree.leaves((args, kwargs))
    squeeze.example_leaves = {path: (tuple(tensor.shape), tensor.dtype) for path, tensor in given}
    squeeze.candidates = anatomy.candidates
    squeeze.classifiers = {name: weights[0] for name, weights in anatomy.weights.items()}
    mode, squeeze.apply_mode = squeeze.apply_mode, "observe"
    try:
        found: dict[str, Capture] = {}
        used = {
            name: (weight and as_used(squeeze.model, weight), bias, scale, shift)
            for name, (weight, bias, scale, shift) in anatomy.weights.items()
        }
        layers = {name: weights[0] for name, weights in used.items() if weights[0] is not None}
        with (
            squeeze._taps(args, kwargs, found),
            watching(squeeze.model, batch) as maps,
            layer_inputs(squeeze.model, layers) as taken,
        ):
            result = squeeze.model(*args, **kwargs)
    finally:
        squeeze.apply_mode = mode
    for stream, seen in found.items():
        squeeze.signed[stream] = bool((seen.features < 0).any())
        squeeze.aggregates[stream] = suited_aggregate(seen.features)
        place = squeeze.places[stream]
        squeeze.input_paths[stream] = path = input_of(anatomy, place)
        squeeze.frames_first[stream] = frames_first(anatomy, place, path)
        squeeze.channels_last[stream] = channels_last(anatomy, place, path)
    if len(found) == 1:
        ((stream, seen),) = found.items()
        features = seen.features
        if _flat(features):  # as of a picture of zeros: mean and maximum are the same, and any formula fits
            features, taken, result = map_changed(squeeze, args, kwargs, layers)
        for name, path in squeeze.outputs.items():
            output = tree.get(result, path)
            head = find_head(squeeze.model, features, output, name, path, used[name])
            if head is None and name in taken:

                def again(name: str = name) -> tuple[Any, Any]:
                    changed, took, _ = map_changed(squeeze, args, kwargs, {name: layers[name]})
                    return changed, took.get(name)

                head = find_joined(squeeze.model, features, output, name, path, used[name], taken[name], again)
            if head is not None and head.pool == "max" and head.columns is None and squeeze.signed[stream]:
                below, _, shown = map_changed(squeeze, args, kwargs, layers, negative=True)
                head = told_apart(head, squeeze.model, below, tree.get(shown, path))
            if head is not None:
                squeeze.heads[name] = head
        place = next(iter(squeeze.places.values()))
        squeeze.finer = last_finer(maps, place)
    leaves = dict(anatomy.graph.outputs)
    nodes = {name: leaves[path] for name, path in anatomy.outputs.items()}
    squeeze.links, squeeze.single = last_links(anatomy.graph, nodes), links_of_single(anatomy.graph, nodes)
    squeeze.beside = beside(anatomy, list(squeeze.places.values()))
    shown = squeeze.input_paths.values()
    past = [path for paths in squeeze.beside.values() for path in paths if path not in shown]
    if len(squeeze.places) == 1 and not past and not squeeze.beside[squeeze.default_output]:
        squeeze.upstream = before(anatomy, next(iter(squeeze.places.values())))
    else:
        squeeze.upstream = before_all(anatomy, list(squeeze.places.values()))
