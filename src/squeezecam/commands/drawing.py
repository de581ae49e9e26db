"""The figures of one explained picture: panel, overlay and tile, with the words that belong on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squeezecam.render.figure import panel, tile
from squeezecam.render.overlay import overlay
from squeezecam.render.scale import Scale, find_scale
from squeezecam.render.text import ELLIPSIS
from squeezecam.wording import shortened

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.data.geometry import Box

_TILE_NOTICE = 60
_TILE_NAME = 31


@dataclass(frozen=True)
class Words:
    """What is written on the figures.

    Attributes:
        name: of the picture's file.
        title: the prediction.
        notice: what is doubtful about this picture's map; empty where nothing is.
        footer: model, method, share of the channels.
        caution: what holds for the model, on every picture, such as random weights; on a sheet it is said once.

    """

    name: str
    title: str
    notice: str
    footer: str
    caution: str = ""


def scale_of(heat: Any, how: str) -> Scale:
    """The scale of one map that is drawn alone."""
    return find_scale([heat], "quantile" if how == "quantile" else "per sample")


def figures(
    picture: Image.Image, heat: Any, words: Words, box: Box | None, scale: Scale
) -> tuple[Image.Image, Image.Image]:
    """The panel, and the overlay at the picture's own size."""
    notice = "; ".join(part for part in (words.caution, words.notice) if part)
    whole = panel(picture, heat, title=words.title, footer=words.footer, notice=notice, box=box, scale=scale)
    return whole, overlay(picture, heat, box=box, scale=scale)


def small(
    picture: Image.Image, heat: Any, words: Words, box: Box | None, scale: Scale, *, show_scale: bool = True
) -> Image.Image:
    """The tile for the contact sheet: file name, prediction, the beginning of the notice."""
    notice = words.notice if len(words.notice) <= _TILE_NOTICE else words.notice[:_TILE_NOTICE].rstrip() + ELLIPSIS
    caption = f"{shortened(words.name, _TILE_NAME)}\n{words.title}"
    return tile(picture, heat, caption=caption, notice=notice, box=box, scale=scale, show_scale=show_scale)
