"""What can stand in the table: each column with its direction, its needs and its price."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from squeezecam.errors import InputError
from squeezecam.metrics.road import SHARES

ROAD_SHARES = len(SHARES)
SENSITIVITY_DRAWS = 10


@dataclass(frozen=True)
class Column:
    """One figure per map.

    Attributes:
        name: of the metric in :mod:`squeezecam.metrics`, or ours.
        label: head of the column.
        higher_is_better: None where neither direction is better by itself.
        needs: what has to be computed for it: ``insertion``, ``deletion``, ``masked`` (the picture through its map),
            ``again`` (the map of that), ``truth`` (boxes or masks), ``levels`` (accuracy over all thresholds),
            ``morf`` and ``lerf`` (ROAD in either order), ``sensitivity``, ``channels`` (the head again and again with
            channels ablated: of methods that choose channels, squeezecam's own; others have no such figure).
        slow: only measured when asked for by name.
        digits: after the point.

    """

    name: str
    label: str
    higher_is_better: bool | None
    needs: frozenset[str] = field(default_factory=frozenset)
    slow: bool = False
    digits: int = 3

    @property
    def flat(self) -> bool:
        """Whether only maps with height and width have this figure."""
        return bool(self.needs & {"levels", "morf", "lerf", "channels"})

    @property
    def own(self) -> bool:
        """Whether only methods that choose channels have this figure."""
        return "channels" in self.needs


def _column(
    name: str, label: str, higher: bool | None, *needs: str, slow: bool = False, digits: int = 3
) -> tuple[str, Column]:
    return name, Column(name, label, higher, frozenset(needs), slow, digits)


COLUMNS: dict[str, Column] = dict(
    [
        _column("insertion", "ins", True, "insertion"),
        _column("deletion", "del", False, "deletion"),
        _column("insertion_deletion", "I-D", True, "insertion", "deletion"),
        _column("average_drop", "drop", False, "masked"),
        _column("increase_in_confidence", "inc", True, "masked"),
        _column("average_gain", "gain", True, "masked"),
        _column("adcc", "ADCC", True, "masked", "again"),
        _column("coherency", "coherency", True, "again"),
        _column("complexity", "complexity", False),
        _column("pointing_game", "pointing", True, "truth"),
        _column("energy_pointing_game", "energy", True, "truth"),
        _column("mask_iou", "IoU", True, "truth"),
        _column("max_box_acc", "MaxBoxAcc", True, "truth", "levels"),
        _column("max_box_acc_v2", "MaxBoxAccV2", True, "truth", "levels"),
        _column("sparseness", "sparseness", True),
        _column("road", "ROAD", False, "morf", slow=True),
        _column("road_combined", "ROAD comb", True, "morf", "lerf", slow=True),
        _column("sensitivity_max", "sensitivity", False, "sensitivity", slow=True),
        _column("channel_faithfulness", "channels", True, "channels", slow=True),
        _column("channel_correlation", "chan corr", True, "channels", slow=True),
        _column("opposing_share", "opposing", False, "channels", slow=True),
        _column("map_area", "area", None),
    ]
)

DEFAULT = (
    "insertion", "deletion", "insertion_deletion", "average_drop", "increase_in_confidence", "average_gain", "adcc",
    "pointing_game", "energy_pointing_game", "max_box_acc_v2", "map_area",
)  # fmt: skip
"""Those about the place of the object are left out where there are no boxes or masks."""


def choose_columns(
    names: str | Iterable[str] | None, *, truth: bool, rank: int = 2, one_map: bool = True
) -> list[Column]:
    """Columns by name, or by label (``I-D``, ``pointing``); None: the default set. ``all``: slow ones included.

    The area always stands beside the rest: a broad map does well in one metric, a tight one in another. ``rank`` is the
    number of axes of the maps, ``one_map`` whether the model has no other one.

    Raises:
        InputError: an unknown name, one that needs boxes or masks where there are none, or one that only pictures have.

    """

    def pool(of: Iterable[str]) -> list[Column]:
        columns = [COLUMNS[name] for name in of]
        return [
            c
            for c in columns
            if (truth or "truth" not in c.needs) and (rank == 2 or not c.flat) and (one_map or not c.own)
        ]

    if names is None:
        return pool(DEFAULT)
    chosen: dict[str, Column] = {}
    for name in names.split(",") if isinstance(names, str) else names:
        plain = _plain(name)
        if plain in ("all", "default"):
            found = pool(COLUMNS if plain == "all" else DEFAULT)
        else:
            found = [c for c in COLUMNS.values() if plain in (_plain(c.name), _plain(c.label))]
        if not found:
            near = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=3) or list(COLUMNS)
            raise InputError(f"there is no metric '{name.strip()}' in the table; try {', '.join(near)}")
        for column in found:
            if "truth" in column.needs and not truth:
                raise InputError(f"'{column.name}' needs to know where the object is: give boxes or masks")
            if column.flat and rank != 2:
                raise InputError(f"'{column.name}' is for pictures; the maps of this model have {rank} axes")
            if column.own and not one_map:
                raise InputError(f"'{column.name}' is for models with one map, and this model has several")
            chosen.setdefault(column.name, column)
    chosen.pop("map_area", None)
    return [*chosen.values(), COLUMNS["map_area"]]


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "").replace("_", "").replace(" ", "")


def passes(columns: Iterable[Column], steps: int, explain: float) -> float:
    """Forward passes per picture and method for ``columns``, the map itself apart; ``explain`` is what a map costs."""
    needs = frozenset[str]().union(*(column.needs for column in columns))
    price = {
        "insertion": steps - 1.0, "deletion": steps - 1.0, "masked": 1.0, "again": explain,
        "sensitivity": SENSITIVITY_DRAWS * explain, "channels": 3.0, "morf": ROAD_SHARES, "lerf": ROAD_SHARES,
    }  # fmt: skip
    return sum(price.get(need, 0.0) for need in needs)


def imputations(columns: Iterable[Column]) -> int:
    """Pictures per picture and method of which pixels are imputed, for ROAD: each takes longer than a pass."""
    needs = frozenset[str]().union(*(column.needs for column in columns))
    return ROAD_SHARES * len(needs & {"morf", "lerf"})
