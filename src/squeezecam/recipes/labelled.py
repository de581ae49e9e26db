"""Train a classifier with the block in its path, and the same without; then see where its maps land.

For any data set of `squeezecam.data.sets`: attributes of faces (CelebA), parts of pictures (VOC), whole pictures
(ImageNet, CUB, Pet). Both trainings begin from the same weights and see the same batches. Maps are those of each class
that a test picture has, looked for where that class is, beside the four controls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from squeezecam import processes
from squeezecam.attach import attach
from squeezecam.commands.pictures import example_of
from squeezecam.data.record import DataSet
from squeezecam.errors import InputError
from squeezecam.evaluation.labelled import LabelledSource
from squeezecam.evaluation.running import run
from squeezecam.evaluation.subject import Subject
from squeezecam.evaluation.summary import Evaluation
from squeezecam.files import output_folder, write_json, write_text
from squeezecam.fit.labels import task_loss
from squeezecam.fit.progress import Progress
from squeezecam.fit.report import cut_of
from squeezecam.links import MULTI_LABEL, last_of, read_as_labels
from squeezecam.metrics import Interval, bootstrap_difference
from squeezecam.models.loaded import LoadedModel
from squeezecam.models.trainable import refuse_untrainable, the_output
from squeezecam.module import Squeeze
from squeezecam.recipes.models import with_classes
from squeezecam.recipes.pictures import Pictures, readable
from squeezecam.recipes.scores import average_precision, correct, majority, per_class
from squeezecam.recipes.settings import Settings
from squeezecam.recipes.sheet import sheet
from squeezecam.render.table import text_table
from squeezecam.sides import read_as_binary
from squeezecam.training import TrainingReport, predictions, train
from squeezecam.wording import number_of

METRICS = "pointing_game,energy_pointing_game"
SAID = 3
"""Unreadable pictures that are named one by one."""


@dataclass
class LabelledReport:
    """What a training gave.

    Attributes:
        classes: names of the K classes.
        chance: (K,) see `squeezecam.recipes.scores.majority`.
        accuracy: ``{"with": (K,), "without": (K,)}`` on the test pictures; ``without`` only with a baseline.
        precision: likewise the average precision; empty where classes exclude each other.
        overall: mean accuracy over the test pictures of each.
        difference: with minus without, paired over the test pictures, 95 % bootstrap interval.
        training: the report of each training.
        maps: where maps land, one subset per class; None where that was not asked for.
        written: files.
    """

    classes: tuple[str, ...]
    chance: Tensor
    accuracy: dict[str, Tensor]
    precision: dict[str, Tensor]
    overall: dict[str, float]
    difference: Interval | None
    training: dict[str, TrainingReport]
    maps: Evaluation | None = None
    written: list[Path] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One row per class: accuracies, precisions, and pointing and energy of each method where measured."""
        rows = []
        for k, name in enumerate(self.classes):
            row: dict[str, Any] = {"class": name, "chance": float(self.chance[k])}
            for measure, values in (("accuracy", self.accuracy), ("AP", self.precision)):
                row |= {f"{measure} {how}": float(found[k]) for how, found in values.items()}
            rows.append(row)
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        figures = {key: ".3f" for key in rows[0] if key != "class"} if rows else {}
        lines = [text_table(rows, formats=figures)]
        words = ", ".join(f"{how} the block {value:.4f}" for how, value in self.overall.items())
        lines.append(f"accuracy over all test pictures: {words}")
        if self.difference is not None:
            d = self.difference
            lines.append(
                f"difference {d.mean:+.4f}, 95 % bootstrap interval {d.low:+.4f} to {d.high:+.4f}, {d.samples} pictures"
            )
        if self.maps is not None:
            lines += ["", str(replace(self.maps, subsets=()))]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "overall": self.overall,
            "difference": None if self.difference is None else self.difference._asdict(),
            "classes": self.rows(),
            "training": {how: report.as_dict() for how, report in self.training.items()},
            "maps": None if self.maps is None else self.maps.as_dict(),
        }


