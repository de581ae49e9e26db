"""``randomise``: the model randomisation check of Adebayo et al. (NeurIPS 2018, arXiv 1810.03292) for several methods.

The model's weights are re-initialised stage by stage from the head down, each stage beside those before it (the paper's
cascading randomisation), and each map is compared with that of the trained model. A fitted block is a part of the
explanation, not of the model: it stays as it is.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam import processes
from squeezecam.canvas import one_stream
from squeezecam.errors import InputError
from squeezecam.evaluation.calls import parts, source_of
from squeezecam.evaluation.identity import model_identity, versions
from squeezecam.evaluation.loading import Group, drawn, load, picture_seed
from squeezecam.evaluation.randomised import Randomisation
from squeezecam.evaluation.running import with_controls
from squeezecam.evaluation.source import Source
from squeezecam.evaluation.stages import MOST, left_over, stage_name, stages
from squeezecam.evaluation.store import Store
from squeezecam.evaluation.subject import Subject, as_is, check_squeeze
from squeezecam.fit.progress import Progress
from squeezecam.metrics import spearman, ssim
from squeezecam.metrics.model_randomisation import reinitialise
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod
from squeezecam.wording import number_of


def randomise(
    squeeze: Squeeze,
    images: Any,
    methods: str | Iterable[str | MapMethod] | None = None,
    *,
    target: Any = None,
    names: Sequence[str] | None = None,
    output: str | None = None,
    stream: str | None = None,
    make_inputs: Callable[[Tensor], Any] = as_is,
    stage_count: int = MOST,
    batch_size: int = 16,
    sample: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Randomisation:
    """Compare maps before and after the model's weights are destroyed, from the head down.

    Args:
        squeeze: from :func:`squeezecam.attach`, fitted or not; it is not touched, copies are randomised.
        images: pictures as the model takes them, see :func:`squeezecam.evaluate`.
        methods: as of :func:`squeezecam.evaluate`; the four controls are always added.
        target: class for all images, or one per image; None: the one that the trained model predicts, throughout.
        names: of the images, for the results.
        output: name of one of several outputs.
        stream: name of one of several maps.
        make_inputs: a batch of pictures to what the model takes.
        stage_count: number of stages, see :func:`squeezecam.evaluation.stages.stages`.
        batch_size: pictures at a time.
        sample: only so many, drawn with ``seed``.
        seed: of the new weights, the sample, random controls and the bootstrap.
        out: folder for the tables and the chart, and for what an interrupted run goes on from.
        progress: a bar on standard error; None: where that is a terminal.

    Raises:
        InputError: unknown names, or a model without weights.
        ModelError: the library of a method that was asked for by name is not installed.

    """
    check_squeeze(squeeze, "randomise")
    subject = Subject(squeeze, squeeze.output_name(output), make_inputs, stream=one_stream(squeeze, stream))
    subject, source = source_of(subject, images, target=target, named=names)
    return run_randomise(
        subject, source, methods, stage_count=stage_count, batch_size=batch_size, sample=sample, seed=seed, out=out,
        progress=progress,
    )  # fmt: skip


def run_randomise(
    subject: Subject,
    source: Source,
    methods: str | Iterable[str | MapMethod] | None,
    *,
    stage_count: int = MOST,
    batch_size: int = 16,
    sample: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    about: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Randomisation:
    """What :func:`randomise` does, on any :class:`Source`; ``settings`` are further ones that the figures depend on."""
    from squeezecam.files import output_folder

    if batch_size < 1 or (sample is not None and sample < 1):
        raise InputError(f"batch_size and sample must be at least 1, got {batch_size} and {sample}")
    chosen = with_controls(subject, methods)
    processes.join()
    first = processes.rank() == 0
    folder = output_folder(out) if out is not None else None
    names = source.names()
    order = drawn(len(names), sample, seed)
    all_settings = {
        "check": "cascading model randomisation", "methods": [m.name for m in chosen], "stages": stage_count,
        "batch_size": batch_size, "sample": sample, "seed": seed, "output": subject.output,
        "stream": subject.place_name, "apply": subject.squeeze.apply_mode, "model": model_identity(subject.squeeze),
        "images": source.identity() if folder is not None else None, "versions": versions(chosen), **(settings or {}),
    }  # fmt: skip
    store = Store(folder, all_settings)
    chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    done = sum(number in store.chunks for number in range(len(chunks)))
    if done and first:
        speak = say or (lambda line: print(line, file=sys.stderr, flush=True))
        speak(f"going on after {done} of {len(chunks)} batches that {store.path} holds")
    left = [number for number in range(len(chunks)) if number not in store.chunks]
    left = left[processes.rank() :: processes.world()]
    with Progress(progress if first else False) as bar, bar.task("randomising", len(order) * stage_count) as advance:
        advance(sum(len(chunks[number]) for number in store.chunks if number < len(chunks)) * stage_count)
        for number in left:
            groups, failures = load(source, chunks[number], names, subject.rank, report)
            found: dict[str, Any] = {"records": [], "failures": failures, "stages": []}
            for group in groups:
                records, found["stages"] = _group(
                    subject, source, group, chosen, names, stage_count, batch_size, seed, advance
                )
                found["records"] += records
            store.add(number, found)
    store.gather()
    results = [store.chunks[number] for number in range(len(chunks))]
    found_stages: list[list[str]] = next((result["stages"] for result in results if result["stages"]), [])
    result = Randomisation(
        {m.name: (m.label, m.kind) for m in chosen},
        found_stages,
        [stage_name(stage) for stage in found_stages],
        [record for one in results for record in one["records"]],
        [(file, reason) for one in results for file, reason in one["failures"]],
        all_settings,
        {**(about or {}), "seed": seed, **({"per_image": str(store.path)} if store.path else {})},
        seed,
        [store.path] if store.path else [],
    )
    if not result.records:
        store.forget()
        raise InputError(f"0 of {number_of(len(order), 'image')} could be read: there is nothing to compare")
    if folder is not None:
        with processes.first_only(InputError):
            if first:
                result.save(folder)
    return result


def _group(
    subject: Subject,
    source: Source,
    group: Group,
    methods: Sequence[MapMethod],
    names: Sequence[str],
    stage_count: int,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Figures of pictures of one shape, and the stages."""
    indices, pictures, items = group
    pictures = pictures.to(subject.device)
    by_part = [(one, part) for one, part, _ in parts(subject, pictures, items, batch_size)]
    if source.targets:
        target = torch.tensor([item.target for item in items], device=pictures.device)
    else:
        target = torch.cat([one.predict(pictures[part]) for one, part in by_part]).argmax(1)
    seeds = [picture_seed(seed, index) for index in indices]

    def maps(of: Squeeze, method: MapMethod) -> Tensor:
        """Of a random control the same draw each time: it is to show a map that stays."""
        return torch.cat(
            [
                replace(one, squeeze=of).maps(method, target[part], pictures[part], seeds[part]).detach()
                for one, part in by_part
            ]
        ).float()

    planned = stages(subject.squeeze, by_part[0][0].make_inputs(pictures[:1]), stage_count)
    before = {method.name: maps(subject.squeeze, method) for method in methods}
    values: dict[str, dict[str, list[Tensor]]] = {m.name: {"spearman": [], "ssim": []} for m in methods}
    changed = copy.deepcopy(subject.squeeze)
    count = 0
    for stage in planned:
        for name in stage:
            reinitialise(changed.model.get_submodule(name), seed + count)
            count += 1
        if stage is planned[-1]:  # by then everything, also what stands beside the parts, as class tokens do
            for name in left_over(changed.model, planned):
                reinitialise(changed.model.get_submodule(name), seed + count, inside=False)
                count += 1
        for method in methods:
            after = maps(changed, method)
            values[method.name]["spearman"].append(spearman(before[method.name], after).cpu())
            values[method.name]["ssim"].append(_similarity(before[method.name], after).cpu())
        advance(len(indices))
    advance(len(indices) * (stage_count - len(planned)))
    records = [
        {
            "file": names[index],
            "target": int(target[i]),
            "values": {
                name: {measure: [float(stage[i]) for stage in found] for measure, found in by_measure.items()}
                for name, by_measure in values.items()
            },
        }
        for i, index in enumerate(indices)
    ]
    return records, planned


def _similarity(before: Tensor, after: Tensor) -> Tensor:
    """SSIM ``(N,)``; of clips the mean over their frames, of a map over time that of its one line."""
    if before.ndim == 2:
        before, after = before[:, None], after[:, None]
    return ssim(before.flatten(0, -3), after.flatten(0, -3)).view(len(before), -1).mean(1)
