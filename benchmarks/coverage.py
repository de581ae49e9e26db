"""The coverage sweep: attach to every architecture without a hint, check what has to hold, and write
``docs/coverage.md``.

    python benchmarks/coverage.py                     everything, going on where the last run stopped
    python benchmarks/coverage.py --only timm --limit 100
    python benchmarks/coverage.py --table             only write the table from what is there

Every model runs in a process of its own, so that a crash or a time limit costs one row. Results are kept in
``benchmarks/coverage.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from coverage_checks import check
from coverage_zoo import (
    Build,
    monai_builds,
    oddities,
    timm_build,
    timm_names,
    torchvision_builds,
    transformers_builds,
)
from squeezecam.models.torchvision_guard import ensure_torchvision

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "docs" / "coverage.md"
MAX_PARAMETERS = 60_000_000
CHECKS = ("attach", "one pass", "observe", "gate identity", "gate acts", "per sample", "finite", "size", "above noise")
GROUPS = ("oddities", "transformers", "torchvision", "monai", "timm")

INTRODUCTION = """\
# Coverage

Every architecture below was built with random weights and attached to **without a hint**:
`squeezecam.attach(model, example)`. Regenerate with `python benchmarks/coverage.py`.

Checked on a batch of two: `attach` needs at most three forward calls and `explain` exactly one; `observe` leaves the
output unchanged to the bit, and so does `gate` at its identity start; in `gate` mode other gates change the output; a
sample's map is the same alone and in a batch; the map is finite, has the input's size and stands far above rounding
noise. Layers that start at zero are drawn anew first, and batch norms get the statistics of the example where random
weights fade or explode."""

NOTES = """\
## What is squeezed, what is gated, which map is shown

* **The place** is the last feature map that every path from the input to the classification layer passes, that can be
  replaced at a module's door before anything was made of it, and whose positions still matter afterwards. Behind a
  class token that is the output of the last block but one: its patch tokens are what the last attention reads.
* **Tokens beside the grid** (class, register, distillation) are neither squeezed nor gated.
* **Branches that run side by side from the input on** (CrossViT) get a block each, on the last maps that one module
  takes together.
* **Features that can be negative.** A plain mean over channels cancels (after a LayerNorm it is zero up to rounding),
  and the energy says nothing there either: it is the same at every position. Where more than 30 % of the mass is
  negative, the kept channels are read by their *contrast*: the root mean square of what differs from the channel's own
  mean over the positions. Mostly positive features (SiLU, GELU) are read by their positive part. Share of pictures in
  which the all-channel map points at a planted texture, on small networks trained on it (chance .05):

  | network | mean | positive | energy | contrast |
  |---|---|---|---|---|
  | ConvNeXt-like, before pooling and LayerNorm | .01 | 1.00 | 1.00 | 1.00 |
  | vision transformer, class token, two seeds | .26, .24 | .01, .03 | .01, .06 | .46, .56 |
  | vision transformer, mean of tokens, two seeds | .13, .20 | .16, .29 | .04, .18 | .26, .42 |

* **Heads that are not linear after pooling** (class tokens, deep heads, attention pooling) have no exact class map.
  `fit` makes a class read-out for them, a ridge regression from squeezed vectors to the model's own logits; its R2 on
  held-out data says what it is worth. What is squeezed, gated and shown there, with figures on trained networks:
  `docs/readout.md`.
* **Inputs without a map** beside one that has (figures beside a picture) are held fixed; where one linear layer takes
  the pooled map and something else, its columns that belong to the map give exact class evidence: `docs/fit.md`.
* **What has no map.** Tabular networks and purely recurrent ones are refused with the reason, and so are detectors and
  segmenters, which return no class scores; the ways on, with examples: `docs/detectors.md`.
* **Fused encoder layers.** Hooks on the modules of `nn.TransformerEncoderLayer` would switch its fused path off and
  change the last bits of the output; squeezecam hooks those through PyTorch's global hooks, which leave it on."""

# --- running --------------------------------------------------------------------------------------------


def entries(groups: list[str]) -> Iterator[tuple[str, str, Build]]:
    """Group, name and builder of everything that is asked for."""
    makers: dict[str, Callable[[], dict[str, Build]]] = {
        "oddities": oddities,
        "transformers": transformers_builds,
        "torchvision": torchvision_builds,
        "monai": monai_builds,
    }
    for group in groups:
        if group == "timm":
            yield from ((group, name, timm_build(name)) for name in timm_names())
        else:
            yield from ((group, name, build) for name, build in makers[group]().items())


