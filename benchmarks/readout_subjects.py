"""Trained networks whose head is no known form, and the data on which their maps can be judged.

They are trained here, from a seed, in a few minutes each on one core, and kept as safetensors in the folder that is
given. None of them is good; they have to have learnt something that a map can point at.

* ``textures``: a vision transformer with a class token on noise of 32 x 40 pixels, in which a square with one of four
  textures says the class and a brighter square elsewhere says nothing.
* ``demo hybrid``: the body of the embedded demo network, then a transformer with a class token; ``demo mlp``: the same
  body, mean pooling and a hidden layer; ``demo attention``: the same body and attention pooling with a learnt query.
* ``cifar``: a vision transformer with a class token on 2,000 CIFAR-10 pictures of five classes, from the half of the
  material that is for tuning (skipped without it); every fifth picture of that half is kept to report on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from material import folder
from squeezecam.data.demo import DemoImages
from squeezecam.models.demo import demo_model
from squeezecam.models.torchvision_guard import ensure_torchvision

ensure_torchvision()  # timm imports torchvision

FIT, REPORT = 800, 400
TEXTURE = 8
NOISE, DISTRACTOR = 0.7, 1.5


@dataclass
class Trained:
    """A trained model, pictures to fit on and pictures to report on, and where the evidence is known to lie.

    Attributes:
        fit, report: pictures ``(M, 3, H, W)``.
        labels: of the pictures to report on, ``(M,)``.
        boxes: ``(M, 4)`` in pixels of the pictures to report on, or None.

    """

    name: str
    data: str
    model: nn.Module
    fit: Tensor
    report: Tensor
    labels: Tensor
    boxes: Tensor | None


class Hybrid(nn.Module):
    """A convolutional body ``(N, 192, 12, 12)``, then a transformer with a class token on its positions."""

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.body = copy.deepcopy(demo_model()[0].features)
        self.transformer = VisionTransformer(
            img_size=12, patch_size=1, in_chans=192, num_classes=10, embed_dim=96, depth=3, num_heads=3
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.transformer(self.body((x - 0.5) / 0.25))
        return found


class Deep(nn.Module):
    """The body, mean pooling and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = copy.deepcopy(demo_model()[0].features)
        self.head = nn.Sequential(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body((x - 0.5) / 0.25).mean((2, 3)))
        return found


