"""Refiners in an adapter file: their tensors, their record, and where the features of a finer map are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from squeezecam.errors import AdapterError
from squeezecam.finer import as_record, from_record
from squeezecam.module import Squeeze
from squeezecam.refiner import Refiner, settings


def refiner_tensors(squeeze: Squeeze) -> dict[str, Tensor]:
    """``refiners.0.<name>``, numbered as in :func:`refiner_records`."""
    return {
        f"refiners.{number}.{name}": tensor
        for number, refiner in enumerate(squeeze.refiners)
        for name, tensor in refiner.state_dict().items()
    }


def refiner_records(squeeze: Squeeze, clean: dict[str, str]) -> list[dict[str, Any]]:
    """What an adapter's record says of the refiners; ``clean`` has module names without what wrappers put in."""
    where = None if squeeze.finer is None else as_record(squeeze.finer, clean)
    return [
        {"output": refiner.output, "at": where if refiner.finer else None, **settings(refiner)}
        for refiner in squeeze.refiners
    ]


def put_refiners(squeeze: Squeeze, records: Any, tensors: dict[str, Tensor], names: dict[str, str], path: Path) -> None:
    """Give ``squeeze`` the refiners of an adapter file, for the outputs that it has; an older file has none.

    ``names`` leads from clean names of modules to those of this model.

    Raises:
        AdapterError: a record without its tensors, or tensors or a place that do not fit the model.

    """
    place = next(iter(squeeze.places.values()))
    device = next(squeeze.parameters()).device
    try:
        for number, record in enumerate(records):
            if record["output"] not in squeeze.outputs:
                continue
            if record["channels"] != place.channels:
                raise ValueError(f"it is for {record['channels']} channels, the map has {place.channels}")
            sizes = {key: int(record[key]) for key in ("width", "hidden", "factor")}
            channels = int(record["finer"])
            finer = from_record(record["at"], channels, names, squeeze.model) if channels else None
            refiner = Refiner(record["output"], place.channels, channels, **sizes)
            prefix = f"refiners.{number}."
            refiner.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            squeeze.set_refiner(refiner.to(device), finer)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise AdapterError(
            f"{path}: its refiner is damaged, or of an older form ({line}): fit and save it again"
        ) from None
