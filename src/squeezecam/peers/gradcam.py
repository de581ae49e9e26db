"""The Grad-CAM family, Eigen-CAM and FEM from pytorch-grad-cam."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from squeezecam.errors import InputError
from squeezecam.models.torchvision_guard import require
from squeezecam.module import Squeeze
from squeezecam.pacing import at_once
from squeezecam.peers.front import Front, fronted, sample_by_sample
from squeezecam.peers.method import MapMethod, Run

PACKAGE = "pytorch_grad_cam"
PASSES = 32
"""Most perturbed pictures per pass of the methods that need one for every channel."""


def cam(kind: str, *, per_channel: bool = False) -> Run:
    """The class ``kind`` of pytorch-grad-cam as a function that makes maps.

    The target layer is the place of the block. The library enlarges its maps linearly and scales each to [0, 1]; what
    it returns is passed on as it is. ``per_channel``: one image at a time, because the memory grows with the channels.

    Raises:
        ModelError: pytorch-grad-cam is not installed.
        InputError: a model that it cannot be used on.

    """

    def run(
        squeeze: Squeeze,
        inputs: Any,
        target: Tensor | None,
        *,
        output: str | None = None,
        seeds: Sequence[int] | None = None,
        stream: str | None = None,
    ) -> Tensor:
        library = require(PACKAGE, "peers")
        targets = require(f"{PACKAGE}.utils.model_targets", "peers")
        with fronted(squeeze, inputs, output, stream) as (front, pictures):
            if per_channel and pictures.ndim != 4:
                shape = tuple(pictures.shape)
                raise InputError(
                    f"{kind} of pytorch-grad-cam takes pictures (N, C, H, W), and these have shape {shape}"
                )
            if target is None:
                with torch.no_grad():
                    target = front(pictures).argmax(1)
            wanted = [targets.ClassifierOutputTarget(int(t)) for t in target]
            if len(wanted) != len(pictures):
                raise InputError(f"{len(wanted)} targets for {len(pictures)} pictures")
            size = 1 if per_channel else len(pictures)
            if kind == "AblationCAM":
                front.skip_trunk()
            parts = [
                _maps(getattr(library, kind), front, pictures[i : i + size], wanted[i : i + size], kind)
                for i in range(0, len(pictures), size)
            ]
        return torch.cat(parts)

    return sample_by_sample(run)


def _maps(make: Any, front: Front, pictures: Tensor, targets: list[Any], kind: str) -> Tensor:
    """The library's maps for some pictures; its hooks are gone afterwards, also after an error."""
    passes = PASSES if kind == "AblationCAM" else at_once(pictures, PASSES)  # Ablation-CAM runs the head alone
    options = {"batch_size": passes} if kind == "AblationCAM" else {}
    explainer = make(model=front, target_layers=[front.tap], **options)
    explainer.batch_size = passes
    try:
        with _without_bar(type(explainer).__module__):
            found = explainer(input_tensor=pictures, targets=targets)
    finally:
        explainer.activations_and_grads.release()
    return torch.from_numpy(found).to(pictures.device, torch.float32)


@contextlib.contextmanager
def _without_bar(module: str) -> Iterator[None]:
    """The library draws a bar per image on standard error, over ours."""
    import sys

    owner = sys.modules[module]
    original = getattr(owner, "tqdm", None)
    if original is None:
        yield
        return
    owner.tqdm = SimpleNamespace(tqdm=lambda it, *args, **kwargs: it)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        owner.tqdm = original  # type: ignore[attr-defined]


def _channels(squeeze: Squeeze) -> int:
    return next(iter(squeeze.places.values())).channels


def _of_channels(factor: float) -> Any:
    return lambda squeeze, shape: 1 + factor * _channels(squeeze)


def methods() -> list[MapMethod]:
    """All of them; costs as measured on a MobileNetV2 on a CPU."""

    def entry(name: str, label: str, kind: str, cost: float, reference: str) -> MapMethod:
        return MapMethod(
            name, label, "peer", cam(kind), lambda squeeze, shape: cost, library=PACKAGE, reference=reference
        )

    return [
        entry("grad-cam", "Grad-CAM", "GradCAM", 2.8, "Selvaraju et al., ICCV 2017, arXiv 1610.02391"),
        entry("grad-cam++", "Grad-CAM++", "GradCAMPlusPlus", 2.8, "Chattopadhyay et al., WACV 2018, arXiv 1710.11063"),
        entry("hirescam", "HiResCAM", "HiResCAM", 2.8, "Draelos and Carin, arXiv 2011.08891"),
        entry("xgrad-cam", "XGrad-CAM", "XGradCAM", 2.8, "Fu et al., BMVC 2020, arXiv 2008.02312"),
        entry("layercam", "LayerCAM", "LayerCAM", 2.8, "Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943"),
        entry("eigen-cam", "Eigen-CAM", "EigenCAM", 2.9, "Muhammad and Yeasin, IJCNN 2020, arXiv 2008.00299"),
        entry("fem", "FEM", "FEM", 1.5, "Fuad et al., IPTA 2020, hal-02963298"),
        MapMethod(
            "score-cam", "Score-CAM", "peer", cam("ScoreCAM", per_channel=True), _of_channels(1.0), True, PACKAGE,
            "Wang et al., CVPRW 2020, arXiv 1910.01279",
        ),
        MapMethod(
            "ablation-cam", "Ablation-CAM", "peer", cam("AblationCAM", per_channel=True), _of_channels(0.02), True,
            PACKAGE, "Desai and Ramaswamy, WACV 2020",
        ),
    ]  # fmt: skip
