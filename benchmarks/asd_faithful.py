"""Insertion, deletion, drop and ADCC of each stream of the trained Light-ASD, with other methods and controls.

The clips, tracks and folds are those of ``asd_mouth.py``: six clips and three listeners, each explained with blocks
that were fitted, without labels, on the other clips. Every clip is cut into windows of 25 frames. One stream is
measured at a time: its points are exchanged in space and time alike, and the other stream stays what it is. The class
is what the window is decided for, by the mean of its frames. Means over clips of the means of their windows; in
brackets the 95 % bootstrap interval over clips of the difference to the all-channel mean.

    python benchmarks/asd_faithful.py MATERIAL/asd --stream face [--stride 25] [--seed 0] [--out FILE.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import squeezecam
from asd_mouth import FRAMES, SITES, TRACKS, Clip, read_clips, read_listeners, windows
from squeezecam.files import write_json
from squeezecam.models.light_asd import load_light_asd
from squeezecam.render.table import text_table

METHODS = "change,published,contribution,grad-cam,layercam,eigen-cam,controls"
METRICS = ("insertion", "deletion", "insertion_deletion", "average_drop", "increase_in_confidence", "adcc", "map_area")
PLAIN = "all-channel-mean"


def cut(clip: Clip, stride: int) -> list[Clip]:
    """Windows of ``FRAMES`` frames, floating point, none over the end."""
    faces, mfcc = clip
    starts = range(0, faces.shape[1] - FRAMES + 1, stride)
    return [(faces[:, i : i + FRAMES].float(), mfcc[:, 4 * i : 4 * (i + FRAMES)]) for i in starts]


def run(folder: Path, stream: str, stride: int, seed: int) -> dict[str, Any]:
    clips = read_clips(folder, Path(__file__).with_name("asd_mouth.csv"))
    known = list(clips)
    clips |= read_listeners(folder, Path(__file__).with_name(TRACKS))
    model = load_light_asd(folder / "light_asd_ava.pt")
    found: dict[str, dict[str, dict[str, float]]] = {}
    labels: dict[str, str] = {}
    count = 0
    for name, (clip, _) in clips.items():
        others = [window for other in known if other != name for window in windows(clips[other][0])]
        squeeze = squeezecam.attach(model, others[0], at=SITES)
        squeeze.fit(others, seed=0, progress=False)
        measured = squeezecam.evaluate(
            squeeze, cut(clip, stride), METHODS, METRICS, stream=stream, seed=seed, progress=False
        )
        labels = {method: label for method, (label, _) in measured.methods.items()}
        count += len(measured.records)
        for method in labels:
            values = [record["values"][method] for record in measured.records]
            found.setdefault(method, {})[name] = {m: float(np.nanmean([one[m] for one in values])) for m in METRICS}
        print(f"{name}: {len(measured.records)} windows", flush=True)
    rows = []
    for method, by_clip in found.items():
        row: dict[str, Any] = {"method": labels[method]}
        for metric in METRICS:
            own, plain = (np.array([one[metric] for one in means.values()]) for means in (by_clip, found[PLAIN]))
            row[metric] = text_of(own, own - plain, method != PLAIN)
        rows.append(row)
    return {"stream": stream, "clips": len(clips), "windows": count, "seed": seed, "rows": rows, "by clip": found}


def text_of(values: np.ndarray, gain: np.ndarray, other: bool) -> str:
    if not other:
        return f"{values.mean():.3f}"
    drawn = np.random.default_rng(0).integers(len(gain), size=(10_000, len(gain)))
    low, high = np.quantile(gain[drawn].mean(1), (0.025, 0.975))
    return f"{values.mean():.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stream", choices=tuple(SITES), default="face")
    parser.add_argument("--stride", type=int, default=FRAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = run(options.folder, options.stream, options.stride, options.seed)
    print(f"{found['stream']} stream, {found['windows']} windows of {found['clips']} clips, seed {found['seed']}")
    print(text_table(found["rows"]))
    if options.out:
        print(f"wrote {write_json(options.out, found)}")


if __name__ == "__main__":
    main()
