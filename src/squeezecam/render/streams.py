"""Pictures of an explanation of several streams: each drawn as what it is, frames in a row, a sound, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.explanation import Explanation

FRAMES = 8
"""Frames in a row."""


def stream_overlays(explanation: Explanation, inputs: Any = None, **options: Any) -> dict[str, list[Image.Image]]:
    """One picture per stream and sample: ``{stream: [N pictures]}``.

    Maps ``(H, W)`` lie on their picture, maps ``(T, H, W)`` on frames in a row on one scale, maps ``(F, T)`` of a sound
    on what the model took, lowest first at the bottom; maps ``(T,)`` are curves.

    Args:
        explanation: of a model with several streams, one target per sample.
        inputs: ``{stream: tensor}`` to lay the maps on: ``(N, C, H, W)``, ``(N, [C,] T, H, W)`` or ``(N, T, C, H, W)``,
            ``(N, F, T)`` or ``(N, T, F)``; None: the network's own inputs.
        **options: of the overlays of pictures, as for one stream.

    Raises:
        InputError: no inputs, or such as do not fit the maps.

    """
    given = explanation.pictures if inputs is None else inputs
    if not isinstance(given, Mapping):
        streams = ", ".join(explanation.heatmap)
        raise InputError(
            f"this explanation has several streams: give what to draw on as {{stream: tensor}} ({streams})"
        )
    found = {}
    for stream, heat in explanation.heatmap.items():
        under = given.get(stream)
        if under is None or len(under) != len(explanation):
            raise InputError(f"there is nothing to lay the map of '{stream}' on: pass it as {{'{stream}': tensor}}")
        found[stream] = [
            _drawn(stream, heat[i], explanation.raw[stream][i], under[i], options) for i in range(len(explanation))
        ]
    return found


def clip_overlays(explanation: Explanation, clips: Any = None, **options: Any) -> list[Image.Image]:
    """Frames in a row with their maps, one picture per sample, of a model with one stream that takes clips.

    Args:
        explanation: maps ``(N, T, H, W)``.
        clips: a tensor or array ``(N, C, T, H, W)``, ``(N, T, C, H, W)`` or ``(N, T, H, W)``, or per sample a list of
            frames in any form that pictures have; None: the network's own input.
        **options: of the overlays of pictures, as for several streams.

    Raises:
        InputError: no clips, or such as do not fit the maps.

    """
    given = explanation.pictures if clips is None else clips
    if given is None:
        raise InputError("the inputs were no batch of clips: pass pictures=[...], a list of frames for each sample")
    if isinstance(given, np.ndarray):
        import torch

        given = torch.from_numpy(given)
    if not hasattr(given, "detach"):
        given = [_clip_of(one) for one in given]
    if len(given) != len(explanation):
        raise InputError(f"{len(given)} clips for {len(explanation)} explanations")
    return [
        _drawn("map", heat, raw, under, options)
        for heat, raw, under in zip(explanation.heatmap, explanation.raw, given, strict=True)
    ]


def clip_sheet(explanation: Explanation, clips: Any = None, *, captions: Any = None, **options: Any) -> Image.Image:
    """The clips of all samples below each other, with the sample's words above."""
    return _sheet(explanation, {"": clip_overlays(explanation, clips, **options)}, captions)


def _clip_of(one: Any) -> Any:
    """A tensor ``(T, C, H, W)`` of bytes from a list of frames; a tensor as it is."""
    import torch

    from squeezecam.render.explained import as_picture

    if hasattr(one, "detach") or isinstance(one, np.ndarray):
        return torch.as_tensor(one)
    frames = [np.asarray(as_picture(frame)) for frame in one]
    if len({frame.shape for frame in frames}) != 1:
        raise InputError(f"a clip of {len(frames)} frames of different sizes, or of none; expected frames of one size")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def stream_sheet(explanation: Explanation, inputs: Any = None, *, captions: Any = None, **options: Any) -> Image.Image:
    """All streams of all samples below each other, with the sample's words above."""
    return _sheet(explanation, stream_overlays(explanation, inputs, **options), captions)


