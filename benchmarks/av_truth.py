"""A synthetic audio-visual task whose truth is known: which stream decides, where in it, and when.

Every frame of a clip is to be told "event" or "nothing". Half of the events are seen (a cross among squares), half are
heard (a chord of two lines among single lines), so for every event the deciding stream, its place in the picture or on
the frequency axis, and its frames are known. A small model of the form of active-speaker models (two encoders, sum,
recurrent layer, scores per frame) learns the task in a few minutes on one thread; blocks are fitted without labels, and
maps and stream importance are held against the truth.

    python benchmarks/av_truth.py [--steps 400] [--clips 120] [--seed 0] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import attach, heatmap
from squeezecam.files import write_json
from squeezecam.render.table import text_table
from squeezecam.streams import importance

FRAMES, SIDE, BANDS, LENGTH = 20, 24, 16, 4
CROSS = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0.0]])
SQUARE = F.pad(torch.ones(3, 3), (1, 1, 1, 1))


@dataclass
class Clips:
    """Clips with their truth: ``kind (N, T)`` is 0 (nothing), 1 (seen) or 2 (heard)."""

    faces: Tensor  # (N, T, SIDE, SIDE)
    sound: Tensor  # (N, 2 T, BANDS)
    kind: Tensor
    place: Tensor  # (N, T, 2): top and left of the cross
    band: Tensor  # (N, T): lower line of the chord


def make(count: int, generator: torch.Generator) -> Clips:
    """Noise, distractors in both streams, and one event of each kind or two of one."""

    def draw(high: int) -> int:
        return int(torch.randint(0, high, (), generator=generator))

    faces = 0.3 * torch.rand(count, FRAMES, SIDE, SIDE, generator=generator)
    sound = 0.3 * torch.rand(count, 2 * FRAMES, BANDS, generator=generator)
    kind = torch.zeros(count, FRAMES, dtype=torch.long)
    place, band = torch.zeros(count, FRAMES, 2, dtype=torch.long), torch.zeros(count, FRAMES, dtype=torch.long)
    for n in range(count):
        for _ in range(6):  # squares that come and go, lines that sound for a while
            start, y, x = draw(FRAMES - LENGTH), draw(SIDE - 5), draw(SIDE - 5)
            faces[n, start : start + 2 * LENGTH, y : y + 5, x : x + 5] += 2 * SQUARE
            start, row = draw(2 * FRAMES - 8), draw(BANDS)
            sound[n, start : start + 2 * LENGTH, row] += 2
        for half in (0, 1):
            start = half * (FRAMES // 2) + draw(FRAMES // 2 - LENGTH + 1)
            which, y, x, row = 1 + draw(2), draw(SIDE - 5), draw(SIDE - 5), draw(BANDS - 2)
            span = slice(start, start + LENGTH)
            kind[n, span], place[n, span], band[n, span] = which, torch.tensor([y, x]), row
            if which == 1:
                faces[n, span, y : y + 5, x : x + 5] = 0.1 + CROSS
            else:
                sound[n, 2 * start : 2 * (start + LENGTH), row] = 1.2
                sound[n, 2 * start : 2 * (start + LENGTH), row + 2] = 1.2
    return Clips(faces, sound, kind, place, band)


class Watcher(nn.Module):
    """Two encoders, their sum, a recurrent layer, two scores per frame."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv3d(1, 16, (1, 5, 5), (1, 2, 2), (0, 2, 2)), nn.BatchNorm3d(16), nn.ReLU(),
            nn.Conv3d(16, channels, 3, 1, 1), nn.BatchNorm3d(channels), nn.ReLU(),
        )  # fmt: skip
        self.hear = nn.Sequential(
            nn.Conv2d(1, 16, (5, 3), 1, (2, 1)), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, channels, 3, (1, 2), 1), nn.BatchNorm2d(channels), nn.ReLU(),
        )  # fmt: skip
        self.recurrent = nn.GRU(channels, channels, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * channels, 2)

    def forward(self, faces: Tensor, sound: Tensor) -> Tensor:
        """Scores (N, T, 2)."""
        seen = self.see(faces[:, None]).amax((3, 4))
        heard = self.hear(sound.transpose(1, 2)[:, None]).amax(2)
        scores: Tensor = self.classifier(self.recurrent((seen + heard).transpose(1, 2))[0])
        return scores


