"""Commands under ``torchrun`` or ``accelerate launch``: they join at the start, one speaks, and they end together."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from squeezecam.commands.explain import Outcome

Options = ParamSpec("Options")


def together(command: Callable[Options, None]) -> Callable[Options, None]:
    """A command that several processes run as one: all but rank 0 print nothing but errors, none leaves before all are
    done. In one process nothing changes, and nothing is imported.
    """

    @functools.wraps(command)
    def run(*args: Options.args, **kwargs: Options.kwargs) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            command(*args, **kwargs)
            return
        from squeezecam import processes

        processes.join()
        said = sys.stdout
        if processes.rank():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        try:
            command(*args, **kwargs)
        except typer.Exit:  # some pictures failed: the others still have work to do
            processes.wait()
            raise
        finally:
            if processes.rank():
                sys.stdout.close()
                sys.stdout = said
        processes.wait()
        processes.leave()

    return run


def gather(outcome: Outcome, tiles: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Put what all processes have done into ``outcome``, in the order of ``names``; returns the first tiles of all."""
    from squeezecam import processes
    from squeezecam.render.explained import SHEET_LIMIT

    if processes.world() == 1:
        return tiles
    found = processes.everyone((outcome, tiles))
    order = {name: place for place, name in enumerate(names)}
    rows = [row for one, _ in found for row in one.results]
    outcome.results = sorted(rows, key=lambda row: order[row["name"]])
    outcome.failures = [failure for one, _ in found for failure in one.failures]
    outcome.written = [path for one, _ in found for path in one.written]
    outcome.interrupted = any(one.interrupted for one, _ in found)
    joined = {name: tile for _, some in found for name, tile in some.items()}
    return {name: joined[name] for name in sorted(joined, key=order.__getitem__)[:SHEET_LIMIT]}
