"""One fit for several processes: rank 0 fits, the others take over blocks, trained layers, read-outs and report."""

from __future__ import annotations

import copy
from typing import Any

import torch

from squeezecam import processes
from squeezecam.block import SEBlock
from squeezecam.fit.report import FitReport
from squeezecam.module import Squeeze


def shared(squeeze: Squeeze, report: FitReport | None) -> FitReport:
    """The report of rank 0, and its ``squeeze`` in every process."""
    if processes.world() == 1:
        assert report is not None
        return report
    given = processes.from_first(None if report is None else _packed(squeeze, report))
    if report is None:
        _unpack(squeeze, given)
    found: FitReport = given["report"]
    return found


def _packed(squeeze: Squeeze, report: FitReport) -> dict[str, Any]:
    state = squeeze.model.state_dict()
    return {
        "blocks": {
            stream: (squeeze.block(stream).hidden, {n: t.cpu() for n, t in squeeze.block(stream).state_dict().items()})
            for stream in squeeze.places
        },
        "model": {name: state[name].cpu() for name in squeeze.fit_info.get("trained", [])},
        "readouts": [copy.deepcopy(readout).cpu() for readout in squeeze.readouts.values()],
        "fit_info": squeeze.fit_info,
        "report": report,
    }


@torch.no_grad()
def _unpack(squeeze: Squeeze, given: dict[str, Any]) -> None:
    for stream, (hidden, state) in given["blocks"].items():
        old = squeeze.block(stream)
        block = SEBlock(old.channels, hidden=hidden).to(old.reduce.weight).train(old.training)
        block.load_state_dict(state)
        squeeze.blocks[stream] = block
    own = squeeze.model.state_dict()
    for name, tensor in given["model"].items():
        own[name].copy_(tensor)
    squeeze.set_readouts(given["readouts"])
    squeeze.fit_info = given["fit_info"]
