"""Max-sensitivity: how much the map can change when the input hardly does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.metrics.checks import finite_rows, nan_where_not, same_shape, shape_of
from squeezecam.metrics.metric import Metric

METRIC = Metric(
    name="sensitivity_max",
    higher_is_better=False,
    category="robustness",
    reference="Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, arXiv 1901.09392",
    description="largest relative change of the map under small uniform noise on the input",
)


def sensitivity_max(
    explain: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    perturb: Callable[[Tensor], Tensor] | None = None,
    relative: bool = True,
    heatmap: Tensor | None = None,
) -> Tensor:
    """Largest ``||map(x + e) - map(x)|| / ||map(x)||`` (N,) over ``samples`` draws of e uniform in [-radius, radius].

    Args:
        explain: inputs (N, ...) to raw heatmaps (N, *S); no normalisation is applied. It may use gradients.
        inputs: (N, ...), as the model takes them.
        radius: largest change of any input value, in the units of the inputs.
        samples: draws per input, a call of ``explain`` each.
        seed: of the noise. One noise picture per draw serves the whole batch, so that a sample's result does not
            depend on the rest of the batch.
        perturb: replaces the uniform noise: inputs to perturbed inputs, called ``samples`` times.
        relative: divide by the norm of the unperturbed map (an all-zero map is not divided), as captum does; the
            paper's equation 4 has no division.
        heatmap: ``explain(inputs)`` where it is already at hand.
    """
    if samples < 1 or not radius >= 0:
        raise InputError(f"samples is {samples} and radius is {radius}: expected at least 1, and 0 or more")
    first = (explain(inputs) if heatmap is None else heatmap).detach()
    if first.ndim < 2 or first.shape[0] != inputs.shape[0]:
        raise InputError(f"heatmap has shape {shape_of(first)} for inputs {shape_of(inputs)}: expected (N, *S)")
    first = first.to(torch.promote_types(first.dtype, torch.float32))
    generator = torch.Generator().manual_seed(seed)
    norm = first.flatten(1).norm(dim=1)
    scale = norm.masked_fill(norm == 0, 1) if relative else torch.ones_like(norm)
    worst = torch.zeros_like(norm)
    valid = finite_rows(first)
    for _ in range(samples):
        if perturb is None:
            noise = (2 * torch.rand(inputs.shape[1:], generator=generator) - 1) * radius
            changed = inputs.detach() + noise.to(inputs)
        else:
            changed = perturb(inputs)
        second = explain(changed).detach().to(first)
        same_shape(first, second, ("heatmap", "heatmap of the perturbed inputs"))
        valid = valid & finite_rows(second)
        worst = torch.maximum(worst, (second - first).flatten(1).norm(dim=1) / scale)
    return nan_where_not(worst, valid)