def measure(group: str, name: str, build: Build) -> dict[str, Any]:
    """One row of the table; failures are rows too."""
    row: dict[str, Any] = {"group": group, "name": name}
    started = time.perf_counter()
    try:
        torch.manual_seed(0)
        if group == "timm":
            with torch.device("meta"):
                counted = build()[0]
            row["family"] = type(counted).__module__.rpartition(".")[2]
            row["parameters"] = sum(p.numel() for p in counted.parameters())
            if row["parameters"] > MAX_PARAMETERS:
                return {**row, "skipped": "over 60 M parameters"}
        model, example, size = build()
        row.setdefault("family", type(model).__name__)
        row["parameters"] = sum(p.numel() for p in model.parameters())
        started = time.perf_counter()
        outcome = check(model, example, size=size)
        row.update(
            checks=outcome.checks, site=outcome.site, grid=outcome.grid, channels=outcome.channels, head=outcome.head,
            notes=outcome.notes, passed=outcome.passed,
        )  # fmt: skip
    except Exception as error:
        row.update(passed=False, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    row["seconds"] = round(time.perf_counter() - started, 2)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _child(queue: Any, group: str, name: str, build: Build) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    queue.put(measure(group, name, build))


def apart(group: str, name: str, build: Build, limit: float) -> dict[str, Any]:
    """:func:`measure` in a forked process, ended after ``limit`` seconds."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_child, args=(queue, group, name, build))
    process.start()
    deadline = time.monotonic() + limit
    while process.is_alive() and queue.empty() and time.monotonic() < deadline:
        time.sleep(0.02)
    if not queue.empty():
        row: dict[str, Any] = queue.get()
        process.join()
        return row
    process.kill()
    process.join()
    reason = (
        f"no result within {limit:.0f} s"
        if time.monotonic() >= deadline
        else f"the process ended with {process.exitcode}"
    )
    return {"group": group, "name": name, "passed": False, "error": reason}


def sweep(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    ensure_torchvision()
    rows = read(arguments.results)
    done = {(row["group"], row["name"]) for row in rows if arguments.again is None or not _failed(row)}
    count = 0
    for group, name, build in entries(arguments.only or list(GROUPS)):
        if (group, name) in done or (arguments.match and arguments.match not in name):
            continue
        if arguments.limit and count >= arguments.limit:
            break
        row = apart(group, name, build, arguments.seconds)
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if "skipped" not in row:
            count += 1
            print(
                f"{'ok  ' if row['passed'] else 'FAIL'} {group} {name} {row.get('seconds', '-')} s {reason(row)}",
                flush=True,
            )


# --- the table ------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """Rows, the last one where a model was tried several times."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return list({(row["group"], row["name"]): row for row in rows}.values())


def _failed(row: dict[str, Any]) -> bool:
    return "skipped" not in row and not row["passed"]


def reason(row: dict[str, Any]) -> str:
    """Why a row failed, in words."""
    if "error" in row:
        return str(row["error"])
    bad = [name for name, good in row.get("checks", {}).items() if not good]
    return "; ".join([", ".join(bad), *row.get("notes", [])]) if bad else ""


def table(rows: list[dict[str, Any]]) -> str:
    """The page: shares per group, failures with the reason, then one line per model."""
    tried = [row for row in rows if "skipped" not in row]
    lines = [INTRODUCTION, "", "| group | tried | pass every check | share |", "|---|---|---|---|"]
    for group in GROUPS:
        of = [row for row in tried if row["group"] == group]
        if of:
            good = sum(row["passed"] for row in of)
            lines.append(f"| {group} | {len(of)} | {good} | {good / len(of):.1%} |")
    skipped = Counter(row["skipped"] for row in rows if "skipped" in row)
    if skipped:
        lines += ["", "Left out: " + ", ".join(f"{count} architectures {why}" for why, count in skipped.items()) + "."]
    failures = [row for row in tried if not row["passed"]]
    lines += ["", "## What does not pass", ""]
    if failures:
        lines += ["| group | model | reason |", "|---|---|---|"]
        lines += [f"| {row['group']} | {row['name']} | {reason(row).replace('|', '/')} |" for row in failures]
    else:
        lines.append("Everything that was tried passes.")
    lines += ["", NOTES]
    for group in GROUPS:
        of = sorted(
            (row for row in tried if row["group"] == group), key=lambda row: (str(row.get("family")), row["name"])
        )
        if of:
            lines += ["", f"## {group}", "", "| model | place [layout] | grid | channels | head | s | peak MB |  |"]
            lines.append("|---|---|---|---|---|---|---|---|")
            lines += [_line(row) for row in of]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    grid = "x".join(map(str, row.get("grid", ()))) or "-"
    cells = [
        row["name"],
        row.get("site", "-"),
        grid,
        row.get("channels", "-"),
        row.get("head", "-"),
        row.get("seconds", "-"),
        row.get("peak_mb", "-"),
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + f" | {'passes' if row['passed'] else 'fails'} |"


def write(text: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=GROUPS, help="these groups")
    parser.add_argument("--match", help="only names that contain this")
    parser.add_argument("--limit", type=int, help="stop after so many models")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit per model")
    parser.add_argument("--again", action="store_const", const=True, help="try failures again")
    parser.add_argument("--results", type=Path, default=HERE / "coverage.jsonl")
    parser.add_argument("--page", type=Path, default=TABLE, help="the table that is written")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table:
        sweep(arguments)
    write(table(read(arguments.results)), arguments.page)
    print(f"wrote {arguments.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
