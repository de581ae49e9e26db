"""Pictures of an :class:`~squeezecam.explanation.Explanation`: overlays, one sheet, a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.explanation import Explanation

SHEET_LIMIT = 400
"""Most tiles on one contact sheet."""


def overlays(explanation: Explanation, pictures: Any = None, **options: Any) -> list[Image.Image]:
    """One overlay per sample at the picture's own size; ``options`` as of :func:`squeezecam.render.overlay.overlay`.

    Args:
        explanation: maps of rank 2 (pictures); one target per sample.
        pictures: PIL pictures, uint8 arrays ``(H, W, 3)`` or a tensor ``(N, C, H, W)``; None: the network's own inputs.
        **options: ``box``, ``scale``, ``colours``, ``blend``, ``alpha``.

    """
    from squeezecam.render.overlay import overlay

    return [
        overlay(picture, heat, **options)
        for picture, heat in zip(as_pictures(explanation, pictures), maps(explanation), strict=True)
    ]


def sheet(
    explanation: Explanation, pictures: Any = None, *, captions: Sequence[str] | None = None, **options: Any
) -> Image.Image:
    """A contact sheet: one overlay per sample with its prediction, its status where it is not ``ok``, and its scale."""
    from squeezecam.render.figure import contact_sheet, tile

    shown, heat = as_pictures(explanation, pictures), maps(explanation)
    captions = captions or [caption(explanation, i) for i in range(len(explanation))]
    tiles = [
        tile(picture, values, caption=words, notice="" if status == "ok" else status, **options)
        for picture, values, words, status in list(zip(shown, heat, captions, explanation.status, strict=True))[
            :SHEET_LIMIT
        ]
    ]
    left = len(shown) - len(tiles)
    return contact_sheet(
        tiles, footer=f"method: {explanation.method}" + (f" · {left} more are not shown" if left else "")
    )


def save(explanation: Explanation, folder: str | Path, pictures: Any = None, **options: Any) -> list[Path]:
    """Write ``000.png``, ``000.npz``, ... and ``sheet.png`` into ``folder``; maps of other ranks as ``.npz`` alone."""
    from squeezecam.files import output_folder, write_npz, write_picture

    target = output_folder(folder)
    written = []
    digits = max(3, len(str(len(explanation) - 1)))
    flat = not isinstance(explanation.heatmap, dict) and explanation.heatmap.ndim == 3
    drawn = overlays(explanation, pictures, **options) if flat else []
    for i, one in enumerate(explanation):
        name = f"{i:0{digits}d}"
        written.append(write_npz(target / f"{name}.npz", arrays(one)))
        if flat:
            written.append(write_picture(target / f"{name}.png", drawn[i]))
    if flat:
        written.append(write_picture(target / "sheet.png", sheet(explanation, pictures, **options)))
    return written


def arrays(one: Explanation) -> dict[str, Any]:
    """What a raw-map file holds: heatmap, native map, SE vector and kept channels of one sample."""
    found: dict[str, Any] = {}
    for name in ("heatmap", "raw", "gates", "kept"):
        value = getattr(one, name)
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for stream, tensor in parts:
            found[f"{name}.{stream}" if stream else name] = tensor[0].detach().cpu().numpy()
    return found


def caption(explanation: Explanation, index: int) -> str:
    """``class 3 · 98.2 %`` or the value itself for one sample."""
    if explanation.target is None or explanation.target.ndim != 1 or explanation.scores is None:
        return ""
    target, scores = int(explanation.target[index]), explanation.scores[index]
    if scores.ndim == 0 or scores.shape[0] == 1:
        return f"{float(scores.reshape(-1)[0]):.3g}"
    return f"class {target} · {float(scores.float().softmax(0)[target]):.1%}"


def maps(explanation: Explanation) -> list[Any]:
    """The heatmaps as arrays ``(H, W)``, one per sample."""
    heat = explanation.heatmap
    if isinstance(heat, dict):
        raise InputError(
            f"this explanation has several streams ({', '.join(heat)}): draw one with explanation.heatmap[name]"
        )
    if heat.ndim != 3:
        raise InputError(
            f"heatmaps of shape {tuple(heat.shape)} are not one picture per sample: index a target or a frame first"
        )
    return list(heat.detach().float().cpu().numpy())


def as_pictures(explanation: Explanation, pictures: Any) -> list[Image.Image]:
    """Pictures in any form as PIL pictures, checked against the number of samples."""
    from PIL import Image

    if pictures is None:
        if explanation.pictures is None:
            raise InputError("the inputs were no batch of pictures: pass pictures=[...] to lay the maps on")
        pictures = explanation.pictures
    if hasattr(pictures, "detach"):
        pictures = [_bytes(tensor) for tensor in pictures.detach().float().cpu().numpy()]
    elif isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
        pictures = [pictures]
    if len(pictures) != len(explanation):
        raise InputError(f"{len(pictures)} pictures for {len(explanation)} explanations")
    return [p if isinstance(p, Image.Image) else Image.fromarray(np.asarray(p)).convert("RGB") for p in pictures]


def _bytes(values: Any) -> Any:
    """A network's input ``(C, H, W)``, whatever its normalisation, stretched to 0..255 for viewing."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = np.nan_to_num((values - low) / (high - low if high > low else 1.0))
    picture = (scaled * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return picture.repeat(3, 2) if picture.shape[2] == 1 else picture[:, :, :3]