def _sheet(explanation: Explanation, drawn: dict[str, list[Image.Image]], captions: Any) -> Image.Image:
    from squeezecam.render.parts import LARGE, SMALL, framed, stack
    from squeezecam.render.text import AMBER, GRAY, text_block

    blocks: list[Image.Image] = []
    for i, status in enumerate(explanation.status):
        rows = [pictures[i] for pictures in drawn.values()]
        width = max(row.width for row in rows)
        if captions or len(explanation) > 1:
            blocks.append(text_block(str(captions[i]) if captions else f"sample {i}", width, LARGE))
        if status != "ok":
            blocks.append(text_block(status, width, SMALL, fill=AMBER, max_lines=4))
        for stream, row in zip(drawn, rows, strict=True):
            blocks += [text_block(stream, width, SMALL), row] if stream else [row]
    width = max(block.width for block in blocks)
    blocks.append(text_block(f"method: {explanation.method}", width, SMALL, fill=GRAY))
    return framed(stack(blocks, gap=6), 8)


def _drawn(stream: str, heat: Any, raw: Any, under: Any, options: dict[str, Any]) -> Image.Image:
    shape, values = tuple(heat.shape), raw.detach().float().cpu().numpy()
    if len(shape) == 1:
        return _curve(heat.detach().float().cpu().numpy(), stream)
    if len(shape) == 2 and under.ndim == 2:
        from squeezecam.video.figures import spectrogram

        sound = under.detach().float().cpu().numpy()
        # what has more steps of time lies along the width, whichever way round the model takes it
        turned = abs(np.log(sound.shape[0] / sound.shape[1] * values.shape[1] / values.shape[0])) > abs(
            np.log(sound.shape[1] / sound.shape[0] * values.shape[1] / values.shape[0])
        )
        return spectrogram(sound.T if turned else sound, values)
    if len(shape) == 2 and under.ndim == 3:
        from squeezecam.render.explained import as_picture
        from squeezecam.render.overlay import overlay

        return overlay(as_picture(under), heat.detach().float().cpu().numpy(), **options)
    if len(shape) == 3 and under.ndim in (3, 4):
        from squeezecam.video.figures import frame_strip

        frames = _frames(under)
        return frame_strip(frames, _to_frames(values, len(frames)), count=FRAMES)
    raise InputError(f"a map of shape {shape} of '{stream}' cannot be laid on an input of shape {tuple(under.shape)}")


def _frames(clip: Any) -> list[Any]:
    """Uint8 frames of ``(T, H, W)``, ``(C, T, H, W)`` or ``(T, C, H, W)``, whatever its normalisation."""
    values = clip.detach().cpu()
    if values.ndim == 4:
        if not {1, 3} & set(values.shape[:2]):
            raise InputError(
                f"a clip of shape {tuple(values.shape)} cannot be shown: expected frames of 1 or 3 colours, "
                "(C, T, H, W), (T, C, H, W) or (T, H, W)"
            )
        values = values if values.shape[0] in (1, 3) and values.shape[1] not in (1, 3) else values.transpose(0, 1)
        values = values[:3].permute(1, 2, 3, 0)
        values = values.expand(*values.shape[:3], 3) if values.shape[3] == 1 else values
    array = values.numpy() if not values.dtype.is_floating_point else values.float().numpy()
    if array.dtype != np.uint8:
        low, high = float(np.nanmin(array)), float(np.nanmax(array))
        array = np.rint(np.nan_to_num((array - low) / ((high - low) or 1.0)) * 255).astype(np.uint8)
    return list(array)


def _to_frames(maps: Any, count: int) -> list[Any]:
    """The native map nearest in time to each of ``count`` frames."""
    at = np.minimum(((np.arange(count) + 0.5) * len(maps) / count).astype(int), len(maps) - 1)
    return [maps[i] for i in at]


def _curve(values: Any, name: str) -> Image.Image:
    from squeezecam.video.figures import curves
    from squeezecam.video.strip import Series

    top = max(float(np.nanmax(values)), 1e-12)
    return curves(np.arange(len(values)), [("", [Series(name, values, (0.0, top))])])
