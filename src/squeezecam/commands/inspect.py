"""``squeezecam inspect`` with a picture: the native grid on an example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from squeezecam.commands.pictures import device_of
from squeezecam.data.geometry import Geometry
from squeezecam.data.images import find_images
from squeezecam.errors import InputError
from squeezecam.files import write_picture

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.inspection import Inspection
    from squeezecam.models.loaded import LoadedModel


def example_picture(image: str | None, max_pixels: int) -> tuple[Image.Image, str]:
    """The picture to draw on and its name: a file, or one of the embedded demo's."""
    if image is None:
        from PIL import Image as Pillow

        from squeezecam.data.demo import DemoImages

        return Pillow.fromarray(DemoImages("test", 1, seed=0)[0].image), "a picture of the demo"
    sources = find_images(image, max_pixels=max_pixels)
    if len(sources) != 1:
        raise InputError(f"--image '{image}' names {len(sources)} pictures; expected one")
    return sources[0].read(), sources[0].label


def inputs_of(loaded: LoadedModel, picture: Image.Image) -> Any:
    """This picture, twice, as the model takes it: the grid follows the size of the input."""
    tensor = loaded.prepare(picture)
    return loaded.make_inputs(torch.stack([tensor, tensor]).to(device_of(loaded)))


def draw_grid(loaded: LoadedModel, found: Inspection, picture: Image.Image, name: str, out: Path) -> Path:
    """Write the picture with the grid of every stream over what the model sees of it."""
    from squeezecam.render.figure import contact_sheet

    preprocess = (lambda one: loaded.prepare(one)[0]) if loaded.clip else loaded.preprocess
    seen = Geometry(preprocess).seen(picture.size)
    panels = [found.panel(picture, stream, box=seen.box, name=name, reason=seen.reason) for stream in found.places]
    return write_picture(out, panels[0] if len(panels) == 1 else contact_sheet(panels, title=loaded.name))
