"""What every framework's callback does: look at the gates of a few examples, draw their maps, save the adapter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from squeezecam import tree
from squeezecam.errors import InputError, SqueezeError, SqueezeWarning
from squeezecam.explanation import Explanation
from squeezecam.module import Squeeze
from squeezecam.training.gates import watch
from squeezecam.training.record import note_training

ADAPTER = "model.squeeze.safetensors"


@dataclass(frozen=True)
class Observer:
    """Looks at a Squeeze without changing it.

    Args:
        examples: a few inputs as the model takes them: a tensor, a tuple or a dict.
        pictures: what the maps are drawn on; None: the maps alone, or the inputs where they look like pictures.
        method: of the maps; None: the default.

    """

    examples: Any
    pictures: Any = None
    method: str | None = None

    def __post_init__(self) -> None:
        if not tree.leaves(self.examples):
            raise InputError("examples hold no tensor: give a few inputs as the model takes them")

    def figures(self, squeeze: Squeeze) -> dict[str, float]:
        """Gate statistics by name: ``gates/STREAM/mean`` and so on; see :class:`squeezecam.training.GateStatistics`."""
        return {
            f"gates/{stream}/{name}": value
            for stream, found in watch(squeeze, self._inputs(squeeze)).items()
            for name, value in found.as_dict().items()
        }

    def explained(self, squeeze: Squeeze) -> Explanation:
        """The explanation of the examples."""
        return squeeze.explain(self._inputs(squeeze), method=self.method)

    def sheet(self, squeeze: Squeeze) -> Image.Image | None:
        """The examples' maps as one picture; None, and a warning, where they cannot be drawn: training goes on."""
        try:
            sheet: Image.Image = self.explained(squeeze).plot(self.pictures)
        except SqueezeError as error:
            warnings.warn(f"the examples' maps were not drawn: {error}", SqueezeWarning, stacklevel=2)
            return None
        return sheet

    def _inputs(self, squeeze: Squeeze) -> Any:
        device = next((p.device for p in squeeze.parameters()), torch.device("cpu"))
        return tree.to_device(self.examples, device)


def save_adapter(squeeze: Squeeze, path: Path, by: str) -> Path:
    """Write the block and what else was trained, so that ``squeezecam.load`` puts it on the model it began with."""
    note_training(squeeze, by)
    path.parent.mkdir(parents=True, exist_ok=True)
    squeeze.save(path)
    return path
