"""Train the embedded default network and write it, with its settings and its measured accuracy, into the package.

One CPU thread, about twenty minutes. Run from the repository root: ``python scripts/train_demo.py``;
``--report`` only prints the figures of the shipped network.

Beside the digit the network learns, through heads that are thrown away, which kinds of clutter a picture shows: first
where each lies, then, in a second and shorter stage, from the pooled features. As in a network trained on many classes,
its channels then answer to more than the digit, and a map has to choose among them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import nn

from squeezecam.data.demo import CLUTTER, SIDE, Box, DemoImages
from squeezecam.models.demo import DEMO_LABELS, WEIGHTS, DemoNet, demo_metadata, demo_model

ASSETS = Path(__file__).resolve().parents[1] / "src" / "squeezecam" / "assets"
TEST_SIZE, TEST_SEED = 2000, 1


def window(box: Box, side: int, generator: torch.Generator) -> tuple[slice, slice]:
    """A random window of ``side`` pixels that holds the box."""
    corners = []
    for low, high in ((box[1], box[3]), (box[0], box[2])):
        first, last = max(0, high - side), min(low, SIDE - side)
        corners.append(int(torch.randint(first, last + 1, (), generator=generator)))
    return slice(corners[0], corners[0] + side), slice(corners[1], corners[1] + side)


def batches(
    steps: int, size: int, seed: int, windows: bool = True
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield pictures, target shares per class (N, 10) and clutter kinds per cell of the feature map (N, kinds, h, w).

    A small digit in a large picture is hard to begin with: with ``windows`` the first half of the steps sees random
    windows around the digit that grow from 48 pixels to the whole picture. Of the batches with whole pictures every
    fourth shows two digits, half a target each. The pictures of a batch are enlarged or reduced by a common random
    factor (.75 to 1.25).
    """
    source = {digits: DemoImages("train", steps * size, seed, digits) for digits in (1, 2)}
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        side = min(SIDE, 48 + int((SIDE - 48) * max(0.0, 2 * step / steps - 0.2) / 0.8)) if windows else SIDE
        data = source[2 if side == SIDE and step % 4 == 3 else 1]
        items = [data[step * size + i] for i in range(size)]
        pictures = torch.empty(size, 3, side, side, dtype=torch.uint8)
        classes = torch.zeros(size, len(DEMO_LABELS))
        clutter = torch.zeros(size, len(CLUTTER), side, side)
        for i, item in enumerate(items):
            rows, columns = window(item.box, side, generator)
            pictures[i] = torch.from_numpy(item.image).permute(2, 0, 1)[:, rows, columns]
            classes[i, list(item.labels)] = 1 / len(item.labels)
            whole = torch.zeros(len(CLUTTER), SIDE, SIDE)
            for kind, (x0, y0, x1, y1) in zip(item.clutter, item.clutter_boxes, strict=True):
                whole[CLUTTER.index(kind), y0:y1, x0:x1] = 1
            clutter[i] = whole[:, rows, columns]
        cells = round(side * float(0.75 + 0.5 * torch.rand((), generator=generator)) / 8)
        resized = F.interpolate(pictures.float() / 255, (8 * cells, 8 * cells), mode="bilinear", antialias=True)
        yield resized.contiguous(memory_format=torch.channels_last), classes, F.adaptive_avg_pool2d(clutter, cells)


