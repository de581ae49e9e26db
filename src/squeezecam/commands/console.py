"""How the commands speak: bars, what was written, what failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from squeezecam.wording import number_of

if TYPE_CHECKING:
    from squeezecam.commands.pictures import Failures


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar where somebody looks; yields the function that moves it on."""
    from squeezecam.fit.progress import Progress

    with Progress() as progress, progress.task(name, total) as advance:
        yield advance


def say(line: str) -> None:
    """One line about the work, on standard error."""
    print(f"squeezecam: {line}", file=sys.stderr, flush=True)


def command() -> str:
    """The command line as it was given, for the records."""
    return "squeezecam " + " ".join(sys.argv[1:])


def wrote(paths: list[Path]) -> None:
    """Say what was written, and where."""
    folders = sorted({str(path.parent) for path in paths})
    if len(paths) <= 6:
        print("wrote " + ", ".join(str(path) for path in paths))
    else:
        print(
            f"wrote {len(paths)} files to {', '.join(folders)}: {paths[-2].name}, {paths[-1].name}, one set per picture"
        )


def failing() -> Failures:
    """A list of failures that says each at once."""
    from squeezecam.commands.pictures import Failures

    return Failures(report=say)


def leave(failures: Failures) -> None:
    """End with exit code 1 where something could not be done.

    Raises:
        typer.Exit: there are failures.

    """
    if len(failures):
        say(f"{number_of(len(failures), 'picture')} could not be used (reasons above)")
        raise typer.Exit(1)


def interrupted(line: str) -> typer.Exit:
    """Say that the work was interrupted, and how to go on; exit code 130, to be raised."""
    print(f"interrupted: {line}", file=sys.stderr)
    return typer.Exit(130)
