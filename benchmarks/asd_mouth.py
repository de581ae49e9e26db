"""Whether the face map of the trained Light-ASD lies on the mouth, and what its streams are worth, clip by clip.

Mouths of six clips are marked by hand in ``asd_mouth.csv`` (pixels of the 112 x 112 crop; the performer's every sixth
frame, with straight lines between; the others, who hold still, once), or frame by frame by the mouth corners that MTCNN
(facenet-pytorch 2.6) found with a score of at least .9, ``asd_mouth_landmarks.csv`` (``--marks landmarks``; the hand's
elsewhere). Three listeners in profile of the shared clip, ``asd_mouth_tracks.csv``, boxes by MTCNN and mouths by hand,
were added later. Every clip is explained with blocks that were fitted, without
labels, on the other clips. Beside the maps stand the mean of all channels, random channels, the change of the pixels
themselves, a random map and the centre. The audio is also swapped for that of another clip, to see which stream
notices.

    python benchmarks/asd_mouth.py MATERIAL/asd [--gates clip|frame] [--marks hand|landmarks] [--out FILE.json]
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
from squeezecam.change import spread_by_change
from squeezecam.data.mfcc import align, mfcc
from squeezecam.files import write_json
from squeezecam.models.light_asd import load_light_asd
from squeezecam.module import Squeeze
from squeezecam.render.table import text_table
from squeezecam.streams import importance
from squeezecam.video.reading import read_frames, read_sound
from squeezecam.video.tracks import RATE, at_rate, crop_face, read_tracks

SITES = {"face": "visual.block3", "audio": "audio.block3"}
MARGIN = 4  # pixels around the mouth that still count
FRAMES, STEP = 25, 12
DRAWS = 8  # of random channels
CLIP, TRACKS = "short_hamilton_clip.mp4", "asd_mouth_tracks.csv"
EXPLORED = "the six were looked at while the change map was made, the three tracks before it took its last form"
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


def by_landmarks(clips: dict[str, tuple[Clip, np.ndarray]], path: Path) -> None:
    """Put boxes around the mouth corners in the place of the hand's, where there are any."""
    with path.open() as file:
        for row in csv.DictReader(file):
            lx, ly, rx, ry = (float(row[key]) for key in ("lx", "ly", "rx", "ry"))
            width = float(np.hypot(rx - lx, ry - ly))
            x, y = (lx + rx) / 2, (ly + ry) / 2
            box = (x - 0.525 * width, y - 0.25 * width, x + 0.525 * width, y + 0.25 * width)
            clips[row["clip"]][1][int(row["frame"])] = box


