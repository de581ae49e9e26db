"""What users call on a :class:`~squeezecam.module.Squeeze` to fit it and to have it explain, with every option named.

The work is done by functions of the same names elsewhere, which are loaded when they are first used. Names and defaults
are those of these functions; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import nn

from squeezecam.targets import Target
from squeezecam.vector import KeepRule

if TYPE_CHECKING:
    from squeezecam.explanation import Explanation
    from squeezecam.fit import FitReport
    from squeezecam.fit.locating import LocateReport
    from squeezecam.fit.refining import RefineReport
    from squeezecam.fit.tuning import TuneReport
    from squeezecam.module import Capture, Squeeze

Pick = Callable[[Any], Any]
"""Takes what is meant out of a batch."""


class Calls(nn.Module):
    """The calls that fit and explain."""

    def explain(
        self,
        inputs: Any,
        *,
        method: str | None = None,
        target: Target = None,
        output: str | None = None,
        score: str | None = None,
        keep: str | KeepRule | None = None,
        aggregate: str | None = None,
        upsample: str | None = None,
        size: int | tuple[int, ...] | None = None,
        lengths: Any = None,
        captured: tuple[Any, dict[str, Capture]] | None = None,
    ) -> Explanation:
        """Heatmaps for a batch in one forward pass; see :func:`squeezecam.explanation.explain` for the options."""
        from squeezecam.explanation import explain

        return explain(
            self._squeeze, inputs, method=method, target=target, output=output, score=score, keep=keep,
            aggregate=aggregate, upsample=upsample, size=size, lengths=lengths, captured=captured,
        )  # fmt: skip

    def fit(
        self,
        batches: Any,
        *,
        objective: Literal["faithful", "task"] = "faithful",
        train: Literal["block", "head", "all"] = "block",
        inputs: Pick | None = None,
        labels: Pick | None = None,
        task: str | None = None,
        output: str | None = None,
        hidden: int | None = None,
        agreement: float = 0.995,
        hold_out: float = 0.2,
        epochs: int = 40,
        patience: int = 6,
        lr: float = 1e-3,
        windows: int = 3,
        seed: int = 0,
        progress: bool | None = None,
        cache: str | Path | None = None,
        cache_dtype: str = "float32",
    ) -> FitReport:
        """Fit the blocks, without labels unless told; see :func:`squeezecam.fit.fit` for the options."""
        from squeezecam.fit import fit

        return fit(
            self._squeeze, batches, objective=objective, train=train, inputs=inputs, labels=labels, task=task,
            output=output, hidden=hidden, agreement=agreement, hold_out=hold_out, epochs=epochs, patience=patience,
            lr=lr, windows=windows, seed=seed, progress=progress, cache=cache, cache_dtype=cache_dtype,
        )  # fmt: skip

    def tune(
        self,
        batches: Iterable[Any],
        *,
        inputs: Pick | None = None,
        output: str | None = None,
        epochs: int = 3,
        lr: float = 2e-2,
        hold_out: float = 0.15,
        seed: int = 0,
        progress: bool | None = None,
    ) -> TuneReport:
        """Tune the fitted block to make better masks of the published map; see :func:`squeezecam.fit.tuning.tune`."""
        from squeezecam.fit.tuning import tune

        return tune(
            self._squeeze, batches, inputs=inputs, output=output, epochs=epochs, lr=lr, hold_out=hold_out, seed=seed,
            progress=progress,
        )  # fmt: skip

    def refine(
        self,
        batches: Iterable[Any],
        *,
        inputs: Pick | None = None,
        output: str | None = None,
        epochs: int = 40,
        lr: float = 2e-3,
        hold_out: float = 0.05,
        width: int = 16,
        hidden: int = 32,
        factor: int = 2,
        decay: float = 0.2,
        seed: int = 0,
        progress: bool | None = None,
    ) -> RefineReport:
        """Fit the refiner of the class map, without labels; see :func:`squeezecam.fit.refining.refine`."""
        from squeezecam.fit.refining import refine

        return refine(
            self._squeeze, batches, inputs=inputs, output=output, epochs=epochs, lr=lr, hold_out=hold_out, width=width,
            hidden=hidden, factor=factor, decay=decay, seed=seed, progress=progress,
        )  # fmt: skip

    def locate(
        self,
        batches: Iterable[Any],
        *,
        inputs: Pick | None = None,
        output: str | None = None,
        epochs: int = 16,
        lr: float = 2e-3,
        hold_out: float = 0.1,
        width: int = 16,
        hidden: int = 32,
        decay: float = 0.01,
        seed: int = 0,
        progress: bool | None = None,
    ) -> LocateReport:
        """Fit the locator of the classes, without labels; see :func:`squeezecam.fit.locating.locate`."""
        from squeezecam.fit.locating import locate

        return locate(
            self._squeeze, batches, inputs=inputs, output=output, epochs=epochs, lr=lr, hold_out=hold_out, width=width,
            hidden=hidden, decay=decay, seed=seed, progress=progress,
        )  # fmt: skip

    @property
    def _squeeze(self) -> Squeeze:
        return cast("Squeeze", self)
