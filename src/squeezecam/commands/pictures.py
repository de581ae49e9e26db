"""From picture files to batches that a model takes, one bad picture never stopping the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.models.loaded import LoadedModel

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.data.images import ImageSource

NOISE_SIZE = (320, 240)


@dataclass(frozen=True)
class Prepared:
    """A picture that was read and preprocessed; of a window of a clip ``picture`` is the first."""

    source: ImageSource
    picture: Image.Image
    tensor: Tensor


@dataclass
class Failures:
    """What could not be done, with the reason, in order."""

    found: list[tuple[str, str]] = field(default_factory=list)
    report: Callable[[str], None] = lambda line: None

    def add(self, what: str, why: str) -> None:
        """Note a failure and say it at once."""
        self.found.append((what, why))
        self.report(why if what in why else f"{what}: {why}")

    def __len__(self) -> int:
        return len(self.found)


def example_of(loaded: LoadedModel) -> Any:
    """Two noise pictures as the model takes them: enough to find the site, whatever pictures come later."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    width, height = NOISE_SIZE
    tensors = []
    for _ in range(2):
        noise = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        picture = Image.fromarray(noise.numpy())
        tensors.append(loaded.prepare(picture))
    return loaded.make_inputs(torch.stack(tensors).to(device_of(loaded)))


def device_of(loaded: LoadedModel) -> torch.device:
    """Where the model is."""
    return next((p.device for p in loaded.model.parameters()), torch.device("cpu"))


def prepare(loaded: LoadedModel, source: ImageSource, failures: Failures) -> Prepared | None:
    """Read and preprocess one picture; None, and a failure noted, where that cannot be done."""
    try:
        found = source.read_all()
    except InputError as error:
        failures.add(source.label, str(error))
        return None
    try:
        tensor = loaded.prepare(found)
    except Exception as error:  # somebody else's preprocessing
        reason = " ".join(str(error).split()) or type(error).__name__
        failures.add(source.label, f"the preprocessing of {loaded.name} failed on {source.label}: {reason}")
        return None
    return Prepared(source, found[0] if isinstance(found, list) else found, tensor)


def batches(
    loaded: LoadedModel, sources: Sequence[ImageSource], size: int, failures: Failures, done: Callable[[int], None]
) -> Iterator[list[Prepared]]:
    """Prepared pictures in batches of one tensor shape each, in order; ``done`` is told of the ones that failed."""
    waiting: list[Prepared] = []
    for source in sources:
        one = prepare(loaded, source, failures)
        if one is None:
            done(1)
            continue
        if waiting and (len(waiting) >= size or waiting[-1].tensor.shape != one.tensor.shape):
            yield waiting
            waiting = []
        waiting.append(one)
    if waiting:
        yield waiting


def stacked(loaded: LoadedModel, prepared: Iterable[Prepared]) -> Any:
    """A batch as the model takes it, on the model's device."""
    return loaded.make_inputs(torch.stack([one.tensor for one in prepared]).to(device_of(loaded)))
