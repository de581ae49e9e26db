"""``squeezecam demo``: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from squeezecam.commands.console import wrote
from squeezecam.commands.options import AsJson, Device, Seed


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for figure, table and adapter")] = Path("demo-out"),
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The whole cycle on the embedded default: attach, fit, explain, measure, draw. No network."""
    from squeezecam.commands.demo import run_demo

    found = run_demo(out, seed, lambda line: None if as_json else print(line, flush=True), device=device)
    if as_json:
        print((found.folder / "demo.json").read_text())
        return
    print(f"\n{found.report}\n\n{found.table}\n\ndone in {found.seconds:.0f} s")
    wrote(found.written)
