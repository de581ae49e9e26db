"""Training on labels, as published: the block, the block with the head, or everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam import tree
from squeezecam.block import IDENTITY_GATE
from squeezecam.errors import FitError
from squeezecam.fit.batches import Pick, labels_of, shares_of_classes, split
from squeezecam.fit.cache import Cache
from squeezecam.links import last_of
from squeezecam.module import Squeeze
from squeezecam.tap import evaluating, tapped

BATCH = 64


def task_loss(values: Tensor, labels: Tensor, task: str, link: str = "identity") -> Tensor:
    """Cross-entropy, binary cross-entropy, or mean squared error; ``link`` is what the model ends with
    (:func:`squeezecam.links.last_of`): probabilities are taken as such, not as logits. Labels of yes or no that are NaN
    are left out.
    """
    if task == "classification":
        if link == "softmax":
            values = values.clamp_min(torch.finfo(values.dtype).tiny).log()
        return F.cross_entropy(values.flatten(0, -2), _class_labels(labels, values))
    labels = labels.to(values.dtype)
    if labels.numel() != values.numel():
        raise FitError(f"labels of shape {tuple(labels.shape)} do not fit an output of shape {tuple(values.shape)}")
    labels = labels.reshape(values.shape)
    if task != "multi-label":
        return F.mse_loss(values, labels)
    known = ~labels.isnan()
    if not bool(known.all()):  # a label that nobody knows has no say
        values, labels = values[known], labels[known]
        if not len(labels):
            return values.sum()
    if link == "sigmoid":
        with torch.autocast(values.device.type, enabled=False):  # which refuses it
            return F.binary_cross_entropy(values.float().clamp(0, 1), labels.float())
    return F.binary_cross_entropy_with_logits(values, labels)


def _class_labels(labels: Tensor, values: Tensor) -> Tensor:
    """Class indices ``(n,)``, or shares of classes ``(n, K)``.

    Raises:
        FitError: neither.

    """
    if labels.shape == values.shape and shares_of_classes(labels):
        return labels.flatten(0, -2).to(values.dtype)
    if labels.is_floating_point() or (labels.numel() and (labels.min() < 0 or labels.max() >= values.shape[-1])):
        raise FitError(
            f"class labels must be integers in 0..{values.shape[-1] - 1}, got {labels.dtype}, {labels.max()}"
        )
    return labels.flatten()


def head_parameters(squeeze: Squeeze, cache: Cache, output: str) -> dict[str, nn.Parameter]:
    """Parameters of the model that stand after the map: those that a gradient reaches when only the head runs.

    Where an input goes past the map, a gradient may reach layers through it that the map is made by as well. These stay
    as they are, or the cached features would no longer be those of the model.
    """
    named = {name: p for name, p in squeeze.model.named_parameters() if p.is_floating_point()}
    flags = {name: p.requires_grad for name, p in named.items()}
    try:
        for p in named.values():
            p.requires_grad_(True)
        with torch.enable_grad(), evaluating(squeeze):
            values = cache.head(squeeze, output, torch.arange(min(2, len(cache))))
            grads = torch.autograd.grad(values.sum(), list(named.values()), allow_unused=True)
            before = _making_the_map(squeeze, cache, named) if cache.beside else set()
    finally:
        for name, p in named.items():
            p.requires_grad_(flags[name])
    return {
        name: named[name] for (name, grad) in zip(named, grads, strict=True) if grad is not None and name not in before
    }


def _making_the_map(squeeze: Squeeze, cache: Cache, named: dict[str, nn.Parameter]) -> set[str]:
    """Names of the parameters that the maps at the places are made by."""
    raws: list[Tensor] = []

    def keep(tensor: Tensor) -> None:
        raws.append(tensor.clone())  # what follows may write into it

    with tapped(squeeze.model, squeeze.places, dict.fromkeys(squeeze.places, keep)):
        squeeze.model(*cache.runner.args, **cache.runner.kwargs)
    total = torch.stack([raw.float().sum() for raw in raws]).sum()
    grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, grad in zip(named, grads, strict=True) if grad is not None}


def train_cached(
    squeeze: Squeeze,
    cache: Cache,
    output: str,
    task: str,
    fitting: Tensor,
    held: Tensor,
    *,
    extra: list[nn.Parameter],
    epochs: int,
    rate: float,
    patience: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> list[float]:
    """Train block (and ``extra`` head parameters) on cached features, keep the best state; returns held-out losses."""
    assert cache.labels is not None
    labels, link = cache.labels, last_of(squeeze, output)
    parameters = [*squeeze.blocks.parameters(), *extra]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)

    def values(index: Tensor) -> Tensor:
        factors = {s: squeeze.block(s).gates(z[index]) / IDENTITY_GATE for s, z in cache.squeezed.items()}
        return cache.head(squeeze, output, index, factors)

    @torch.no_grad()
    def held_out_loss() -> float:
        losses = [float(task_loss(values(part), labels[part], task, link)) * len(part) for part in held.split(BATCH)]
        return sum(losses) / max(1, len(held))

    def step() -> None:
        order = fitting[torch.randperm(len(fitting), generator=generator)]
        for part in order.split(BATCH):
            loss = task_loss(values(part), labels[part], task, link)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    with torch.enable_grad(), evaluating(squeeze), _trainable(parameters):
        return _best(parameters, step, held_out_loss, epochs, patience, advance)


def train_all(
    squeeze: Squeeze,
    batches: Iterable[Any],
    output: str,
    task: str,
    *,
    inputs: Pick | None,
    labels: Pick | None,
    epochs: int,
    rate: float,
    patience: int,
    advance: Callable[[int], None],
    device: torch.device,
) -> list[float]:
    """Train model and block together over ``batches``, every fifth batch held out; the best state is kept."""
    parameters, link = list(squeeze.parameters()), last_of(squeeze, output)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    if iter(batches) is batches:
        raise FitError("train='all' goes over the data several times: pass a list or a DataLoader, not an iterator")

    def losses(train: bool) -> Iterable[Tensor]:
        for number, batch in enumerate(batches):
            if (number % 5 == 4) == train:
                continue
            given, found = split(batch, squeeze.positional, inputs, labels)
            if found is None:
                raise FitError("objective='task' needs labels: batches of (x, y), or labels=lambda batch: ...")
            args, kwargs = tree.as_call(tree.to_device(given, device))
            values = squeeze.select(squeeze(*args, **kwargs), output)
            yield task_loss(values, labels_of(squeeze, found, output).to(device), task, link)

    def step() -> None:
        squeeze.train()
        for loss in losses(train=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def held_out_loss() -> float:
        squeeze.eval()
        found = [float(loss) for loss in losses(train=False)]
        return sum(found) / len(found) if found else 0.0

    with torch.enable_grad(), _trainable(parameters), _modes_kept(squeeze):
        buffers = [b for b in squeeze.buffers() if b.is_floating_point()]
        return _best([*parameters, *buffers], step, held_out_loss, epochs, patience, advance)


def _best(
    state: list[Any],
    step: Callable[[], None],
    held_out_loss: Callable[[], float],
    epochs: int,
    patience: int,
    advance: Callable[[int], None],
) -> list[float]:
    history: list[float] = []
    best, since = float("inf"), 0
    kept = [t.detach().clone() for t in state]
    for _ in range(epochs):
        step()
        loss = held_out_loss()
        advance(1)
        history.append(loss)
        if not loss == loss:
            raise FitError("the loss became NaN: lower the learning rate (lr=...), and check the labels for NaN")
        if loss < best - 1e-6:
            best, since = loss, 0
            kept = [t.detach().clone() for t in state]
        else:
            since += 1
            if since >= patience:
                break
    with torch.no_grad():
        for tensor, value in zip(state, kept, strict=True):
            tensor.copy_(value)
    return history


class _trainable:  # noqa: N801 - a context manager
    """Gradients for these parameters, and each one's own flag put back."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.flags = [(p, p.requires_grad) for p in parameters]

    def __enter__(self) -> None:
        for p, _ in self.flags:
            p.requires_grad_(True)

    def __exit__(self, *error: object) -> None:
        for p, flag in self.flags:
            p.requires_grad_(flag)
            p.grad = None


class _modes_kept:  # noqa: N801 - a context manager
    def __init__(self, module: nn.Module) -> None:
        self.modes = [(m, m.training) for m in module.modules()]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        for m, training in self.modes:
            m.training = training
