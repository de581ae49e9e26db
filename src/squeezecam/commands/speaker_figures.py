"""Pictures of an explained active speaker for documents: frames, sound, streams, moments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeezecam.commands.speaker_windows import VALUES, Store
from squeezecam.files import output_folder, write_picture
from squeezecam.streams import join
from squeezecam.video.figures import curves, frame_strip, importance_bars, spectrogram
from squeezecam.video.strip import COLOURS, Series
from squeezecam.video.tracks import RATE, FaceTrack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from squeezecam.render.scale import Scale

SHOWN = 8
"""Most tracks that get pictures of their own, and frames in a row."""


def write_figures(
    folder: Path, store: Store, faces: list[FaceTrack], table: NDArray[np.float64], method: str, scale: Scale
) -> list[Path]:
    """Write the pictures into ``folder``, maps of faces on ``scale``, that of the clip; returns their paths.

    ``streams.png``: importance of the streams. For each of the longest tracks: ``NAME_frames.png``, ``NAME_sound.png``
    (coefficients with their map, the first window) and ``NAME_moments.png`` (speaking, and what every moment loses
    without each stream).
    """
    target = output_folder(folder)
    written = [write_picture(target / "streams.png", importance_bars(join(store.windows), noun="window"))]
    present = [int(np.isfinite(table[i, :, 0]).sum()) for i in range(len(faces))]
    for i in sorted(np.argsort(present)[::-1][:SHOWN].tolist()):
        if not present[i]:
            continue
        name = _plain(faces[i].name)
        slots = sorted(slot for track, slot in store.map_rows if track == i)
        chosen = [slots[k] for k in np.unique(np.linspace(0, len(slots) - 1, SHOWN).round().astype(int))]
        strip = frame_strip(
            [store.crops[store.crop_rows[i, slot]] for slot in chosen],
            [store.maps[store.map_rows[i, slot]] for slot in chosen],
            captions=[f"{store.times[0] + slot / RATE:.2f} s · {store.values[i, slot][0]:.0%}" for slot in chosen],
            title=f"{faces[i].name}: {method}",
            count=SHOWN,
            scale=scale,
        )
        heard = store.heard[i]
        sound = spectrogram(
            heard.coefficients,
            heard.heat,
            title=f"sound with {faces[i].name}, from {store.times[0] + heard.begin:.2f} s on",
            footer="cepstral coefficients, lowest at the bottom, 100 a second",
        )
        moments = _moments(np.array(store.times), table[i], faces[i].name)
        for kind, picture in (("frames", strip), ("sound", sound), ("moments", moments)):
            written.append(write_picture(target / f"{name}_{kind}.png", picture))
    return written


def _moments(times: NDArray[np.float64], values: NDArray[np.float64], name: str) -> Image.Image:
    column = {key: values[:, k] for k, key in enumerate(VALUES)}
    lost = [column["lost_without_face"], column["lost_without_audio"], column["score"]]
    bound = max(1e-6, float(np.nanmax(np.abs(lost))))
    fields = [
        ("", [Series("probability of speaking", column["speaking"])]),
        (
            "",
            [
                Series("score", column["score"], (-bound, bound)),
                Series("lost without the face", lost[0], (-bound, bound)),
                Series("lost without the sound", lost[1], (-bound, bound)),
            ],
        ),
    ]
    assert len(fields[1][1]) <= len(COLOURS)
    return curves(times, fields, title=f"{name}: moment by moment")


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name) or "face"
