"""The command line: the commands, and what happens to errors, warnings and interrupts."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from squeezecam.commands.cli_compare import compare
from squeezecam.commands.cli_demo import demo
from squeezecam.commands.cli_evaluate import evaluate
from squeezecam.commands.cli_explain import explain
from squeezecam.commands.cli_export import export
from squeezecam.commands.cli_fit import fit
from squeezecam.commands.cli_inspect import inspect
from squeezecam.commands.cli_parity import parity
from squeezecam.commands.cli_train import train
from squeezecam.commands.cli_video import video
from squeezecam.errors import SqueezeError, SqueezeWarning
from squeezecam.memory import keep_freed

COMMANDS = (demo, explain, fit, train, video, compare, evaluate, parity, export, inspect)  # in the order of the help


class _Commands(TyperGroup):
    """Commands whose interrupt is exit code 130 with any version of typer (older ones make it 1)."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _interruptible():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _interruptible():
            return super().invoke(ctx)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from squeezecam import __version__

        print(f"squeezecam {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Heatmaps that the model computes itself: one SE block before the classifier, one forward pass, no gradients."""


for _command in COMMANDS:
    app.command()(_command)


def main() -> None:
    """Run the command line; every error that is meant for users is one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show stops nothing
    keep_freed()
    warnings.simplefilter("ignore")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("always", SqueezeWarning)
    try:
        app(prog_name="squeezecam")
    except SqueezeError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _stop("out of memory: try a smaller --batch-size")
    except OSError as error:
        if os.environ.get("SQUEEZECAM_DEBUG"):
            raise
        _stop(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except Exception as error:
        if os.environ.get("SQUEEZECAM_DEBUG"):
            raise
        _stop(f"unexpected {type(error).__name__}: {error} (set SQUEEZECAM_DEBUG=1 for the traceback)")


def _stop(message: str) -> None:
    print(f"squeezecam: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _show_warning(message: Any, category: Any, *_: Any) -> None:
    print(f"squeezecam: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
