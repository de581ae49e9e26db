"""``squeezecam evaluate``: the table of metrics for picture files, with boxes from a CSV."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from squeezecam.commands.pictures import Failures, example_of, prepare
from squeezecam.commands.predictions import classes_of
from squeezecam.data.clip_pieces import is_clip
from squeezecam.data.geometry import Geometry
from squeezecam.data.record import DataSet
from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.evaluation.labelled import Explained, LabelledSource
from squeezecam.evaluation.randomised import Randomisation
from squeezecam.evaluation.randomising import run_randomise
from squeezecam.evaluation.running import run
from squeezecam.evaluation.source import Item
from squeezecam.evaluation.subject import Subject
from squeezecam.evaluation.summary import Evaluation
from squeezecam.evaluation.truth import BoxFile, in_frame, misplaced
from squeezecam.links import read_as_labels, score_kind
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod

if TYPE_CHECKING:
    from pathlib import Path

    from squeezecam.data.images import ImageSource


SHOWN = 3
"""Doubtful boxes that are told one by one."""


class Files:
    """Picture files, their boxes in the network's frame, and the subsets that they belong to.

    Args:
        loaded: the model and its preprocessing.
        sources: the pictures.
        boxes: from :func:`squeezecam.evaluation.truth.read_boxes`, or None.
        subset: names of columns of the boxes file.
        target: class to explain for all pictures, or None.
        say: told once what is doubtful.

    Raises:
        InputError: a subset that is no column, or boxes for none of the pictures.

    """

    def __init__(
        self,
        loaded: LoadedModel,
        sources: Sequence[ImageSource],
        boxes: BoxFile | None,
        subset: Sequence[str],
        target: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.loaded, self.sources, self.boxes, self.subset, self.target, self.say = (
            loaded, sources, boxes, subset, target, say,
        )  # fmt: skip
        self.truth, self.targets = boxes is not None, target is not None
        self.geometry, self.doubtful = Geometry(loaded.preprocess), 0
        self.keys: list[str | None] = [None] * len(sources)
        if boxes is None:
            if subset:
                raise InputError("--subset names a column of the boxes file: give --boxes")
            return
        for name in subset:
            if name not in boxes.flags:
                raise InputError(
                    f"--subset {name}: {boxes.path} has no such column; beside file and box it has "
                    + (", ".join(boxes.flags) or "none")
                )
        if loaded.clip:
            raise InputError(
                "--boxes are for pictures, and this is a model of clips: leave --boxes out, or measure from Python, "
                "with masks (N, T, H, W): squeezecam.evaluate(squeeze, clips, masks=masks)"
            )
        # A box says where something is in a picture; in a clip it may move.
        self.keys = [
            boxes.key(source.path) if source.index is None and not is_clip(source.path) else None for source in sources
        ]
        missing = sum(key is None for key in self.keys)
        if missing == len(sources):
            raise InputError(
                f"{boxes.path} has boxes for none of the {len(sources)} pictures: it names files such as "
                f"{next(iter(boxes.boxes))}, the pictures are such as {sources[0].label}"
                + ("; frames of clips have none" if any(is_clip(source.path) for source in sources) else "")
            )
        if missing:
            say(
                f"{missing} of {len(sources)} pictures have no box in {boxes.path}: "
                "they count in the other metrics only"
            )

    def names(self) -> list[str]:
        """Labels of the pictures."""
        return [source.label for source in self.sources]

    def load(self, index: int) -> Item:
        """Read and preprocess one picture."""
        failures = Failures()
        one = prepare(self.loaded, self.sources[index], failures)
        if one is None:
            raise InputError(failures.found[0][1])
        key = self.keys[index]
        boxes = None if key is None else self._boxes(key, one.picture.size, one.tensor)
        return Item(one.tensor, boxes, None, self.target)

    def subsets(self, index: int) -> list[str]:
        """Those of the asked-for columns that are true for the picture."""
        return [name for name in self.subset if self.boxes is not None and self.keys[index] in self.boxes.flags[name]]

    def identity(self) -> object:
        """Names, sizes and dates of the files, and the boxes themselves."""
        stats = [(source.label, _version_of(source.path)) for source in self.sources]
        boxes = {} if self.boxes is None else self.boxes.boxes
        return hashlib.sha256(repr((stats, sorted(boxes.items()), self.target)).encode()).hexdigest()

    def _boxes(self, key: str, size: tuple[int, int], tensor: Tensor) -> Tensor | None:
        assert self.boxes is not None
        seen = self.geometry.seen(size)
        if seen.box is None:
            raise InputError(
                f"{key}: its boxes cannot be brought into the network's frame: where the preprocessing looks is not "
                f"known ({seen.reason}); evaluate without --boxes, or give masks from Python"
            )
        for line in misplaced(self.boxes.boxes[key], seen.box, *size):
            self._doubt(f"{key}: {line}")
        return in_frame(self.boxes.boxes[key], seen.box, tensor.shape[-1], tensor.shape[-2], seen.mirrored)

    def _doubt(self, line: str) -> None:
        self.doubtful += 1
        if self.doubtful <= SHOWN:
            warnings.warn(line, SqueezeWarning, stacklevel=2)

    def sum_up(self) -> None:
        """Say how many boxes were doubtful, where not all of them were told."""
        if self.doubtful > SHOWN:
            warnings.warn(
                f"{self.doubtful} boxes in all lie outside their picture, or outside what the network sees of it: were "
                "they made for pictures of another size?",
                SqueezeWarning,
                stacklevel=2,
            )


def labelled(
    data: DataSet,
    loaded: LoadedModel,
    squeeze: Squeeze,
    target: str | None,
    *,
    output: str | None,
    task: str | None,
    max_pixels: int,
    say: Callable[[str], None],
) -> LabelledSource:
    """A data set to measure on; ``target`` is ``--target``: a class index, ``label``, ``predicted`` or None.

    None is ``label`` for a multi-label set with as many classes as the model has, whose largest value means little, and
    else ``predicted``; it is said which.

    Raises:
        InputError: a target that is none of these, or ``label`` for a model with other classes.

    """
    classes = len(data.classes)
    count = classes_of(squeeze, example_of(loaded), output)
    if task is None:
        labels_of_set(data, count, squeeze, output, say)
    wanted: Explained | int
    if target is None:
        wanted = "label" if data.multilabel and count == classes else "predicted"
        words = (
            "each class that a picture has is looked for" if wanted == "label" else "the predicted class is explained"
        )
        say(f"{data.name} ({data.split}): {len(data)} pictures, {classes} classes; {words} (--target)")
    elif target in ("label", "predicted"):
        wanted = "label" if target == "label" else "predicted"
    else:
        wanted = class_index(target) or 0
    if wanted == "label" and count != classes:
        raise InputError(
            f"--target label: the model has {count} classes and '{data.name}' has {classes}: their indices do not mean "
            "the same; leave --target out for the predicted class"
        )
    return LabelledSource(data, loaded.preprocess, target=wanted, max_pixels=max_pixels)


def labels_of_set(data: DataSet, count: int, squeeze: Squeeze, output: str | None, say: Callable[[str], None]) -> None:
    """Read an output of ``count`` values, one for each label of a multi-label set, as these labels, and say so."""
    name = squeeze.output_name(output)
    if data.multilabel and count == len(data.classes) and score_kind(squeeze, name) == "logits":
        read_as_labels(squeeze, name)
        say(
            f"{data.name} has {count} independent labels and '{name}' as many values: each is taken by itself "
            "(--task classification for a softmax over them)"
        )


def class_index(target: str | None) -> int | None:
    """``--target`` as a number.

    Raises:
        InputError: it is none.

    """
    if target is None:
        return None
    if not target.isdigit():
        raise InputError(
            f"--target is '{target}'; expected a class index from 0, or, with a data set such as cub:FOLDER, label or "
            "predicted"
        )
    return int(target)


def _version_of(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def evaluate_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    files: Files | LabelledSource,
    methods: str | list[MapMethod] | None,
    metrics: str | None,
    *,
    output: str | None,
    failures: Failures,
    **options: Any,
) -> Evaluation:
    """The table for ``files``; ``options`` as of :func:`squeezecam.evaluation.running.run`."""
    subject = Subject(squeeze, squeeze.output_name(output), loaded.make_inputs)
    evaluation = run(
        subject, files, methods, metrics, subsets=tuple(files.subset), settings={"source": loaded.source},
        report=failures.report, **options,
    )  # fmt: skip
    if isinstance(files, Files):
        files.sum_up()
    failures.found += evaluation.failures
    return evaluation


def randomise_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    files: Files | LabelledSource,
    methods: str | list[MapMethod] | None,
    *,
    output: str | None,
    failures: Failures,
    **options: Any,
) -> Randomisation:
    """The model randomisation check; ``options`` as of :func:`squeezecam.evaluation.randomising.run_randomise`."""
    subject = Subject(squeeze, squeeze.output_name(output), loaded.make_inputs)
    found = run_randomise(
        subject, files, methods, settings={"source": loaded.source}, report=failures.report, **options
    )
    failures.found += found.failures
    return found
