"""Pictures of one explained track for the report of a training: each visual stream, the sound, the streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from squeezecam.files import output_folder, write_picture
from squeezecam.module import Squeeze
from squeezecam.recipes.speaker_clips import Batch
from squeezecam.streams import StreamImportance
from squeezecam.video.figures import frame_strip, importance_bars, spectrogram


def speaker_sheet(
    squeeze: Squeeze, batch: Batch, streams: Sequence[str], found: StreamImportance, folder: Path
) -> list[Path]:
    """Write ``face.png`` (and ``body.png``), ``audio.png`` and ``streams.png``; returns their paths.

    Args:
        squeeze: with one block per stream.
        batch: one track, with its labels last.
        streams: names, in the order of the inputs.
        found: importance of the streams.
        folder: is made.

    """
    target = output_folder(folder)
    *inputs, speaking = batch
    device = next(squeeze.parameters()).device
    explanation = squeeze.explain(tuple(stream.to(device) for stream in inputs), size=1)
    assert explanation.scores is not None
    likely = explanation.scores[0].detach().float().softmax(-1)[:, 1].tolist()
    words = [f"{p:.0%} · {'speaks' if truth else 'silent'}" for p, truth in zip(likely, speaking[0], strict=True)]
    written = []
    for name, given in zip(streams, inputs, strict=True):
        heat = explanation.raw[name][0].detach().float().cpu()
        picture = (
            spectrogram(given[0].T.numpy(), heat.numpy(), title=f"{name}: {explanation.method}")
            if given.dtype != torch.uint8
            else frame_strip(
                list(given[0].numpy()), list(heat.numpy()), captions=words, title=f"{name}: {explanation.method}"
            )
        )
        written.append(write_picture(target / f"{name}.png", picture))
    written.append(write_picture(target / "streams.png", importance_bars(found)))
    return written
