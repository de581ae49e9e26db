"""The official score of AVA-ActiveSpeaker: average precision over all annotated faces, called mAP in the field.

Follows the ActivityNet evaluation: each prediction belongs to the annotation with the same entity, time and box;
average precision is that of PASCAL VOC over all points (precision made non-increasing in recall, then the area under
it). WASD is scored in the same way.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from squeezecam.data.ava import COLUMNS, SPEAKING, Entity, Row, read_rows
from squeezecam.errors import InputError

_BOX_TOLERANCE = 1e-9


@dataclass(frozen=True)
class AvaScore:
    """The score and what it stands on."""

    average_precision: float
    frames: int
    positives: int
    tied: int  # frames that share their score with others: there the order of the annotations decides


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the all-points average precision, in [0, 1], of `scores` (n,) against `positive` (n,), bool.

    Every row is a point of the curve, as in the official evaluation; equal scores keep the order in which they are
    given.
    """
    value, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if value.ndim != 1 or value.shape != truth.shape:
        raise InputError(f"scores {value.shape} and labels {truth.shape}; expected two lists of the same length")
    if not np.isfinite(value).all():
        raise InputError("scores hold NaN or infinity; expected a finite score for every row")
    if not truth.any():
        raise InputError("no row is positive: average precision is not defined")
    hits = truth[np.argsort(-value, kind="stable")]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # recall rises by one positive's share at each hit, and only there
    return float(envelope[hits].sum() / found[-1])


def evaluate_ava(truth: str | Path | Iterable[Row], predictions: str | Path | Iterable[Row]) -> AvaScore:
    """Score predictions against annotations, both as files in the official form or as rows.

    Predictions need a `score` and the label SPEAKING_AUDIBLE in every row, and one row for every annotation, with the
    same video, entity, time and box. Raises `InputError` that names what does not match.
    """
    expected = _by_key(truth, "annotations")
    given = _by_key(predictions, "predictions")
    absent, surplus = expected.keys() - given.keys(), given.keys() - expected.keys()
    if absent or surplus:
        raise InputError(
            f"predictions lack {len(absent)} annotated frames {sorted(absent)[:2]} and have {len(surplus)} "
            f"that are not annotated {sorted(surplus)[:2]}; expected the same videos, entities and times"
        )
    scores, positive = [], []
    for key, row in expected.items():
        guess = given[key]
        if guess.label != SPEAKING:
            raise InputError(
                f"prediction {key} has the label {guess.label}; expected {SPEAKING} in every row, with its score"
            )
        if guess.score is None:
            raise InputError(f"prediction {key} has no score; expected one in every row")
        if max(abs(a - b) for a, b in zip(row.box, guess.box, strict=True)) > _BOX_TOLERANCE:
            raise InputError(f"prediction {key} has the box {guess.box}; the annotation has {row.box}")
        scores.append(guess.score)
        positive.append(row.label == SPEAKING)
    _, counts = np.unique(np.array(scores), return_counts=True)
    return AvaScore(average_precision(scores, positive), len(scores), sum(positive), int(counts[counts > 1].sum()))


def write_predictions(path: str | Path, entities: Sequence[Entity], scores: Sequence[ArrayLike]) -> None:
    """Write a predictions file: a header, then a row per frame of each entity; `scores` holds (T,) for each."""
    path = Path(path)
    if len(entities) != len(scores):
        raise InputError(f"{len(scores)} lists of scores for {len(entities)} entities")
    rows: list[list[object]] = []
    for entity, given in zip(entities, scores, strict=True):
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (len(entity),):
            raise InputError(f"scores {values.shape} for the {len(entity)} frames of entity {entity.entity_id}")
        rows += [
            [entity.video_id, time, *box, SPEAKING, entity.entity_id, score]
            for time, box, score in zip(entity.timestamps.tolist(), entity.boxes.tolist(), values.tolist(), strict=True)
        ]
    partial = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*COLUMNS, "score"], *rows])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _by_key(source: str | Path | Iterable[Row], name: str) -> dict[tuple[str, str, float], Row]:
    rows = read_rows(source) if isinstance(source, str | Path) else list(source)
    keyed = {(row.video_id, row.entity_id, row.timestamp): row for row in rows}
    if len(keyed) != len(rows):
        raise InputError(f"{name} hold {len(rows) - len(keyed)} frames twice; expected one row per entity and time")
    return keyed