def train_and_look(
    loaded: LoadedModel,
    fitting: DataSet,
    testing: DataSet,
    out: str | Path,
    settings: Settings | None = None,
    *,
    classes: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> tuple[Squeeze, LabelledReport]:
    """Train ``loaded`` on ``fitting`` with the block in its path (and without), and measure on ``testing``.

    Writes into ``out``: ``model.safetensors`` (weights with the trained model), ``model.squeeze.safetensors`` (the
    block), ``labels.txt`` (of a single attribute the two sides of its decision), ``report.txt``,
    ``report.json``, in ``maps/`` the tables of `squeezecam.evaluate`, and ``maps.png`` with examples.

    Args:
        loaded: the model; it gets a classification layer of its own for these classes, and is trained in place.
        fitting: training pictures.
        testing: others of the same classes.
        out: folder.
        settings: see `Settings`.
        classes: in a multi-label set only these, by name.
        say: told what is going on.
        progress: bars on standard error; None: where that is a terminal.

    Raises:
        InputError: sets that do not fit together, unknown classes, not one picture that can be read. Single ones that
            cannot are left out, and told before the training begins.
        ModelError: the model cannot be given these classes, or cannot be trained as it is.
    """
    chosen = settings or Settings()
    processes.join()
    fitting, testing = _chosen(fitting, testing, classes)
    folder = output_folder(out)
    loaded = with_classes(loaded, testing.classes, seed=chosen.seed)
    loaders = _loaders(loaded, fitting, testing, chosen, say, progress)
    plain = copy.deepcopy(loaded.model) if chosen.baseline else None
    refuse_untrainable(loaded.model, loaded.name)
    example = example_of(loaded)
    squeeze = attach(loaded.model, example, apply="gate")
    read_as_labels(squeeze, squeeze.default_output, testing.multilabel)
    say(f"{testing.name}: {len(loaders[0].dataset)} pictures to train on, {len(loaders[1].dataset)} to test on")  # type: ignore[arg-type]
    outputs, training = {}, {}
    modules: dict[str, nn.Module] = {"with": squeeze} if plain is None else {"with": squeeze, "without": plain}
    task, link = (MULTI_LABEL if testing.multilabel else "classification"), last_of(squeeze, squeeze.default_output)
    targets = loaders[1].dataset.targets  # type: ignore[attr-defined]
    for how, module in modules.items():
        say(f"training {how} the block")
        training[how] = _train(module, loaders[0], partial(_loss, loaded.name, task, link), chosen, progress)
        outputs[how] = predictions(module, loaders[1])[0]
    squeeze.eval()
    report = _report(testing.classes, outputs, targets, training, cut_of(squeeze, squeeze.default_output))
    if chosen.maps:
        report.maps = look(loaded, squeeze, testing, folder / "maps", chosen, say=say, progress=progress)
    with processes.first_only(InputError) as first:
        if first:
            _write(squeeze, loaded, testing, report, folder, chosen)
    return squeeze, report


def look(
    loaded: LoadedModel,
    squeeze: Squeeze,
    testing: DataSet,
    out: str | Path | None,
    settings: Settings,
    *,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Where the maps of each class land on test pictures that have it: pointing and energy, with controls.

    Raises:
        InputError: no class of the set has a place.
    """
    source = LabelledSource(testing, loaded.preprocess, per_class=settings.maps, seed=settings.seed)
    there = sorted({name for i in range(len(source.items)) for name in source.subsets(i)}, key=testing.classes.index)
    subject = Subject(squeeze, squeeze.default_output, loaded.make_inputs)
    return run(
        subject, source, settings.methods, METRICS, subsets=tuple(there), batch_size=min(16, settings.batch_size),
        seed=settings.seed, out=out, progress=progress, say=say,
    )  # fmt: skip


def _chosen(fitting: DataSet, testing: DataSet, names: Sequence[str]) -> tuple[DataSet, DataSet]:
    if fitting.classes != testing.classes:
        raise InputError(
            f"'{fitting.split}' has {len(fitting.classes)} classes and '{testing.split}' {len(testing.classes)}, or "
            "others: expected two parts of one set"
        )
    if not names:
        return fitting, testing
    return fitting.only(names), testing.only(names)


def _loaders(
    loaded: LoadedModel,
    fitting: DataSet,
    testing: DataSet,
    settings: Settings,
    say: Callable[[str], None],
    progress: bool | None,
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    generator = torch.Generator().manual_seed(settings.seed)
    parts = []
    for data in (fitting, testing):
        order = torch.randperm(len(data), generator=generator)[: settings.sample].sort().values.tolist()
        order = _readable(data, order, settings, say, progress)
        parts.append(Pictures(data, loaded.preprocess, indices=order, flip=settings.flip and data is fitting))
    size, count = settings.batch_size, len(parts[0])
    alone = count > size > 1 and count % size == 1  # no batch norm can take it; which one it is changes with the epoch
    return (
        DataLoader(parts[0], size, shuffle=True, drop_last=alone, num_workers=settings.workers),
        DataLoader(parts[1], settings.batch_size, num_workers=settings.workers),
    )


def _readable(
    data: DataSet, order: list[int], settings: Settings, say: Callable[[str], None], progress: bool | None
) -> list[int]:
    left_out: list[str] = []
    with Progress(progress) as bar, bar.task(f"reading {data.split}", len(order)) as advance:
        threads = max(2, settings.workers)
        good = readable(data, order, lambda file, why: left_out.append(why), threads=threads, advance=advance)
    for why in left_out[:SAID]:
        say(why)
    if left_out:
        more = f", {SAID} of them above" if len(left_out) > SAID else ""
        say(f"{len(left_out)} of {number_of(len(order), 'picture')} of '{data.split}' left out: not readable{more}")
    return good


def _loss(name: str, task: str, link: str, result: Any, labels: Tensor) -> Tensor:
    return task_loss(the_output(result, name), labels, task, link)


def _train(
    module: nn.Module,
    loader: DataLoader[Any],
    loss: Callable[[Any, Any], Tensor],
    settings: Settings,
    progress: bool | None,
) -> TrainingReport:
    wanted = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(wanted, settings.rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, settings.epochs * len(loader)))
    return train(
        module, loader, loss=loss, epochs=settings.epochs, optimiser=optimiser, scheduler=scheduler,
        seed=settings.seed, progress=progress,
    )  # fmt: skip


def _report(
    classes: tuple[str, ...],
    outputs: dict[str, Tensor],
    targets: Tensor,
    training: dict[str, TrainingReport],
    cut: float,
) -> LabelledReport:
    right = {how: correct(values, targets, cut) for how, values in outputs.items()}
    precision = {}
    if targets.ndim == 2:
        columns = range(len(classes))
        precision = {
            how: torch.stack([average_precision(values[:, k], targets[:, k]) for k in columns])
            for how, values in outputs.items()
        }
    return LabelledReport(
        classes,
        majority(targets, len(classes)),
        {how: per_class(values, targets, cut) for how, values in outputs.items()},
        precision,
        {how: float(values.mean()) for how, values in right.items()},
        bootstrap_difference(right["with"], right["without"]) if "without" in right else None,
        training,
    )


def _write(
    squeeze: Squeeze, loaded: LoadedModel, testing: DataSet, report: LabelledReport, folder: Path, settings: Settings
) -> None:
    from safetensors.torch import save

    from squeezecam.files import write_bytes

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in squeeze.model.state_dict().items()}
    maps: list[Path] = []
    if report.maps is not None:
        maps = [*report.maps.written, sheet(loaded, squeeze, testing, folder / "maps.png", settings)]
    names = testing.classes
    if testing.multilabel and len(names) == 1:  # one value says neither: a decision, whose two sides have names
        read_as_labels(squeeze, squeeze.default_output, False)
        read_as_binary(squeeze)
        names = (f"not {names[0]}", names[0])
    block = folder / "model.squeeze.safetensors"
    squeeze.save(block)
    report.written += [
        write_bytes(folder / "model.safetensors", save(state)), block,
        write_text(folder / "labels.txt", "\n".join(names) + "\n"), *maps,
    ]  # fmt: skip
    report.written += [
        write_text(folder / "report.txt", f"{report}\n"), write_json(folder / "report.json", report.as_dict()),
    ]  # fmt: skip
