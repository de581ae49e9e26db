"""Model randomisation check: a map that explains the model must change when the model's weights are destroyed."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from squeezecam.errors import InputError
from squeezecam.metrics.checks import as_maps, same_shape
from squeezecam.metrics.correlation import spearman
from squeezecam.metrics.metric import Metric
from squeezecam.metrics.ssim import ssim as structural_similarity
from squeezecam.randomness import torch_seeded

METRIC = Metric(
    name="model_randomisation",
    higher_is_better=False,
    category="randomisation",
    reference="Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv 1810.03292",
    description="rank correlation of the map with that of the model re-initialised from the head down",
)


class RandomisationCurve(NamedTuple):
    """Similarity to the original map, a row per stage of randomisation."""

    names: tuple[str, ...]
    """modules, in the order in which they were re-initialised"""
    spearman: Tensor
    """(L, N): rank correlation; NaN where a map is constant or not finite"""
    ssim: Tensor | None
    """(L, N), where it was asked for"""


def model_randomisation(
    explain: Callable[[nn.Module], Tensor],
    model: nn.Module,
    names: Sequence[str],
    *,
    cascade: bool = True,
    seed: int = 0,
    ssim: bool = False,
) -> RandomisationCurve:
    """Similarity of the map before and after re-initialising the named modules. Lower is better.

    The model itself is not touched: copies are re-initialised. Modules with a ``reset_parameters`` method are reset by
    it (running statistics of normalisation layers included); other parameters (class tokens, scales) are drawn from a
    normal distribution with their own mean and standard deviation.

    Args:
        explain: model to raw heatmaps (N, *S), for fixed inputs and a fixed target class; no normalisation matters
            for the rank correlation.
        model: the trained model.
        names: modules as in ``model.named_modules()``, from the head down.
        cascade: True adds one module after the other (the paper's cascading randomisation), False re-initialises each
            alone (its independent randomisation).
        seed: of the new weights; the global random state is left as it was.
        ssim: also report the structural similarity (maps (N, H, W) only).

    Raises:
        InputError: no names, an unknown name, a module without parameters.
    """
    modules = dict(model.named_modules())
    if isinstance(names, str) or not names:
        raise InputError(f"names is {names!r}, expected a list of module names from the head down")
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3)
            raise InputError(f"the model has no module {name!r}; names that are close: {', '.join(near) or 'none'}")
        if next(modules[name].parameters(), None) is None:
            raise InputError(f"module {name!r} ({type(modules[name]).__name__}) has no parameters to re-initialise")
    original = as_maps(explain(model), rank=2 if ssim else None)
    correlations, similarities = [], []
    changed = copy.deepcopy(model)
    for index, name in enumerate(names):
        if not cascade:
            changed = copy.deepcopy(model)
        reinitialise(changed.get_submodule(name), seed + index)
        maps = as_maps(explain(changed), rank=2 if ssim else None).to(original)
        same_shape(original, maps, ("heatmap", "heatmap of the randomised model"))
        correlations.append(spearman(original, maps))
        if ssim:
            similarities.append(structural_similarity(original, maps))
    return RandomisationCurve(
        tuple(names), torch.stack(correlations), torch.stack(similarities) if similarities else None
    )


def reinitialise(module: nn.Module, seed: int, *, inside: bool = True) -> None:
    """New random weights for everything in ``module``, in place; see :func:`model_randomisation`.

    ``inside=False``: for its own weights only, not for those of the modules in it.
    """
    with torch_seeded(seed, (p.device for p in module.parameters())), torch.no_grad():
        for part in module.modules() if inside else [module]:
            own = [weight for weight in part.parameters(recurse=False) if weight.is_floating_point()]
            before = [weight.clone() for weight in own]
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            for weight, old in zip(own, before, strict=True):
                # What stayed was not reset: it has no such method, or writes to a weight that is made of others.
                if torch.equal(weight, old):
                    spread, mean = weight.float().std(unbiased=False), weight.float().mean()
                    weight.copy_(torch.randn_like(weight, dtype=torch.float32) * spread + mean)