def read_listeners(folder: Path, tracks: Path) -> dict[str, tuple[Clip, np.ndarray]]:
    """The tracks of the shared clip: crops at 25 frames a second, their sound, the mouths."""
    found = {track.name: track for track in read_tracks(tracks)}
    with tracks.open() as file:
        mouths = {row["track"]: [float(row[k]) for k in ("mx0", "my0", "mx1", "my1")] for row in csv.DictReader(file)}
    crops: dict[str, list[tuple[int, np.ndarray]]] = {name: [] for name in found}
    begin = None
    for slot, frame in at_rate(read_frames(folder / CLIP)):
        begin = frame.seconds if begin is None else begin
        for name, track in found.items():
            if (box := track.box(frame.index)) is not None:
                crops[name].append((slot, crop_face(frame.pixels, box)))
    samples, rate, start = read_sound(folder / CLIP, 16000)
    clips = {}
    for name, given in crops.items():
        first = round(((begin or 0.0) + given[0][0] / RATE - start) * rate)
        piece = samples[first : first + round(len(given) / RATE * rate) + rate // 40]
        rows = align(mfcc(torch.from_numpy(piece.copy())), len(given))
        faces = torch.from_numpy(np.stack([crop for _, crop in given]))
        clips[f"listener {name}"] = ((faces[None], rows[None]), np.tile(mouths[name], (len(given), 1)))
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
    explained: dict[str, dict[str, str]] = {
        "published, change (default)": {}, "all channels, change": {"keep": "all", "aggregate": "change"},
        "published, top 10 %": {}, "published, top 25 %": {"keep": "quantile:0.25"},
        "published rule, peaks": {"aggregate": "peaks"}, "all-channel mean": {"keep": "all"},
        "all channels, peaks": {"keep": "all", "aggregate": "peaks"}, "contribution": {"method": "contribution"},
    }  # fmt: skip
    for how in list(explained.values())[1:]:
        how.setdefault("method", "published")
    found = {name: squeeze.explain(clip, captured=captured, **how).raw["face"][0] for name, how in explained.items()}
    for draw in range(DRAWS):
        some = torch.randperm(features.shape[1], generator=generator)[: features.shape[1] // 10]
        chosen = torch.isin(torch.arange(features.shape[1]), some)[None]
        for kind in ("mean", "peaks"):
            name = f"random 10 % of channels, {kind}#{draw}"
            found[name] = heatmap.aggregate(features, torch.ones(features.shape[:2]), chosen, kind)[0]
        mean = found[f"random 10 % of channels, mean#{draw}"][None, None]
        moved = spread_by_change(mean, features, torch.ones(features.shape[:2]), chosen, squeeze.places["face"].layout)
        found[f"random 10 % of channels, change#{draw}"] = moved[0, 0]
    pixels = torch.nn.functional.adaptive_avg_pool2d(clip[0].float(), 14)[:, None]
    one = torch.ones(1, 1)
    found["change of the pixels"] = spread_by_change(pixels, pixels, one, one > 0, squeeze.places["face"].layout)[0, 0]
    found["random map"] = torch.rand(centre.shape, generator=generator)
    found["centred Gaussian"] = centre
    return found


def run(folder: Path, gates: str, marks: str) -> dict[str, Any]:
    clips = read_clips(folder, Path(__file__).with_name("asd_mouth.csv"))
    if marks == "landmarks":
        by_landmarks(clips, Path(__file__).with_name("asd_mouth_landmarks.csv"))
    known = list(clips)
    clips |= read_listeners(folder, Path(__file__).with_name(TRACKS))
    model = load_light_asd(folder / "light_asd_ava.pt")
    mouth: dict[str, dict[str, list[tuple[float, float]]]] = {}
    spoken: dict[str, dict[str, list[tuple[float, float]]]] = {}
    streams, unchanged, seconds = [], [], {"plain pass": 0.0, "pass with maps": 0.0}
    names = list(clips)
    for i, (name, (clip, boxes)) in enumerate(clips.items()):
        others = [window for other in known if other != name for window in windows(clips[other][0])]
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
        "mouth": table(mouth), "mouth while speaking": table(spoken), "differences": differences(mouth, known),
        "streams": streams,
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


def differences(found: dict[str, dict[str, list[tuple[float, float]]]], known: list[str]) -> list[dict[str, Any]]:
    """Rows per map: means of pointing and energy over the six clips and the three tracks, and how much higher they are
    than those of the all-channel mean, with 95 % bootstrap intervals over clips.
    """
    generator = np.random.default_rng(0)
    rows = []
    for method, clips in found.items():
        row: dict[str, Any] = {"map": method}
        for part, names in (("six clips", known), ("three tracks", [n for n in clips if n not in known])):
            own, plain = (np.array([np.mean(m[n], 0) for n in names]) for m in (clips, found["all-channel mean"]))
            drawn = generator.integers(len(names), size=(10_000, len(names)))
            for i, measure in enumerate(("pointing", "energy")):
                gain = own[:, i] - plain[:, i]
                low, high = np.quantile(gain[drawn].mean(1), (0.025, 0.975))
                row[f"{part}: {measure}"] = f"{own[:, i].mean():.3f} ({gain.mean():+.3f}, {low:+.3f} to {high:+.3f})"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gates", choices=("clip", "frame"), default="clip")
    parser.add_argument("--marks", choices=("hand", "landmarks"), default="hand")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = run(options.folder, options.gates, options.marks)
    share = found["frames unchanged in gate mode"]
    print(f"gates per {found['gates']}; {share:.1%} of {found['frames']} frames unchanged in gate mode")
    print(EXPLORED)
    for name in ("mouth", "mouth while speaking", "differences", "streams"):
        rows = found[name]
        numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
        print(f"\n{name}\n{text_table(rows, formats=dict.fromkeys(numbers, '.3f'))}")
    print(f"\nseconds: {found['seconds']}")
    if options.out:
        print(f"wrote {write_json(options.out, found)}")


if __name__ == "__main__":
    main()
