"""Locators in an adapter file: their tensors, their record, and where their finer features are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from squeezecam.errors import AdapterError
from squeezecam.finer import as_record, from_record
from squeezecam.locator import Locator, settings
from squeezecam.module import Squeeze


def locator_tensors(squeeze: Squeeze) -> dict[str, Tensor]:
    """``locators.0.<name>``, numbered as in :func:`locator_records`."""
    return {
        f"locators.{number}.{name}": tensor
        for number, locator in enumerate(squeeze.locators)
        for name, tensor in locator.state_dict().items()
    }


def locator_records(squeeze: Squeeze, clean: dict[str, str]) -> list[dict[str, Any]]:
    """What an adapter's record says of the locators; ``clean`` has module names without what wrappers put in."""
    finer = squeeze.finer
    if finer is None:
        return []
    where = as_record(finer, clean)
    return [{"output": locator.output, "at": where, **settings(locator)} for locator in squeeze.locators]


def put_locators(squeeze: Squeeze, records: Any, tensors: dict[str, Tensor], names: dict[str, str], path: Path) -> None:
    """Give ``squeeze`` the locators of an adapter file, for the outputs that it has; an older file has none.

    ``names`` leads from clean names of modules to those of this model.

    Raises:
        AdapterError: a record without its tensors, or tensors or a place that do not fit the model.

    """
    device = next(squeeze.parameters()).device
    channels = next(iter(squeeze.places.values())).channels
    try:
        for number, record in enumerate(records):
            if record["output"] not in squeeze.outputs:
                continue
            if record["channels"] != channels:
                raise ValueError(f"it is for {record['channels']} channels, the map has {channels}")
            place = from_record(record["at"], int(record["finer"]), names, squeeze.model)
            sizes = {key: int(record[key]) for key in ("width", "hidden")}
            locator = Locator(record["output"], channels, place.channels, **sizes)
            prefix = f"locators.{number}."
            locator.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            squeeze.set_locator(locator.to(device), place)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise AdapterError(f"{path}: its locator is damaged ({line}): fit and save it again") from None
