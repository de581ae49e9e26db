"""One training run and its score. Everything random depends on the seed, and on nothing that the block does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.errors import FitError
from squeezecam.fit.labels import task_loss
from squeezecam.links import last_of
from squeezecam.models.trainable import refuse_untrainable
from squeezecam.module import Capture, Squeeze
from squeezecam.parity.recipe import Recipe
from squeezecam.parity.samples import Samples
from squeezecam.randomness import torch_seeded
from squeezecam.tap import evaluating

Extra = Callable[[Squeeze, dict[str, Capture], Tensor, Tensor, float], Tensor]
"""An auxiliary loss: ``(squeeze, captures with live gates, output values, labels, share of the training done)``."""

CHUNK = 128


def train(
    squeeze: Squeeze,
    samples: Samples,
    recipe: Recipe,
    seed: int,
    *,
    task: str,
    output: str,
    extra: Extra | None = None,
    limit: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Train everything that wants a gradient, in place; ``limit`` stops after so many steps.

    Order of the samples, augmentation and dropout come from three generators of their own, each set by ``seed``: a
    block in the path, which draws nothing, leaves all of them as they are.

    Raises:
        FitError: the loss is not finite.
        ModelError: nothing in the model wants a gradient, its weights are in half precision, or it returns something
            else in training.

    """
    refuse_untrainable(squeeze.model, type(squeeze.model).__name__)
    order, noise = torch.Generator().manual_seed(2 * seed), torch.Generator().manual_seed(2 * seed + 1)
    device = next(squeeze.parameters()).device
    parameters = [p for p in squeeze.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    each = _steps(len(samples), recipe.batch_size)
    total, done = recipe.epochs * each, 0
    with torch_seeded(seed, [device]), torch.enable_grad():
        squeeze.train()
        for _ in range(recipe.epochs):
            for index in _batches(torch.randperm(len(samples), generator=order), recipe.batch_size):
                if limit is not None and done >= limit:
                    break
                for group in optimiser.param_groups:
                    group["lr"] = recipe.rate(done, total)
                given = recipe.augmentation(samples.inputs(index), noise)
                loss = _loss(
                    squeeze, tree.to_device(given, device), samples.labels[index].to(device),
                    task, output, extra, done / total,
                )  # fmt: skip
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                done += 1
                advance(len(index))
            if not bool(loss.isfinite()):
                raise FitError(f"the loss became {float(loss)} with seed {seed}: lower the learning rate")
        squeeze.eval()


def predict(squeeze: Squeeze, samples: Samples, output: str) -> Tensor:
    """Values of the output for all samples, on the CPU."""
    device = next(squeeze.parameters()).device
    parts = []
    with torch.no_grad(), evaluating(squeeze):
        for index in torch.arange(len(samples)).split(CHUNK):
            args, kwargs = tree.as_call(tree.to_device(samples.inputs(index), device))
            parts.append(squeeze.select(squeeze(*args, **kwargs), output).float().cpu())
    return torch.cat(parts)


def score(values: Tensor, labels: Tensor, task: str, cut: float = 0.0) -> float:
    """Accuracy in points (0 to 100; of frames or labels where there are several), or the mean absolute error."""
    if task == "classification":
        return 100 * float((values.argmax(-1) == labels).double().mean())
    labels = labels.to(values.dtype).reshape(values.shape)
    if task == "multi-label":
        return 100 * float(((values > cut) == (labels > 0.5)).double().mean())
    return float((values - labels).abs().double().mean())


def _loss(
    squeeze: Squeeze, given: Any, labels: Tensor, task: str, output: str, extra: Extra | None, share: float
) -> Tensor:
    args, kwargs = tree.as_call(given)
    if extra is None:
        return task_loss(squeeze.select(squeeze(*args, **kwargs), output), labels, task, last_of(squeeze, output))
    result, captures = squeeze.capture(given)
    values = squeeze.select(result, output)
    loss = task_loss(values, labels, task, last_of(squeeze, output))
    return loss + extra(squeeze, captures, values, labels, share)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Steps of ``size``; a single sample left over joins the step before it, for batch norm cannot take it alone."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


def _steps(count: int, size: int) -> int:
    return len(_batches(torch.arange(count), size))
