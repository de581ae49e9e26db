"""Clips, several streams and other people's models on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import squeezecam
from conftest import ChannelsLast, ConvNet, InPlaceRelu, NormHead, TwoStreams, leave_identity
from devices import agree, explained_alike, lies_on, moved, quietly_fitted
from squeezecam.models.face_body_audio import FaceBodyAudioASD
from squeezecam.models.light_asd import LightASD
from squeezecam.models.torchvision_guard import ensure_torchvision
from squeezecam.streams import importance
from test_streams import asd_inputs, talk, talk_inputs

CPU = torch.device("cpu")
Made = tuple[nn.Module, Any, dict[str, Any]]
"""A model, what it takes, and options of ``attach``."""


def face_body_audio() -> Made:
    faces, mfcc = asd_inputs(frames=3, batch=2)
    at = {"face": "face.block3", "body": "body.block3", "audio": "audio.block3"}
    return FaceBodyAudioASD(), {"faces": faces, "bodies": faces.flip(3), "mfcc": mfcc}, {"at": at}


MODELS: dict[str, Callable[[], Made]] = {
    "signal": lambda: (ConvNet(1), torch.rand(2, 2, 64), {}),
    "clip": lambda: (ConvNet(3), torch.rand(2, 2, 8, 16, 16), {}),
    "channels last": lambda: (ChannelsLast(), torch.rand(2, 2, 16, 16), {}),
    "normalised": lambda: (NormHead(), torch.randn(2, 2, 16, 16), {}),
    "in place": lambda: (InPlaceRelu(), torch.randn(2, 2, 16, 16), {}),
    "two streams": lambda: (TwoStreams(), (torch.rand(2, 2, 16, 16), torch.rand(2, 2, 16, 16)), {}),
    "face and sound": lambda: (
        LightASD(), asd_inputs(frames=3, batch=2), {"at": {"face": "visual.block3", "audio": "audio.block3"}},
    ),
    "face, body and sound": face_body_audio,
}  # fmt: skip


@pytest.mark.parametrize("gates", ["clip", "frame"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_attached_and_explained_as_on_the_cpu(device: torch.device, name: str, gates: Any) -> None:
    torch.manual_seed(0)
    model, inputs, options = MODELS[name]()
    if gates == "frame" and "sound" not in name:
        pytest.skip("its map has no frames")
    model.eval()
    found, expected = (
        leave_identity(squeezecam.attach(moved(model, d), moved(inputs, d), gates=gates, **options))
        for d in (device, CPU)
    )
    assert str(found) == str(expected)
    explained = found.explain(moved(inputs, device), method="published")
    lies_on([explained.heatmap, explained.gates, explained.kept], device)
    explained_alike(explained, expected.explain(inputs, method="published"), 1e-3)


def test_lengths_streams_and_their_say(device: torch.device) -> None:
    def told(d: torch.device) -> list[Any]:
        squeeze = leave_identity(talk())
        squeeze, inputs = squeeze.to(d), moved(talk_inputs(frames=10), d)
        lengths = torch.tensor([10, 8])  # on the CPU
        explained = squeeze.explain(inputs, lengths=lengths)
        said = importance(squeeze, inputs, target=1, lengths=lengths)
        return [explained.heatmap, explained.gates, said.score]

    agree(told(device), told(CPU), 1e-3)


def test_a_speaker_model_is_fitted_by_the_influence_of_its_channels(device: torch.device) -> None:
    """Gradients run through a recurrent layer in evaluation mode, which cuDNN does not do."""
    torch.manual_seed(0)
    batches = [asd_inputs(frames=3, batch=4, seed=i) for i in range(3)]
    at = {"face": "visual.block3", "audio": "audio.block3"}
    squeeze = squeezecam.attach(LightASD().eval().to(device), moved(batches[0], device), at=at)
    report = squeeze.fit(batches, progress=False)
    assert report.unchanged > 0.5
    assert squeeze.fitted
    explained = squeeze.explain(moved(batches[0], device))
    assert all(bool(heatmap.isfinite().all()) for heatmap in explained.heatmap.values())


def test_streams_that_say_most_are_found_there(device: torch.device) -> None:
    squeeze = talk(face=2.0, audio=1.5, apply="gate").to(device)
    batches = [(a - 0.5, b - 0.5) for a, b in (talk_inputs(batch=8, seed=i) for i in range(6))]
    squeeze.fit(batches, progress=False)
    explained = squeeze.explain(moved(batches[0], device))
    assert all(bool((gates.argmax(1) == 0).all()) for gates in explained.gates.values())  # the one with a weight


# --- other people's -------------------------------------------------------------------------------------


def hugging_face(name: str) -> Made:
    ensure_torchvision()
    hf = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if name == "vit":
        config = hf.ViTConfig(image_size=32, patch_size=8, num_labels=4, **small)
        return hf.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 32, 32)}, {}
    if name == "videomae":
        config = hf.VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, tubelet_size=2, num_labels=4, **small)
        return hf.VideoMAEForVideoClassification(config), {"pixel_values": torch.randn(2, 4, 3, 32, 32)}, {}
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    return hf.ResNetForImageClassification(config), {"pixel_values": torch.randn(2, 3, 64, 64)}, {}


def torchvision(name: str) -> Made:
    ensure_torchvision()
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    return getattr(models, name)(num_classes=10), torch.randn(2, 3, 64, 64), {}


def timm(name: str) -> Made:
    ensure_torchvision()
    library = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    return library.create_model(name, num_classes=10), torch.randn(2, 3, 64, 64), {}


OTHERS: dict[str, Callable[[], Made]] = {
    **{f"transformers {name}": (lambda name=name: hugging_face(name)) for name in ("vit", "videomae", "resnet")},
    **{f"torchvision {name}": (lambda name=name: torchvision(name)) for name in ("resnet18", "squeezenet1_1")},
    **{f"timm {name}": (lambda name=name: timm(name)) for name in ("test_convnext", "test_efficientnet")},
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_the_libraries(device: torch.device, name: str) -> None:
    try:
        model, inputs, _ = OTHERS[name]()
    except RuntimeError as error:  # an older timm
        pytest.skip(str(error))
    model.eval()
    found, expected = (leave_identity(squeezecam.attach(moved(model, d), moved(inputs, d))) for d in (device, CPU))
    assert str(found) == str(expected)
    methods = ("published", "class", "focus") if expected.head() is not None else ("published",)
    for method in methods:
        options = {} if method == "published" else {"target": 1}
        explained = found.explain(moved(inputs, device), method=method, **options)
        explained_alike(explained, expected.explain(inputs, method=method, **options), 2e-3)
    batches = [moved(inputs, CPU) for _ in range(6)]
    quietly_fitted(found, batches)
    assert {p.device for p in found.parameters()} == {device}
