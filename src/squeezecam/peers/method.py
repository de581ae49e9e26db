"""What an entry of the registry is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from squeezecam.models.torchvision_guard import require
from squeezecam.module import Squeeze

Kind = Literal["own", "peer", "control"]


class Run(Protocol):
    """How maps are made."""

    def __call__(
        self,
        squeeze: Squeeze,
        inputs: Any,
        target: Tensor | None,
        *,
        output: str | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Raw maps ``(N, *S)`` of the input's size; ``seeds``: one per sample, for what is random.

        Of a model with several maps it is also told ``stream=``, the name of the one that is meant.
        """
        ...


@dataclass(frozen=True)
class MapMethod:
    """A way to a map.

    Attributes:
        name: as users type it.
        label: as tables and pictures show it.
        kind: ``"own"``, ``"peer"`` or ``"control"``.
        run: makes the maps.
        cost: about how many forward passes one image takes, from the squeeze and the picture's shape ``(C, *S)``.
        slow: only run when asked for by name.
        library: package that has to be installed, or None.
        reference: where the method comes from.

    """

    name: str
    label: str
    kind: Kind
    run: Run
    cost: Callable[[Squeeze, tuple[int, ...]], float]
    slow: bool = False
    library: str | None = None
    reference: str = ""

    def ready(self) -> None:
        """Import what it needs now, so that the first map is not charged with it.

        Raises:
            ModelError: the library is not installed.

        """
        if self.library is not None:
            require(self.library, "peers")

    def __call__(
        self,
        squeeze: Squeeze,
        inputs: Any,
        target: Tensor | None = None,
        *,
        output: str | None = None,
        seeds: Sequence[int] | None = None,
        stream: str | None = None,
    ) -> Tensor:
        """Raw maps ``(N, *S)`` of what ``squeeze`` does with ``inputs``, for the classes ``target (N,)``.

        ``stream`` names one of several maps; methods for models with one map need not know of it.
        """
        which: dict[str, Any] = {} if stream is None else {"stream": stream}
        return self.run(squeeze, inputs, target, output=output, seeds=seeds, **which)
