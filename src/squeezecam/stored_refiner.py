"""Refiners in an adapter file: their tensors and their record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from squeezecam.errors import AdapterError
from squeezecam.module import Squeeze
from squeezecam.refiner import Refiner, settings


def refiner_tensors(squeeze: Squeeze) -> dict[str, Tensor]:
    """``refiners.0.<name>``, numbered as in :func:`refiner_records`."""
    return {
        f"refiners.{number}.{name}": tensor
        for number, refiner in enumerate(squeeze.refiners)
        for name, tensor in refiner.state_dict().items()
    }


def refiner_records(squeeze: Squeeze) -> list[dict[str, Any]]:
    """What an adapter's record says of the refiners."""
    return [{"output": refiner.output, **settings(refiner)} for refiner in squeeze.refiners]


def put_refiners(squeeze: Squeeze, records: Any, tensors: dict[str, Tensor], path: Path) -> None:
    """Give ``squeeze`` the refiners of an adapter file, for the outputs that it has; an older file has none.

    Raises:
        AdapterError: a record without its tensors, or tensors that do not fit the place.

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
            refiner = Refiner(record["output"], place.channels, **sizes)
            prefix = f"refiners.{number}."
            refiner.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            squeeze.set_refiner(refiner.to(device))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise AdapterError(
            f"{path}: its refiner is damaged, or of an older form ({line}): fit and save it again"
        ) from None
