"""Pictures of an :class:`~squeezecam.explanation.Explanation`: overlays, one sheet, a folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError, SqueezeWarning
from squeezecam.links import probabilities
from squeezecam.sides import heat_of_value

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.explanation import Explanation

SHEET_LIMIT = 400
"""Most tiles on one contact sheet."""


def overlays(explanation: Explanation, pictures: Any = None, **options: Any) -> Any:
    """One overlay per sample at the picture's own size; ``options`` as of :func:`squeezecam.render.overlay.overlay`.

    Of several streams ``{stream: pictures}``, see :func:`squeezecam.render.streams.stream_overlays`. Of clips one
    picture per sample: frames in a row with their maps, on one scale.

    Args:
        explanation: maps of rank 2 (pictures), or 3 (clips); one target per sample.
        pictures: one per sample: file names, PIL pictures, arrays ``(H, W, 3)`` or ``(H, W)`` (uint8, or floating point
            in [0, 1]), or a tensor ``(N, C, H, W)``; None: the network's own inputs, stretched to their range. Clips: a
            list of such frames per sample, or a tensor ``(N, C, T, H, W)``, ``(N, T, C, H, W)`` or ``(N, T, H, W)``.
        **options: ``box``, ``scale`` (also ``"shared"``: over these samples), ``colours``, ``blend``, ``alpha``.

    Raises:
        InputError: maps of another rank, or pictures that do not fit them.

    """
    from squeezecam.render.overlay import overlay

    if isinstance(explanation.heatmap, dict):
        from squeezecam.render.streams import stream_overlays

        return stream_overlays(explanation, pictures, **options)
    if _of_clips(explanation):
        from squeezecam.render.streams import clip_overlays

        return clip_overlays(explanation, pictures, **options)
    heat = maps(explanation)
    shown = as_pictures(explanation, pictures)
    options = _one_scale(heat, options)
    return [overlay(picture, values, **options) for picture, values in zip(shown, heat, strict=True)]


def sheet(
    explanation: Explanation, pictures: Any = None, *, captions: Sequence[str] | None = None, **options: Any
) -> Image.Image:
    """A contact sheet: one overlay per sample with its prediction, its status where it is not ``ok``, and its scale."""
    from squeezecam.render.figure import contact_sheet, tile
    from squeezecam.render.scale import Scale

    if isinstance(explanation.heatmap, dict):
        from squeezecam.render.streams import stream_sheet

        return stream_sheet(explanation, pictures, captions=captions, **options)
    if _of_clips(explanation):
        from squeezecam.render.streams import clip_sheet

        captions = captions or [caption(explanation, i) for i in range(len(explanation))]
        return clip_sheet(explanation, pictures, captions=captions, **options)
    heat = maps(explanation)
    shown = as_pictures(explanation, pictures)
    captions = captions or [caption(explanation, i) for i in range(len(explanation))]
    options = _one_scale(heat, options)
    scale = options.get("scale")
    common = scale if isinstance(scale, Scale) else None
    samples = list(zip(shown, heat, captions, explanation.status, strict=True))[:SHEET_LIMIT]
    tiles = [
        tile(
            picture,
            values,
            caption=words,
            notice="" if status == "ok" else status,
            show_scale=common is None,
            **options,
        )
        for picture, values, words, status in samples
    ]
    left = len(shown) - len(tiles)
    footer = f"method: {explanation.method}" + (f" · {left} more are not shown" if left else "")
    return contact_sheet(tiles, footer=footer, scale=common, colours=options.get("colours", "heat"))


def save(explanation: Explanation, folder: str | Path, pictures: Any = None, **options: Any) -> list[Path]:
    """Write ``000.png``, ``000.npz``, ... and ``sheet.png`` into ``folder``; of signals and of several targets only the
    ``.npz``.

    Of clips ``000.png`` has frames in a row; a warning says where the input is none to draw on. Of several streams
    ``000_face.png``, ``000_audio.png``, ... where there is something to lay them on.
    """
    from squeezecam.files import output_folder, write_npz, write_picture

    target = output_folder(folder)
    written = []
    digits = max(3, len(str(len(explanation) - 1)))
    several = isinstance(explanation.heatmap, dict)
    drawn: Any = []
    if several or explanation.heatmap.ndim == 3 or _of_clips(explanation):
        try:
            drawn = overlays(explanation, pictures, **options)
        except InputError as error:  # inputs of any kind are kept: those that are none give no pictures
            if pictures is not None:
                raise
            if not several:
                warnings.warn(f"maps are saved without pictures of them: {error}", SqueezeWarning, stacklevel=3)
    streams = bool(drawn) and several
    for i, one in enumerate(explanation):
        name = f"{i:0{digits}d}"
        written.append(write_npz(target / f"{name}.npz", arrays(one)))
        if drawn and not streams:
            written.append(write_picture(target / f"{name}.png", drawn[i]))
        elif streams:
            written += [write_picture(target / f"{name}_{stream}.png", of[i]) for stream, of in drawn.items()]
    if drawn:
        written.append(write_picture(target / "sheet.png", sheet(explanation, pictures, **options)))
    return written


def _of_clips(explanation: Explanation) -> bool:
    """Whether the maps of the one stream are ``(N, T, H, W)``, frames and not several targets."""
    several = explanation.target is not None and explanation.target.ndim == 2
    return not isinstance(explanation.heatmap, dict) and explanation.heatmap.ndim == 4 and not several


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
    """``class 3 · 98.2%``, or the value itself and what heat says of it; nothing where there are several targets."""
    if explanation.scores is None:
        return ""
    scores = explanation.scores[index].detach().float()
    if scores.ndim == 0 or scores.numel() == 1:
        heat = heat_of_value(explanation.method)
        return f"{float(scores.reshape(-1)[0]):.4g}" + (f" ({heat})" if heat else "")
    if explanation.target is None or explanation.target.ndim != 1 or scores.ndim != 1:
        return ""
    target = int(explanation.target[index])
    if not bool(scores.isfinite().all()):
        return "no prediction: the output is not finite"
    return f"class {target} · {float(probabilities(scores, explanation.scores_are)[target]):.1%}"


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
        pictures = list(pictures if pictures.ndim == 4 else pictures[None])
    elif isinstance(pictures, str | Path | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
        pictures = [pictures]
    if len(pictures) != len(explanation):
        raise InputError(f"{len(pictures)} pictures for {len(explanation)} explanations")
    return [as_picture(one) for one in pictures]


def as_picture(one: Any) -> Image.Image:
    """A file name, PIL picture, array or tensor ``(C, H, W)`` as a PIL picture."""
    from PIL import Image

    from squeezecam.data.pixels import read_image, to_rgb

    if isinstance(one, Image.Image):
        return to_rgb(one)
    if isinstance(one, str | Path):
        return read_image(one)
    if hasattr(one, "detach"):
        return Image.fromarray(_bytes(one.detach().cpu()))
    array = np.asarray(one)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(f"a picture of shape {array.shape}; expected (H, W) or (H, W, 3); of a tensor, (C, H, W)")
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"a picture of {array.dtype} values; expected uint8, or floating point in [0, 1]")
    return to_rgb(Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array))


def _one_scale(heat: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """``scale="shared"`` as the scale of all these maps."""
    from squeezecam.render.scale import find_scale

    if options.get("scale") not in ("shared", "shared quantile"):
        return options
    return {**options, "scale": find_scale(heat, options["scale"], signed=options.get("colours") == "signed")}


def _bytes(tensor: Any) -> Any:
    """A network's input ``(C, H, W)``: bytes as they are, others, whatever their normalisation, stretched to 0..255."""
    values = tensor.numpy() if not tensor.dtype.is_floating_point else tensor.float().numpy()
    if values.dtype != np.uint8:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low if high > low else 1.0)
        values = (scaled * 255).round().astype(np.uint8)
    picture = values.transpose(1, 2, 0)
    return picture.repeat(3, 2) if picture.shape[2] == 1 else picture[:, :, :3]
