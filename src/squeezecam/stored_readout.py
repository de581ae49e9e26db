"""Class read-outs in an adapter file: their tensors and their record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from squeezecam.errors import AdapterError
from squeezecam.module import Squeeze
from squeezecam.readout import POOLS, Readout, ReadoutHead


def readout_tensors(squeeze: Squeeze) -> dict[str, Tensor]:
    """``readouts.0.bias`` and ``readouts.0.<stream>.weight``, numbered as in :func:`readout_records`."""
    tensors = {}
    for number, readout in enumerate(squeeze.readouts.values()):
        tensors[f"readouts.{number}.bias"] = readout.first.bias
        tensors.update({f"readouts.{number}.{stream}.weight": readout[stream].weight for stream in readout})
    return tensors


def readout_records(squeeze: Squeeze) -> list[dict[str, Any]]:
    """What an adapter's record says of the read-outs."""
    return [
        {
            "output": readout.output,
            "r2": readout.r2,
            "link": readout.first.link,
            "pools": {stream: readout[stream].pool for stream in readout},
        }
        for readout in squeeze.readouts.values()
    ]


def readouts_from(squeeze: Squeeze, records: Any, tensors: dict[str, Tensor], path: Path) -> list[Readout]:
    """The read-outs of an adapter file, for the outputs that the model has; none where the file is an older one.

    Raises:
        AdapterError: a record without its tensors, or tensors that do not fit the places.

    """
    try:
        return [
            _readout(squeeze, record, number, tensors)
            for number, record in enumerate(records)
            if record["output"] in squeeze.outputs
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(f"{path}: its class read-out is damaged ({error}): fit and save it again") from None


def _readout(squeeze: Squeeze, record: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> Readout:
    output, r2 = record["output"], float(record["r2"])
    bias = tensors[f"readouts.{number}.bias"]
    if not record["pools"] or not math.isfinite(r2) or bias.ndim != 1:
        raise ValueError(f"'{output}' without streams, R² or constants")
    heads = {}
    for stream, pool in record["pools"].items():
        weight = tensors[f"readouts.{number}.{stream}.weight"]
        if pool not in POOLS:
            raise ValueError(f"unknown pooling '{pool}'")
        expected = (len(bias), squeeze.places[stream].channels * (2 if pool == "contrast" else 1))
        if tuple(weight.shape) != expected:
            raise ValueError(f"'{stream}' has weights {tuple(weight.shape)}, expected {expected}")
        heads[stream] = ReadoutHead(
            output, squeeze.outputs[output], weight, bias, r2, pool, record.get("link", "identity")
        )
    return Readout(heads)
