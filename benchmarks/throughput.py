"""How long a fit takes, what its feature pass costs beside plain inference, how much disk features need, and what it
costs to divide the work.

    python benchmarks/throughput.py                     # everything, about five minutes on two idle cores
    python benchmarks/throughput.py --only fit --samples 2000

The fit is on synthetic features of the size of MobileNetV2's (1280 channels, 7 x 7, 1001 classes), whose classes have
channels of their own; the feature pass is that of a MobileNetV2 at 224 pixels with random weights. Seconds are of the
wall clock and, because other work on the machine moves those, of the processor. Ratios are of rounds that alternate.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import squeezecam
from squeezecam.fit.collecting import collect

CHANNELS, GRID, CLASSES = 1280, 7, 1001


class Features(nn.Module):
    """What comes after the features of MobileNetV2: pooling and a linear layer; its input are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ReLU()
        self.classifier = nn.Linear(CHANNELS, CLASSES)
        with torch.no_grad():
            self.classifier.weight.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Synthetic:
    """``count`` samples in batches: sparse noise, and a spot where the channels that speak for one class are bright."""

    def __init__(self, model: Features, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.speaks = model.classifier.weight.detach().topk(64, 1).indices  # (classes, 64)

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __getitem__(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        size = min(self.size, self.count - number * self.size)
        x = torch.randn(size, CHANNELS, GRID, GRID, generator=generator).sub_(0.7)
        label = torch.randint(CLASSES, (size,), generator=generator)
        place = torch.randint(0, GRID - 2, (size, 2), generator=generator)
        for i in range(size):
            row, column = place[i].tolist()
            x[i, self.speaks[label[i]], row : row + 3, column : column + 3] += 3
        return x


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``work`` returns, its seconds on the wall clock, and those of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - processor


def fit(samples: int, batch: int, dtype: str) -> dict[str, Any]:
    """A fit that computes its features and keeps them, and one that begins with them."""
    torch.manual_seed(0)
    model = Features().eval()
    data = Synthetic(model, samples, batch)
    squeeze = squeezecam.attach(model, data[0][:2], at="features")
    with tempfile.TemporaryDirectory() as folder:
        whole, _, _ = timed(lambda: squeeze.fit(data, cache=folder, cache_dtype=dtype, progress=False))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        again, wall, processor = timed(lambda: squeeze.fit(data, cache=folder, cache_dtype=dtype, progress=False))
    return {
        "samples": samples, "dtype": dtype, "mode": again.mode, "unchanged": again.unchanged,
        "features computed, wall s": whole.seconds["features"], "features read, wall s": again.seconds["features"],
        "fit, wall s": again.seconds["fit"], "read and fit, wall s": wall, "read and fit, processor s": processor,
        "kB per image on disk": size / samples / 1000,
        "peak memory, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def mobilenet() -> nn.Module:
    """MobileNetV2 with random weights."""
    from squeezecam.models.torchvision_guard import require

    torch.manual_seed(0)
    model: nn.Module = require("torchvision.models", "vision").mobilenet_v2(weights=None).eval()
    return model


@torch.no_grad()
def feature_pass(rounds: int, batch: int, batches: int) -> dict[str, Any]:
    """The pass that collects features over plain inference on the same batches, in alternating rounds."""
    model = mobilenet()
    data = [torch.randn(batch, 3, 224, 224) for _ in range(batches)]
    squeeze = squeezecam.attach(model, data[0][:2])

    def plain() -> None:
        for x in data:
            model(x)

    def collected() -> None:
        collect(
            squeeze, data, squeeze.default_output, inputs=None, labels=None, windows=3, seed=0,
            advance=lambda n: None, device=torch.device("cpu"),
        )  # fmt: skip

    plain(), collected()
    ratios, walls, seconds = [], [], []
    for number in range(rounds):
        order = (plain, collected) if number % 2 == 0 else (collected, plain)
        took = {work: timed(work)[1:] for work in order}
        ratios.append(took[collected][1] / took[plain][1])
        walls.append(took[collected][0] / took[plain][0])
        seconds.append(took[collected][1] / (batch * batches))
    return {
        "rounds": rounds, "images_per_round": batch * batches, "ratio_processor": statistics.median(ratios),
        "ratio_wall": statistics.median(walls), "processor_s_per_image": statistics.median(seconds),
        "ratios": [round(r, 3) for r in ratios],
    }  # fmt: skip


def _one_of_several(rank: int, count: int, port: int, folder: str, images: int, said: Any) -> None:
    """One process of a fit that is divided; tells its processor seconds and its share of the time on the clock."""
    torch.set_num_threads(1)
    if count > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(count), RANK=str(rank), LOCAL_RANK=str(rank)
        )
    from squeezecam import processes

    processes.join()
    model = mobilenet()
    data = [torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(n)) for n in range(images // 8)]
    squeeze = squeezecam.attach(model, data[0][:2])
    squeeze.model(data[0])
    processes.wait()
    _, wall, processor = timed(lambda: squeeze.fit(data, cache=folder, progress=False))
    said.put((rank, wall, processor))
    processes.leave()


def divided(images: int = 128) -> list[dict[str, Any]]:
    """The same fit by one process and by two, each with one thread: what dividing costs beside the work itself."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            said = context.Queue()
            given = [(rank, count, port, folder, images, said) for rank in range(count)]
            running = [context.Process(target=_one_of_several, args=arguments) for arguments in given]
            for process in running:
                process.start()
            found = sorted(said.get() for _ in running)
            for process in running:
                process.join()
        rows.append(
            {
                "processes": count,
                "images": images,
                "wall s": max(wall for _, wall, _ in found),
                "processor s, each": [round(processor, 2) for *_, processor in found],
                "processor s, all": sum(processor for *_, processor in found),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=["fit", "disk", "pass", "processes"])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if given.only in (None, "fit"):
        found["fit"] = fit(given.samples, given.batch, "float32")
    if given.only in (None, "disk"):
        found["disk"] = [fit(min(given.samples, 2000), given.batch, kind) for kind in ("float16", "bfloat16")]
    if given.only in (None, "pass"):
        found["feature pass"] = feature_pass(given.rounds, 16, 4)
    if given.only in (None, "processes"):
        found["processes"] = divided()
    text = json.dumps(found, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
