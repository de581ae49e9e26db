"""A sample of at least 40 families of real architectures, attached without a hint and checked as the coverage sweep
does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import squeezecam
from squeezecam import tree
from squeezecam.models.torchvision_guard import ensure_torchvision

ensure_torchvision()
pytest.importorskip("timm")
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from coverage_checks import Outcome, check, random_like  # noqa: E402
from coverage_zoo import monai_builds, oddities, torchvision_builds, transformers_builds  # noqa: E402

# family -> model and height and width; None where the model wants its own square size
TIMM: dict[str, tuple[str, tuple[int, int] | None]] = {
    "byobnet": ("test_byobnet", (64, 96)),
    "convnext": ("test_convnext", (64, 96)),
    "cspnet": ("cs3darknet_focus_s", (64, 96)),
    "cspnext": ("cspnext_tiny", (64, 96)),
    "cpubone": ("cpubone_nano", (64, 96)),
    "dla": ("dla46x_c", (64, 96)),
    "edgenext": ("edgenext_xx_small", (64, 96)),
    "efficientnet": ("test_efficientnet", (64, 96)),
    "efficientvim": ("efficientvim_m1", None),
    "efficientvit_mit": ("efficientvit_b0", (64, 96)),
    "efficientvit_msra": ("efficientvit_m0", None),
    "fasternet": ("fasternet_t0", (64, 96)),
    "ghostnet": ("ghostnet_050", (64, 96)),
    "hgnet": ("hgnetv2_b0", (64, 96)),
    "inception_next": ("inception_next_atto", (64, 96)),
    "lcnetv2": ("lcnetv2_small", (64, 96)),
    "mambaout": ("test_mambaout", (64, 96)),
    "maxxvit": ("test_coatnet", None),
    "mobilenetv3": ("lcnet_035", (64, 96)),
    "nfnet": ("test_nfnet", (64, 96)),
    "pit": ("pit_ti_distilled_224", None),
    "pvt_v2": ("pvt_v2_b0", (64, 96)),
    "regnet": ("regnety_002", (64, 96)),
    "repghost": ("repghostnet_050", (64, 96)),
    "repvit": ("repvit_m1", (64, 96)),
    "resnet": ("test_resnet", (64, 96)),
    "resnetv2": ("resnetv2_18", (64, 96)),
    "shvit": ("shvit_s1", None),
    "starnet": ("starnet_s050", (64, 96)),
    "vision_transformer": ("test_vit", None),
    "vovnet": ("ese_vovnet19b_slim_dw", (64, 96)),
}
TORCHVISION = ("squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5")
MONAI = ("DenseNet121 2-D", "Classifier 3-D")
TRANSFORMERS = (
    "ASTForAudioClassification",
    "BeitForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "Dinov2WithRegistersForImageClassification",
    "SegformerForImageClassification",
    "SwinForImageClassification",
    "Swinv2ForImageClassification",
    "TimesformerForVideoClassification",
    "VJEPA2ForVideoClassification",
    "VideoMAEForVideoClassification",
    "VivitForVideoClassification",
    "Wav2Vec2ForSequenceClassification",
)


def passes(outcome: Outcome) -> None:
    bad = [name for name, good in outcome.checks.items() if not good]
    assert outcome.passed, f"{', '.join(bad)}; {'; '.join(outcome.notes)}; {outcome.site}"


def test_there_are_at_least_40_families() -> None:
    assert len(TIMM) + len(TORCHVISION) + len(TRANSFORMERS) >= 40


@pytest.mark.parametrize("family", TIMM)
def test_timm(family: str) -> None:
    import timm

    name, size = TIMM[family]
    model = timm.create_model(name, pretrained=False, num_classes=10)
    assert type(model).__module__.rpartition(".")[2] == family
    shape = (3, *size) if size else tuple(model.default_cfg["input_size"])
    passes(check(model, random_like((2, *shape)), size=shape[1:]))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    model, example, _ = torchvision_builds()[name]()
    passes(check(model, example[..., :96, :128], size=(96, 128)))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    model, example, size = transformers_builds()[name]()
    passes(check(model, example, size=size))


@pytest.mark.parametrize("name", MONAI)
def test_monai(name: str) -> None:
    pytest.importorskip("monai")
    model, example, size = monai_builds()[name]()
    passes(check(model, example, size=size))


@pytest.mark.parametrize("name", oddities())
def test_nothing_goes_round_the_block(name: str) -> None:
    """With the map set to zero the answer no longer depends on the input, but through tokens beside the grid."""
    model, example, _ = oddities()[name]()
    squeeze = squeezecam.attach(model.eval(), example)
    if any(axis.before or axis.after for place in squeeze.places.values() for axis in place.layout.axes):
        pytest.skip("a class token goes beside the map")

    def without(inputs: object) -> torch.Tensor:
        return squeeze.select(squeeze.predict(inputs, lambda stream, seen: torch.zeros_like(seen.gates)))

    other = example
    for path, tensor in tree.leaves(example):
        other = tree.replace(other, path, tensor + torch.randn(tensor.shape)) if path else tensor * 2 + 1
    torch.testing.assert_close(without(other), without(example), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", oddities())
def test_oddity(name: str) -> None:
    model, example, size = oddities()[name]()
    passes(check(model, example, size=size))


def test_the_checks_can_fail() -> None:
    """A place whose tensor reaches nothing is found out: patch tokens after the last block, behind a class token."""
    model, example, size = oddities()["class token"]()
    outcome = check(model, example, size=size, at="norm")
    assert not outcome.checks["gate acts"]
    assert outcome.checks["observe"]


def test_a_blank_map_is_found_out() -> None:
    model, example, size = oddities()["softmax at the end"]()
    model.body.append(nn.Hardtanh(50.0, 60.0))  # 50 everywhere
    outcome = check(model, example, size=size)
    assert not outcome.checks["above noise"]
