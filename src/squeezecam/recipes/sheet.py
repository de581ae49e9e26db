"""Examples to look at: test pictures of each class that has a place, methods side by side."""

from __future__ import annotations

from pathlib import Path

import torch

from squeezecam.data.record import DataSet
from squeezecam.errors import InputError
from squeezecam.evaluation.labelled import LabelledSource
from squeezecam.files import write_picture
from squeezecam.methods import usable
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.peers import available, choose
from squeezecam.recipes.settings import Settings

CLASSES, EACH = 8, 2
COLUMNS = 6
PEER, CONTROL = "grad-cam", "all-channel-mean"


def sheet(loaded: LoadedModel, squeeze: Squeeze, testing: DataSet, path: Path, settings: Settings) -> Path:
    """Write a grid: rows are pictures, `EACH` of up to `CLASSES` classes, columns the methods asked for
    (None: ours and Grad-CAM) and a control.

    Raises:
        InputError: no class of the set has a place, or the file cannot be written.
    """
    from squeezecam.data.pixels import read_image
    from squeezecam.render.compare import comparison_grid

    source = LabelledSource(testing, loaded.preprocess, per_class=EACH, seed=settings.seed)
    order = sorted(range(len(source.items)), key=lambda i: source.subsets(i))
    names = sorted({source.subsets(i)[0] for i in order}, key=testing.classes.index)
    step = max(1, -(-len(names) // CLASSES))
    shown = [i for i in order if source.subsets(i)[0] in names[::step]]
    own = usable(squeeze)
    wanted = [*reversed(own), PEER] if settings.methods is None else settings.methods.split(",")
    chosen = [m for m in choose(wanted) if available(m) and m.name != CONTROL][: COLUMNS - 1]
    methods = [*chosen, *choose(CONTROL)]
    pictures, maps, labels, boxes = [], [], [], []
    device = next(squeeze.parameters()).device
    for i in shown:
        number, label = source.items[i]
        try:
            item, picture = source.load(i), read_image(testing[number].path)
        except InputError:  # told before the training
            continue
        inputs = loaded.make_inputs(item.picture[None].to(device))
        target = torch.tensor([label], device=device)
        seen = source.geometry.seen(picture.size)
        rows = [
            seen.upright(m(squeeze, inputs, target, seeds=[settings.seed])[0].float().cpu().numpy()) for m in methods
        ]
        pictures.append(picture)
        maps.append(rows)
        labels.append(source.subsets(i)[0].replace("_", " "))
        boxes.append(seen.box)
    figure = comparison_grid(
        pictures, maps, column_labels=[m.label for m in methods], row_labels=labels, boxes=boxes,
        title=f"{testing.name} ({testing.split}): maps of the class named, on pictures that have it",
    )  # fmt: skip
    return write_picture(path, figure)