def train(steps: int, generator: torch.Generator) -> Watcher:
    model = Watcher()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    pool = make(1200, generator)
    for _ in range(steps):
        index = torch.randint(0, len(pool.kind), (16,), generator=generator)
        loss = F.cross_entropy(
            model(pool.faces[index], pool.sound[index]).flatten(0, 1), (pool.kind[index] > 0).long().flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def ranks_right(values: Tensor, kind: Tensor) -> Tensor:
    """Per clip with events of one kind only: whether the deciding stream has the larger value (face 0, sound 1)."""
    only = [set(row[row > 0].tolist()) for row in kind]
    wanted = torch.tensor([next(iter(kinds)) - 1 if len(kinds) == 1 else -1 for kinds in only])
    return (values.argmax(1) == wanted)[wanted >= 0]


def moments_right(values: Tensor, kind: Tensor) -> float:
    """Share of event frames in which the deciding stream has the larger value."""
    events = kind > 0
    return float((values.argmax(-1) == kind - 1)[events].float().mean())


def pointing(maps: Tensor, clips: Clips) -> float:
    """Share of frames with a cross whose hottest pixel, of ``maps (N, T, h, w)``, lies on it or a pixel around it."""
    large = heatmap.upsample(maps.flatten(0, 1), (SIDE, SIDE)).view(*maps.shape[:2], SIDE, SIDE)
    seen = clips.kind == 1
    at = large[seen].flatten(1).argmax(1)
    y, x = at // SIDE, at % SIDE
    top, left = clips.place[seen].unbind(1)
    return float(((y >= top - 1) & (y <= top + 5) & (x >= left - 1) & (x <= left + 5)).float().mean())


def listening(maps: Tensor, clips: Clips) -> float:
    """The same for chords: the hottest frequency of ``maps (N, F, T)`` is within one band of the chord."""
    heard = clips.kind == 2
    row = maps.transpose(1, 2)[heard].argmax(1)
    band = clips.band[heard]
    return float(((row >= band - 1) & (row <= band + 3)).float().mean())


def run(steps: int, count: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    model = train(steps, generator)
    trained = time.perf_counter()
    test, fitting = make(count, generator), make(160, generator)
    with torch.no_grad():
        accuracy = float((model(test.faces, test.sound).argmax(-1) == (test.kind > 0)).float().mean())
    squeeze = attach(model, (test.faces[:2], test.sound[:2]), at={"face": "see", "audio": "hear"}, apply="observe")
    batches = [(fitting.faces[i : i + 16], fitting.sound[i : i + 16]) for i in range(0, len(fitting.kind), 16)]
    report = squeeze.fit(batches, seed=seed, progress=False)
    maps = {}
    inputs = (test.faces, test.sound)
    found = importance(squeeze, inputs, target=1)
    for name, options in (
        ("published", {"method": "published"}), ("published, change (default)", {}),
        ("contribution", {"method": "contribution"}), ("all-channel mean", {"method": "published", "keep": "all"}),
    ):  # fmt: skip
        maps[name] = squeeze.explain(inputs, **options).raw
    noise = torch.Generator().manual_seed(seed + 1)
    maps["random map"] = {
        "face": torch.rand(maps["published"]["face"].shape, generator=noise),
        "audio": torch.rand(maps["published"]["audio"].shape, generator=noise),
    }
    streams = [
        {"measure": name, "right stream": float(ranks_right(values, test.kind).float().mean())}
        for name, values in (*found.measures.items(), *found.ablation.items())
        if values.isfinite().all()
    ]
    moments = [
        {"measure": f"{name}, frame by frame", "right stream": moments_right(values, test.kind)}
        for name, values in found.moments.items()
    ]
    rows = [
        {"map": name, "cross": pointing(value["face"], test), "chord": listening(value["audio"], test)}
        for name, value in maps.items()
    ]
    return {
        "frame accuracy": accuracy, "unchanged": report.unchanged, "seconds to train": round(trained - started, 1),
        "clips": count, "clips of one kind": len(ranks_right(found.score[:, None], test.kind)), "seed": seed,
        "streams": streams + moments, "maps": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = run(options.steps, options.clips, options.seed)
    print(f"frame accuracy {found['frame accuracy']:.3f}; unchanged in gate mode {found['unchanged']:.1%}; "
          f"trained in {found['seconds to train']} s")  # fmt: skip
    print(f"\nwhich stream decides ({found['clips of one kind']} clips with events of one kind; chance .5)")
    print(text_table(found["streams"], formats={"right stream": ".3f"}))
    print("\nwhere: hottest place on the cross, hottest frequency on the chord")
    print(text_table(found["maps"], formats={"cross": ".3f", "chord": ".3f"}))
    if options.out:
        print(f"wrote {write_json(options.out, found)}")


if __name__ == "__main__":
    main()