def train(steps: int, size: int, rate: float, decay: float, weight: float, seed: int) -> DemoNet:
    torch.manual_seed(seed)
    model = DemoNet()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs leave the keyword out
    model.train()
    side_head = nn.Conv2d(model.head.in_features, len(CLUTTER), 1)
    parameters = [*model.parameters(), *side_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    started, seen, right = time.monotonic(), 0, 0
    for step, (pictures, classes, clutter) in enumerate(batches(steps, size, seed), 1):
        features = model.features((pictures - 0.5) / 0.25)
        logits = model.head(model.flatten(model.pool(features)))
        loss = F.cross_entropy(logits, classes)
        loss = loss + weight * F.binary_cross_entropy_with_logits(side_head(features), clutter)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        seen += size
        right += int((classes.gather(1, logits.argmax(1, keepdim=True)) > 0).sum())
        if step % 100 == 0:
            print(
                f"{step}/{steps}  loss {loss.item():.3f}  right {right / seen:.3f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
            seen = right = 0
    model.eval()
    return model


def even_out(model: DemoNet, steps: int, size: int, rate: float, decay: float, weight: float, seed: int) -> None:
    """Train on, with the kinds of clutter now read from the pooled features, as the digit is.

    A head on the feature map is content with faint channels. A kind that must show in a mean over the whole picture
    needs channels that answer to it as strongly as others do to a digit.
    """
    model.train()
    side_head = nn.Linear(model.head.in_features, len(CLUTTER))
    optimiser = torch.optim.AdamW([*model.parameters(), *side_head.parameters()], lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    started = time.monotonic()
    for step, (pictures, classes, clutter) in enumerate(batches(steps, size, seed, windows=False), 1):
        pooled = model.flatten(model.pool(model.features((pictures - 0.5) / 0.25)))
        shown = (clutter.flatten(2).amax(2) > 0).float()
        digit_loss = F.cross_entropy(model.head(pooled), classes)
        clutter_loss = F.binary_cross_entropy_with_logits(side_head(pooled), shown)
        optimiser.zero_grad()
        torch.autograd.backward(digit_loss + weight * clutter_loss)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            losses = f"digit {digit_loss.item():.3f}  clutter {clutter_loss.item():.3f}"
            print(f"{step}/{steps}  {losses}  {time.monotonic() - started:.0f} s", flush=True)
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, size: int = TEST_SIZE, seed: int = TEST_SEED) -> float:
    data = DemoImages("test", size, seed)
    right = 0
    for start in range(0, size, 100):
        batch = data.batch(range(start, min(start + 100, size)))
        right += int((model(batch.images).argmax(1) == batch.labels).sum())
    return right / size


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}


@torch.inference_mode()
def localisation(model: DemoNet, size: int, seed: int, digits: int) -> dict[str, list[float]]:
    """Per kind of map: pointing in box and mask, energy in box and mask, over all digits shown."""
    data = DemoImages("test", size, seed, digits)
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    gaussian = torch.exp(-(x**2 + y**2) / (2 * 0.5**2))
    hits: dict[str, list[torch.Tensor]] = {}
    for item in data:
        picture = torch.from_numpy(item.image).permute(2, 0, 1)[None].float() / 255
        features = model.features((picture - 0.5) / 0.25)[0]
        for label, mask, (x0, y0, x1, y1) in zip(item.labels, torch.from_numpy(item.masks), item.boxes, strict=True):
            box = torch.zeros_like(mask)
            box[y0:y1, x0:x1] = True
            maps = {
                "CAM": torch.einsum("c,chw->hw", model.head.weight[label], features),
                "positive weights only": torch.einsum("c,chw->hw", model.head.weight[label].relu(), features),
                "all-channel mean": features.mean(0),
                "random map": torch.rand(features.shape[1:], generator=generator),
            }
            drawn = {
                name: F.interpolate(m[None, None], (96, 96), mode="bicubic", align_corners=False)[0, 0].clamp(min=0)
                for name, m in maps.items()
            }
            drawn["centred Gaussian"] = gaussian
            for name, heat in drawn.items():
                top, total = int(heat.argmax()), heat.sum().clamp(min=1e-12)
                figures = [box.flatten()[top], mask.flatten()[top], heat[box].sum() / total, heat[mask].sum() / total]
                hits.setdefault(name, []).append(torch.stack([figure.float() for figure in figures]))
    return {name: torch.stack(values).mean(0).tolist() for name, values in hits.items()}


def report(model: DemoNet) -> None:
    for digits in (1, 2):
        print(f"{digits} digit(s) per picture, 300 test pictures: pointing box, mask; energy box, mask")
        for name, figures in localisation(model, 300, TEST_SEED, digits).items():
            print(f"  {name:36}" + "  ".join(f"{value:.3f}" for value in figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--size", type=int, default=64, help="pictures per step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--weight", type=float, default=4.0, help="weight of the clutter head's loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights of the first stage, to run the second one alone")
    parser.add_argument("--out", type=Path, default=ASSETS / WEIGHTS)
    parser.add_argument("--report", action="store_true", help="only the figures of the shipped network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.report:
        shipped, _ = demo_model()
        assert isinstance(shipped, DemoNet)
        print(demo_metadata())
        report(shipped)
        return

    settings = {name: getattr(arguments, name) for name in ("steps", "size", "rate", "decay", "weight")}
    if arguments.start:
        model = DemoNet()
        model.load_state_dict({name: value.float() for name, value in load_file(arguments.start).items()})
    else:
        model = train(**settings, seed=arguments.seed)
    second = {**settings, "steps": arguments.steps // 4, "rate": arguments.rate / 2}
    even_out(model, **second, seed=arguments.seed + 1)
    stored = half(model.state_dict())
    model.load_state_dict(stored)  # measure what is shipped: the rounded weights
    measured = accuracy(model)
    metadata = {
        "settings": json.dumps(settings),
        "second_stage": json.dumps(second),
        "seed": str(arguments.seed),
        "test_accuracy": f"{measured:.4f}",
        "test_set": json.dumps({"split": "test", "size": TEST_SIZE, "seed": TEST_SEED}),
        "torch": torch.__version__.split("+")[0],
    }
    temporary = arguments.out.with_name(arguments.out.name + ".tmp")
    temporary.write_bytes(save(stored, metadata))
    os.replace(temporary, arguments.out)
    print(f"test accuracy {measured:.4f}; {arguments.out.stat().st_size:,} bytes: {arguments.out}")
    report(model)


if __name__ == "__main__":
    main()