class Attended(nn.Module):
    """The body and attention pooling with a learnt query."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import AttentionPoolLatent

        self.body = copy.deepcopy(demo_model()[0].features)
        self.pool = AttentionPoolLatent(192, num_heads=4)
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.pool(self.body((x - 0.5) / 0.25).flatten(2).transpose(1, 2)))
        return found


def textures(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures ``(count, 3, 32, 40)``, classes, and boxes of the texture ``(count, 4)``."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.sign(torch.randn(4, 3, TEXTURE, TEXTURE, generator=torch.Generator().manual_seed(5)))
    x = NOISE * torch.randn(count, 3, 32, 40, generator=generator)
    y = torch.randint(0, 4, (count,), generator=generator)

    def squares() -> Tensor:
        rows, columns = (torch.randint(0, side // 4 - 1, (count,), generator=generator) for side in (32, 40))
        return torch.stack([columns, rows], 1) * 4

    evidence, distractors = squares(), squares()
    for i in range(count):
        c, r = distractors[i].tolist()
        x[i, :, r : r + TEXTURE, c : c + TEXTURE] += DISTRACTOR
        c, r = evidence[i].tolist()
        x[i, :, r : r + TEXTURE, c : c + TEXTURE] = patterns[y[i]] + 0.5 * torch.randn(
            3, TEXTURE, TEXTURE, generator=generator
        )
    return x, y, torch.cat([evidence, evidence + TEXTURE], 1)


def trained(name: str, weights: Path, seed: int) -> Trained:
    """The network called ``name``, trained unless its weights are in the folder ``weights`` already."""
    return _MAKERS[name](weights, seed)


def _textures(weights: Path, seed: int) -> Trained:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    model = VisionTransformer((32, 40), 4, num_classes=4, embed_dim=48, depth=3, num_heads=3, mlp_ratio=2)
    steps = iter(range(10**9))

    def draw(size: int) -> tuple[Tensor, Tensor]:
        x, y, _ = textures(size, 10_000 + seed * 1_000 + next(steps))
        return x, y

    _train(model, draw, weights / f"textures_{seed}.safetensors", steps=500, rate=2e-3, size=64)
    x, y, boxes = textures(REPORT, 9)
    return Trained("textures", "planted textures beside a brighter square", model, textures(FIT, 8)[0], x, y, boxes)


def _on_demo(name: str, build: Callable[[], nn.Module], steps: int) -> Callable[[Path, int], Trained]:
    def make(weights: Path, seed: int) -> Trained:
        torch.manual_seed(seed)
        model = build()
        body = model.get_submodule("body").requires_grad_(False)
        source = DemoImages("train", 10**6, seed=100 + seed)
        place = iter(range(10**6))

        def draw(size: int) -> tuple[Tensor, Tensor]:
            batch = source.batch(next(place) for _ in range(size))
            return batch.images, batch.labels

        _train(model, draw, weights / f"{name.replace(' ', '_')}_{seed}.safetensors", steps=steps, rate=1e-3, size=32)
        body.requires_grad_(True)
        fit = DemoImages("train", FIT, seed=1).batch(range(FIT))
        report = DemoImages("test", REPORT, seed=2).batch(range(REPORT))
        said = "generated pictures of a digit in clutter, of other hands than those trained and fitted on"
        return Trained(name, said, model, fit.images, report.images, report.labels, report.boxes)

    return make


def _cifar(weights: Path, seed: int) -> Trained:
    import numpy as np
    from timm.models.vision_transformer import VisionTransformer

    stored = np.load(folder() / "cifar10" / "test5000.npz")
    pictures = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(stored["labels"]).long()
    half = len(pictures) // 2  # classes are in order: the first half holds five of them
    apart = torch.arange(half) % 5 == 0
    known, kept = (~apart).nonzero().flatten(), apart.nonzero().flatten()
    torch.manual_seed(seed)
    model = VisionTransformer(32, 4, num_classes=5, embed_dim=96, depth=4, num_heads=3, mlp_ratio=2)
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        index = known[torch.randint(len(known), (size,), generator=generator)]
        x = F.pad(pictures[index], (4, 4, 4, 4), mode="reflect")
        r, c = torch.randint(0, 9, (2,), generator=generator).tolist()
        x = x[:, :, r : r + 32, c : c + 32]
        flipped = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
        return torch.where(flipped, x.flip(3), x), labels[index]

    _train(model, draw, weights / f"cifar_{seed}.safetensors", steps=700, rate=1e-3, size=64)
    fitted = known[torch.linspace(0, len(known) - 1, FIT).round().long()]
    report = kept[torch.linspace(0, len(kept) - 1, REPORT).round().long()]
    said = f"CIFAR-10 pictures of five classes, {len(known)} trained on, {REPORT} others to report on"
    return Trained("cifar", said, model, pictures[fitted], pictures[report], labels[report], None)


def _train(
    model: nn.Module,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    file: Path,
    *,
    steps: int,
    rate: float,
    size: int,
) -> None:
    """AdamW with warm-up and cosine decay on the layers that may learn; layers that may not stay in evaluation mode."""
    from safetensors.torch import load_file, save_file

    if file.is_file():
        model.load_state_dict(load_file(file))
        model.eval()
        return
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, rate, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for module in model.children():
        if not any(p.requires_grad for p in module.parameters()):
            module.eval()
    for _ in range(steps):
        x, y = draw(size)
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        plan.step()
    model.eval()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), file)


_MAKERS: dict[str, Callable[[Path, int], Trained]] = {
    "textures": _textures,
    "demo hybrid": _on_demo("demo hybrid", Hybrid, 500),
    "demo mlp": _on_demo("demo mlp", Deep, 250),
    "demo attention": _on_demo("demo attention", Attended, 300),
    "cifar": _cifar,
}
NAMES = tuple(_MAKERS)
