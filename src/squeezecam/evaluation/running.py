"""``evaluate``: pictures in, the table out, batch by batch, resumable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam import processes
from squeezecam.canvas import one_stream
from squeezecam.errors import InputError
from squeezecam.evaluation.calls import parts, source_of
from squeezecam.evaluation.columns import Column, choose_columns, imputations, passes
from squeezecam.evaluation.identity import model_identity, versions
from squeezecam.evaluation.loading import Group, Loaded, drawn, load, picture_seed
from squeezecam.evaluation.measure import DELETION_BASE, INSERTION_BASE, Measured, Truth, measure
from squeezecam.evaluation.source import Item, Source
from squeezecam.evaluation.store import Store
from squeezecam.evaluation.subject import Subject, as_is, check_squeeze
from squeezecam.evaluation.summary import Evaluation
from squeezecam.fit.progress import Progress
from squeezecam.links import in_words
from squeezecam.methods import usable
from squeezecam.metrics import boxes_to_mask, mask_to_boxes
from squeezecam.metrics.imputation import linear_imputation
from squeezecam.metrics.predict import Outputs
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod, available, choose
from squeezecam.peers.registry import DEFAULT_PEERS
from squeezecam.wording import number_of

STEPS = 8
LONG = 60.0
"""Seconds from which on the time that it will take is said before it is spent."""


def evaluate(
    squeeze: Squeeze,
    images: Any,
    methods: str | Iterable[str | MapMethod] | None = None,
    metrics: str | Iterable[str] | None = None,
    *,
    boxes: Sequence[Any] | None = None,
    masks: Any = None,
    target: Any = None,
    names: Sequence[str] | None = None,
    subsets: dict[str, Any] | None = None,
    output: str | None = None,
    stream: str | None = None,
    make_inputs: Callable[[Tensor], Any] = as_is,
    scores: Outputs | None = None,
    steps: int = STEPS,
    batch_size: int = 16,
    sample: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Measure maps of several methods on the same pictures, with controls.

    Under ``torchrun`` every process measures a part of the batches, and all return the one table.

    Args:
        squeeze: from :func:`squeezecam.attach`, fitted or not.
        images: pictures as the model takes them: a tensor ``(N, C, H, W)``, or anything with a length whose items are
            ``(C, H, W)`` (or tuples that begin with it). For a model whose map has frames (or slices): clips ``(C, T,
            H, W)``; the curves then exchange points of the clip, in space and time. Of a model that takes several
            inputs, or its input by name: these, of all samples, or a list of such batches; the one that the map lies on
            is the picture, and the others stay as they are, each sample's own.
        methods: names, groups (``own``, ``peers``, ``controls``, ``slow``), or :class:`~squeezecam.peers.MapMethod`;
            None: squeezecam's own, Grad-CAM, LayerCAM and Eigen-CAM. The four controls are always added.
        metrics: names of columns, see :data:`squeezecam.evaluation.COLUMNS`; None: those that are quick.
        boxes: per image ``(B, 4)``: x0, y0, x1, y1 in pixels of the picture that the model takes.
        masks: ``(N, H, W)``, of clips ``(N, T, H, W)``, non-zero on the object, in place of boxes.
        target: class for all images, or one per image; None: the predicted one.
        names: of the images, for the results.
        subsets: ``{name: flag per image}``, reported beside all images.
        output: name of one of several outputs; of scores for every frame their mean counts.
        stream: name of one of several maps.
        make_inputs: a batch of pictures to what the model takes, where that is not this one tensor: ``lambda clips:
            clips.transpose(1, 2)`` for a model that takes frames before channels.
        scores: what the model's output is: ``logits`` of classes (a softmax is applied), ``sigmoid``, logits of
            independent labels, ``probabilities``, or ``scores``, taken as they are. None: as the model ends, and as a
            fit for ``task="multi-label"`` was told.
        steps: of the insertion curve (from a blurred picture) and the deletion curve (to the picture's mean colour).
        batch_size: pictures at a time, and most pictures in one pass.
        sample: only so many, drawn with ``seed``.
        seed: of sample, random controls and bootstrap.
        out: folder for the tables and for what an interrupted run goes on from.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        InputError: unknown names, metrics that need boxes where there are none, lengths that do not fit, several maps
            of which none is named, a map that does not lie on the points of its input (that of a waveform), or not one
            image that can be read.
        ModelError: the library of a method that was asked for by name is not installed.

    """
    check_squeeze(squeeze, "evaluate")
    flags = subsets or {}
    subject = Subject(squeeze, squeeze.output_name(output), make_inputs, scores, one_stream(squeeze, stream))
    subject, source = source_of(subject, images, boxes=boxes, masks=masks, target=target, named=names, flags=flags)
    return run(
        subject, source, methods, metrics, subsets=tuple(flags), steps=steps, batch_size=batch_size, sample=sample,
        seed=seed, out=out, progress=progress,
    )  # fmt: skip


