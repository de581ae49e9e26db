"""Whether the face map of the trained Light-ASD lies on the mouth, and what its streams are worth, clip by clip.

Mouths are marked by hand in ``asd_mouth.csv`` (pixels of the 112 x 112 crop; the performer's every sixth frame, with
straight lines between; the others, who hold still, once). Every clip is explained with blocks that were fitted, without
labels, on the other clips. Beside the published map stand the mean of all channels, random channels, a random map and
the centre. The audio is also swapped for that of another clip, to see which stream notices.

    python benchmarks/asd_mouth.py MATERIAL/asd [--gates clip|frame] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeezecam import attach, heatmap
from squeezecam.files import write_json
from squeezecam.models.light_asd import load_light_asd
from squeezecam.module import Squeeze
from squeezecam.render.table import text_table
from squeezecam.streams import importance

SITES = {"face": "visual.block3", "audio": "audio.block3"}
MARGIN = 4  # pixels around the mouth that still count
FRAMES, STEP = 25, 12
DRAWS = 8  # of random channels
Clip = tuple[Tensor, Tensor]


def read_clips(folder: Path, marks: Path) -> dict[str, tuple[Clip, np.ndarray]]:
    """``{name: ((faces, mfcc), mouth boxes (T, 4))}``."""
    keys: dict[str, list[list[float]]] = {}
    with marks.open() as file:
        for row in csv.DictReader(file):
            keys.setdefault(row["clip"], []).append([float(row[k]) for k in ("frame", "x0", "y0", "x1", "y1")])
    clips = {}
    for name, found in keys.items():
        data = np.load(folder / f"{name}.npz")
        key, frames = np.array(found), np.arange(len(data["faces"]))
        boxes = np.stack([np.interp(frames, key[:, 0], key[:, i]) for i in range(1, 5)], 1)
        inputs = (torch.from_numpy(data["faces"])[None], torch.from_numpy(data["mfcc"])[None].float())
        clips[name] = (inputs, boxes)
    return clips


def windows(clip: Clip) -> list[Clip]:
    faces, mfcc = clip
    starts = range(0, faces.shape[1] - FRAMES + 1, STEP)
    return [(faces[:, i : i + FRAMES], mfcc[:, 4 * i : 4 * (i + FRAMES)]) for i in starts]


def on_mouth(maps: Tensor, boxes: np.ndarray) -> tuple[float, float]:
    """Share of frames whose hottest pixel lies on the mouth, and the mean share of heat there."""
    large = heatmap.upsample(maps, (112, 112)).clamp_min(0)
    hits, energies = [], []
    for frame, box in zip(large, boxes, strict=True):
        x0, y0, x1, y1 = (round(float(edge)) for edge in (*(box[:2] - MARGIN), *(box[2:] + MARGIN)))
        y, x = divmod(int(frame.argmax()), 112)
        hits.append(x0 <= x < x1 and y0 <= y < y1)
        energies.append(float(frame[max(y0, 0) : y1, max(x0, 0) : x1].sum() / frame.sum().clamp_min(1e-12)))
    return float(np.mean(hits)), float(np.mean(energies))


def maps_of(squeeze: Squeeze, clip: Clip) -> dict[str, Tensor]:
    with torch.no_grad():
        captured = squeeze.capture(clip)
    generator = torch.Generator().manual_seed(0)
    features = captured[1]["face"].features
    y, x = torch.meshgrid(torch.arange(14) - 6.5, torch.arange(14) - 6.5, indexing="ij")
    centre = torch.exp(-(x**2 + y**2) / 18).expand(features.shape[2], 14, 14)
    explained = {
        "published, top 10 %": {}, "published, top 25 %": {"keep": "quantile:0.25"},
        "published rule, peaks": {"aggregate": "peaks"}, "all-channel mean": {"keep": "all"},
        "all channels, peaks": {"keep": "all", "aggregate": "peaks"}, "contribution": {"method": "contribution"},
    }  # fmt: skip
    found = {name: squeeze.explain(clip, captured=captured, **how).raw["face"][0] for name, how in explained.items()}
    for draw in range(DRAWS):
        some = torch.randperm(features.shape[1], generator=generator)[: features.shape[1] // 10]
        chosen = torch.isin(torch.arange(features.shape[1]), some)[None]
        for how in ("mean", "peaks"):
            name = f"random 10 % of channels, {how}#{draw}"
            found[name] = heatmap.aggregate(features, torch.ones(features.shape[:2]), chosen, how)[0]
    found["random map"] = torch.rand(centre.shape, generator=generator)
    found["centred Gaussian"] = centre
    return found


def run(folder: Path, gates: str) -> dict[str, Any]:
    clips = read_clips(folder, Path(__file__).with_name("asd_mouth.csv"))
    model = load_light_asd(folder / "light_asd_ava.pt")
    mouth: dict[str, dict[str, list[tuple[float, float]]]] = {}
    spoken: dict[str, dict[str, list[tuple[float, float]]]] = {}
    streams, unchanged, seconds = [], [], {"plain pass": 0.0, "pass with maps": 0.0}
    names = list(clips)
    for i, (name, (clip, boxes)) in enumerate(clips.items()):
        others = [window for other, (one, _) in clips.items() if other != name for window in windows(one)]
        squeeze = attach(model, others[0], at=SITES, apply="gate", gates=gates)  # type: ignore[arg-type]
        squeeze.fit(others, seed=0, progress=False)
        with torch.no_grad():
            mark = time.perf_counter()
            own = model(*clip)
            seconds["plain pass"] += time.perf_counter() - mark
            unchanged.append((own.argmax(-1) == squeeze(*clip).argmax(-1))[0])
        squeeze.apply_mode = "observe"
        mark = time.perf_counter()
        squeeze.explain(clip, size=14)
        seconds["pass with maps"] += time.perf_counter() - mark
        speaking = (own[0, :, 1] > 0).numpy()
        for method, maps in maps_of(squeeze, clip).items():
            kind = method.partition("#")[0]
            mouth.setdefault(kind, {}).setdefault(name, []).append(on_mouth(maps, boxes))
            if speaking.any():
                while_speaking = on_mouth(maps[torch.from_numpy(speaking)], boxes[speaking])
                spoken.setdefault(kind, {}).setdefault(name, []).append(while_speaking)
        swapped = swap(clip, clips[names[(i + 1) % len(names)]][0])
        for sound, inputs in (("own", clip), ("swapped", swapped)):
            found = importance(squeeze, inputs, target=1)
            row: dict[str, Any] = {"clip": name, "sound": sound, "score": float(found.score[0])}
            for measure in ("mean gate", "mass", "zero", "still"):
                values = {**found.measures, **found.ablation}[measure][0].tolist()
                row |= {f"{measure} {stream}": value for stream, value in zip(found.names, values, strict=True)}
            streams.append(row)
    return {
        "gates": gates,
        "frames unchanged in gate mode": float(torch.cat(unchanged).float().mean()),
        "frames": int(torch.cat(unchanged).numel()),
        "mouth": table(mouth), "mouth while speaking": table(spoken), "streams": streams,
        "seconds": {**seconds, "ratio": seconds["pass with maps"] / seconds["plain pass"]},
    }  # fmt: skip


def swap(clip: Clip, other: Clip) -> Clip:
    """The face of one clip with the sound of another, repeated where that is shorter."""
    rows = torch.arange(clip[1].shape[1]) % other[1].shape[1]
    return clip[0], other[1][:, rows]


def table(found: dict[str, dict[str, list[tuple[float, float]]]]) -> list[dict[str, Any]]:
    """Rows per map: pointing and energy, means over clips (and over draws within a clip), and pointing per clip."""
    rows = []
    for method, clips in found.items():
        means = {name: np.mean(values, 0).tolist() for name, values in clips.items()}
        whole = np.mean(list(means.values()), 0).tolist()
        pointing = {name[:22]: values[0] for name, values in means.items()}
        rows.append({"map": method, "pointing": whole[0], "energy": whole[1], **pointing})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gates", choices=("clip", "frame"), default="clip")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = run(options.folder, options.gates)
    share = found["frames unchanged in gate mode"]
    print(f"gates per {found['gates']}; {share:.1%} of {found['frames']} frames unchanged in gate mode")
    for name in ("mouth", "mouth while speaking", "streams"):
        rows = found[name]
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        print(f"\n{name}\n{text_table(rows, formats=dict.fromkeys(numbers, '.3f'))}")
    print(f"\nseconds: {found['seconds']}")
    if options.out:
        print(f"wrote {write_json(options.out, found)}")


if __name__ == "__main__":
    main()