def run(
    subject: Subject,
    source: Source,
    methods: str | Iterable[str | MapMethod] | None,
    metrics: str | Iterable[str] | None,
    *,
    subsets: tuple[str, ...] = (),
    steps: int = STEPS,
    batch_size: int = 16,
    sample: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    about: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """What :func:`evaluate` does, on any :class:`Source`; ``settings`` are further ones that the figures depend on."""
    from squeezecam.files import output_folder

    if steps < 1 or batch_size < 1 or (sample is not None and sample < 1):
        raise InputError(f"steps, batch_size and sample must be at least 1, got {steps}, {batch_size} and {sample}")
    chosen = with_controls(subject, methods)
    one_map = len(subject.squeeze.places) == 1
    columns = choose_columns(metrics, truth=source.truth, rank=subject.rank, one_map=one_map)
    processes.join()
    first = processes.rank() == 0
    folder = output_folder(out) if out is not None else None
    names = source.names()
    order = drawn(len(names), sample, seed)
    all_settings = {
        "methods": [m.name for m in chosen], "metrics": [c.name for c in columns], "steps": steps,
        "batch_size": batch_size, "sample": sample, "seed": seed, "output": subject.output,
        "insertion_base": INSERTION_BASE, "deletion_base": DELETION_BASE, "apply": subject.squeeze.apply_mode,
        "scores": subject.outputs, "stream": subject.place_name,
        "model": model_identity(subject.squeeze), "images": source.identity() if folder is not None else None,
        "subsets": list(subsets), "versions": versions(chosen), **(settings or {}),
    }  # fmt: skip
    store = Store(folder, all_settings)
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    speak = (say or (lambda line: print(line, file=sys.stderr, flush=True))) if first else (lambda line: None)
    done = sum(number in store.chunks for number in range(len(chunks)))
    if done:
        speak(f"going on after {done} of {len(chunks)} batches that {store.path} holds")
    left = [number for number in range(len(chunks)) if number not in store.chunks]
    left = left[processes.rank() :: processes.world()]
    if left:
        for method in chosen:
            method.ready()
    with Progress(progress if first else False) as bar, bar.task("evaluating", len(order)) as advance:
        advance(sum(len(chunks[number]) for number in range(len(chunks)) if number in store.chunks))
        for place, number in enumerate(left):
            loaded = load(source, chunks[number], names, subject.rank, report)
            if place == 0 and loaded[0]:
                pictures = sum(len(chunks[n]) for n in left)
                _estimate(subject, chosen, columns, loaded[0][0], pictures, steps, batch_size, speak)
            store.add(
                number, _chunk(subject, source, loaded, names, chosen, columns, steps=steps, size=batch_size, seed=seed)
            )
            advance(len(chunks[number]))
    store.gather()
    results = [store.chunks[number] for number in range(len(chunks))]
    evaluation = Evaluation(
        {m.name: (m.label, m.kind) for m in chosen},
        columns,
        [record for result in results for record in result["records"]],
        [(file, reason) for result in results for file, reason in result["failures"]],
        [result["seconds"] for result in results if result["seconds"]],
        all_settings,
        {
            **(about or {}),
            "confidence": in_words(subject.outputs),
            "seed": seed,
            **({"per_image": str(store.path)} if store.path else {}),
        },
        subsets,
        seed,
        [store.path] if store.path else [],
    )
    if not evaluation.records:
        store.forget()
        raise InputError(f"0 of {number_of(len(order), 'image')} could be read: there is nothing to measure")
    if folder is not None:
        with processes.first_only(InputError):
            if first:
                evaluation.save(folder)
    return evaluation


def with_controls(subject: Subject, methods: str | Iterable[str | MapMethod] | None) -> list[MapMethod]:
    """The methods meant, controls at the end; of the default set only what this model and this installation allow."""
    if methods is None:
        own = usable(subject.squeeze, subject.output)
        peers = DEFAULT_PEERS if subject.rank in (2, 3) else ()
        wanted = [m for m in choose([*own, *peers]) if available(m)]
    else:
        wanted = choose(methods, own=usable(subject.squeeze, subject.output))
    extra = [m for m in choose("controls") if m.name not in {w.name for w in wanted}]
    return [*wanted, *extra]


def _chunk(
    subject: Subject,
    source: Source,
    loaded: Loaded,
    names: Sequence[str],
    methods: Sequence[MapMethod],
    columns: Sequence[Column],
    *,
    steps: int,
    size: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of one batch, as they are stored."""
    records: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for all_indices, all_pictures, all_items in loaded[0]:
        for one, part, at_once in parts(subject, all_pictures.to(subject.device), all_items, size):
            indices, items, pictures = all_indices[part], all_items[part], all_pictures[part].to(subject.device)
            measured = measure(
                one, pictures, methods, columns,
                truth=_truth(items, pictures) if source.truth else None,
                target=torch.tensor([item.target for item in items]) if source.targets else None,
                seeds=[picture_seed(seed, index) for index in indices], steps=steps, batch_size=at_once,
            )  # fmt: skip
            records += [_record(measured, i, names[index], source.subsets(index)) for i, index in enumerate(indices)]
            for name, value in measured.seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value
    return {"records": records, "failures": loaded[1], "seconds": seconds}


def _record(measured: Measured, index: int, name: str, subsets: list[str]) -> dict[str, Any]:
    return {
        "file": name,
        "target": int(measured.target[index]),
        "confidence": float(measured.confidence[index]),
        "subsets": subsets,
        "values": {m: {c: float(v[index]) for c, v in found.items()} for m, found in measured.values.items()},
        "doubts": {m: lines[index] for m, lines in measured.doubts.items() if lines[index]},
        "levels": {m: {c: v[index] for c, v in found.items()} for m, found in measured.levels.items()},
    }


def _truth(items: Sequence[Item], pictures: Tensor) -> Truth:
    size = tuple(pictures.shape[2:])
    if all(item.mask is None for item in items):
        if len(size) != 2:
            points = ", ".join(map(str, size))
            raise InputError(f"boxes are for pictures: give masks (N, {points}) that are non-zero on the object")
        boxes = [torch.zeros(0, 4) if item.boxes is None else item.boxes for item in items]
        return Truth(boxes_to_mask(boxes, *size), boxes)
    masks = torch.stack([torch.zeros(size) if i.mask is None else i.mask.float() for i in items])
    if masks.shape[1:] != size:
        raise InputError(f"masks have {tuple(masks.shape[1:])} pixels, the pictures {size}: expected the same")
    return Truth(masks != 0, mask_to_boxes(masks) if len(size) == 2 else [])


def _estimate(
    subject: Subject,
    methods: Sequence[MapMethod],
    columns: Sequence[Column],
    group: Group,
    count: int,
    steps: int,
    batch_size: int,
    say: Callable[[str], None],
) -> None:
    """Say about how long it takes, from the time of a pass, where that is long."""
    _, pictures, items = group
    shape = tuple(pictures.shape[1:])
    subject, part, _ = parts(subject, pictures.to(subject.device), items, batch_size)[0]
    one = pictures[part].to(subject.device)
    subject.predict(one)
    started = time.perf_counter()
    subject.predict(one)
    forward = (time.perf_counter() - started) / len(one)
    costs = {m.name: m.cost(subject.squeeze, shape) for m in methods}
    each = {name: forward * (cost + passes(columns, steps, cost)) for name, cost in costs.items()}
    imputing = len(methods) * _imputing(one, imputations(columns))
    total = count * (3 * forward + sum(each.values()) + imputing)
    if total >= LONG:
        dear = [m.label for m in methods if each[m.name] > 0.3 * (sum(each.values()) + imputing)]
        dear += ["ROAD"] if imputing > sum(each.values()) else []
        words = f", most of it for {' and '.join(dear)}" if dear else ""
        say(f"{number_of(count, 'image')}, {number_of(len(methods), 'method')}: this takes about {_span(total)}{words}")


def _imputing(pictures: Tensor, times: int) -> float:
    """Seconds that ROAD spends on the pixels of one picture and method, from a picture of which two thirds are gone."""
    if not times:
        return 0.0
    known = torch.rand(pictures[:1, 0].shape, generator=torch.Generator().manual_seed(0)).to(pictures.device) < 0.5
    known[:, : known.shape[1] // 3] = False  # as in a map, what goes lies together
    started = time.perf_counter()
    linear_imputation(pictures[:1], known)
    return times * (time.perf_counter() - started)


def _span(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"
