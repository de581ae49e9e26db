"""What the coverage sweep runs on: every entry builds ``(model, example, size)`` with random weights and without a
network.

``example`` has two samples; ``size`` is the size that the heatmap must have, or None where the input's trailing axes
say it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coverage_checks import random_like

Build = Callable[[], tuple[nn.Module, Any, tuple[int, ...] | None]]

# --- timm -----------------------------------------------------------------------------------------------


def timm_names() -> list[str]:
    """All architectures of timm, those of different modules in turn, so that a sweep that is cut short has seen every
    family.
    """
    import timm

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(timm.models.model_entrypoint(name).__module__, []).append(name)
    turns = max(len(names) for names in families.values())
    return [names[i] for i in range(turns) for names in families.values() if i < len(names)]


def timm_build(name: str) -> Build:
    def build() -> tuple[nn.Module, Any, tuple[int, ...] | None]:
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=10)
        shape = tuple(model.default_cfg["input_size"])
        return model, random_like((2, *shape)), shape[1:]

    return build


# --- torchvision ----------------------------------------------------------------------------------------


def torchvision_builds() -> dict[str, Build]:
    from torchvision import models

    sizes = {"inception_v3": 299}
    builds: dict[str, Build] = {}
    for name in models.list_models(module=models):

        def image(name: str = name) -> tuple[nn.Module, Any, tuple[int, ...] | None]:
            options = {"init_weights": True, "aux_logits": True} if name in ("inception_v3", "googlenet") else {}
            model = models.get_model(name, weights=None, num_classes=10, **options)
            side = sizes.get(name, 224)
            return model, random_like((2, 3, side, side)), (side, side)

        builds[name] = image
    for name in models.list_models(module=models.video):

        def video(name: str = name) -> tuple[nn.Module, Any, tuple[int, ...] | None]:
            model = models.get_model(name, weights=None, num_classes=10)
            frames, side = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}.get(name, (16, 112))
            return model, random_like((2, 3, frames, side, side)), (frames, side, side)

        builds[name] = video
    return builds


# --- transformers ---------------------------------------------------------------------------------------

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 10,
    "image_size": 64,
    "patch_size": 8,
}
_STAGES = {"num_labels": 10, "image_size": 64}

_IMAGE: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": {**_SMALL},
    "BitForImageClassification": {
        **_STAGES,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "embedding_size": 32,
        "num_groups": 8,
    },
    "ConvNextForImageClassification": {**_STAGES, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "ConvNextV2ForImageClassification": {**_STAGES, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "CvtForImageClassification": {"num_labels": 10},
    "Data2VecVisionForImageClassification": {**_SMALL},
    "DeiTForImageClassification": {**_SMALL},
    "DeiTForImageClassificationWithTeacher": {**_SMALL},
    "Dinov2ForImageClassification": {**_SMALL},
    "Dinov2WithRegistersForImageClassification": {**_SMALL},
    "DonutSwinForImageClassification": {
        **_STAGES,
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "window_size": 4,
    },
    "EfficientNetForImageClassification": {**_STAGES},
    "FocalNetForImageClassification": {
        **_STAGES,
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 32, 64, 128],
    },
    "HGNetV2ForImageClassification": {"num_labels": 10},
    "HieraForImageClassification": {"num_labels": 10},
    "IJepaForImageClassification": {**_SMALL},
    "LevitForImageClassification": {"num_labels": 10},
    "LevitForImageClassificationWithTeacher": {"num_labels": 10},
    "MobileNetV1ForImageClassification": {**_STAGES},
    "MobileNetV2ForImageClassification": {**_STAGES},
    "MobileViTForImageClassification": {**_STAGES},
    "MobileViTV2ForImageClassification": {**_STAGES},
    "PerceiverForImageClassificationLearned": {
        "num_labels": 10,
        "num_latents": 16,
        "d_latents": 32,
        "num_self_attends_per_block": 2,
        "image_size": 56,
    },
    "PoolFormerForImageClassification": {"num_labels": 10, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "PvtForImageClassification": {**_STAGES, "depths": [1, 1, 1, 1]},
    "PvtV2ForImageClassification": {**_STAGES, "depths": [1, 1, 1, 1]},
    "RegNetForImageClassification": {
        "num_labels": 10,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "embedding_size": 16,
        "groups_width": 16,
    },
    "ResNetForImageClassification": {
        "num_labels": 10,
        "hidden_sizes": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "embedding_size": 16,
    },
    "SegformerForImageClassification": {"num_labels": 10, "depths": [1, 1, 1, 1]},
    "SwiftFormerForImageClassification": {"num_labels": 10},
    "SwinForImageClassification": {
        **_STAGES,
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "window_size": 4,
    },
    "Swinv2ForImageClassification": {
        **_STAGES,
        "embed_dim": 16,
        "depths": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "window_size": 4,
    },
    "TextNetForImageClassification": {"num_labels": 10},
    "ViTForImageClassification": {**_SMALL},
    "ViTMSNForImageClassification": {**_SMALL},
}
_VISION_CONFIG = ("CLIPForImageClassification", "MetaClip2ForImageClassification", "SiglipForImageClassification")
_SIDES = {
    "CvtForImageClassification": 128,
    "HieraForImageClassification": 224,
    "LevitForImageClassification": 224,
    "LevitForImageClassificationWithTeacher": 224,
    "SwiftFormerForImageClassification": 224,
    "PerceiverForImageClassificationLearned": 56,
}
_AUDIO = (
    "HubertForSequenceClassification",
    "UniSpeechForSequenceClassification",
    "UniSpeechSatForSequenceClassification",
    "Wav2Vec2ForSequenceClassification",
    "Wav2Vec2ConformerForSequenceClassification",
    "WavLMForSequenceClassification",
    "Data2VecAudioForSequenceClassification",
)
_VIDEO: dict[str, dict[str, Any]] = {
    "TimesformerForVideoClassification": {**_SMALL, "num_frames": 4},
    "VideoMAEForVideoClassification": {**_SMALL, "num_frames": 4, "tubelet_size": 2},
    "VivitForVideoClassification": {**_SMALL, "image_size": 64, "num_frames": 4, "tubelet_size": [2, 8, 8]},
    "VJEPA2ForVideoClassification": {
        "num_labels": 10,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "crop_size": 64,
        "patch_size": 16,
        "frames_per_clip": 4,
        "tubelet_size": 2,
        "pred_hidden_size": 32,
        "pred_num_attention_heads": 4,
        "pred_num_hidden_layers": 2,
        "num_pooler_layers": 1,
    },
}


def transformers_builds() -> dict[str, Build]:
    builds: dict[str, Build] = {}
    for name, options in _IMAGE.items():
        pixels = _SIDES.get(name, 64)
        builds[name] = _hf(
            name,
            options,
            lambda side=pixels: ({"pixel_values": random_like((2, 3, side, side))}, (side, side)),
        )
    for name in _VISION_CONFIG:
        small = {k: v for k, v in _SMALL.items() if k != "num_labels"}
        builds[name] = _hf(
            name,
            {"vision_config": small, "num_labels": 10},
            lambda: ({"pixel_values": random_like((2, 3, 64, 64))}, (64, 64)),
        )
    for name, options in _VIDEO.items():
        key = "pixel_values_videos" if name.startswith("VJEPA2") else "pixel_values"
        builds[name] = _hf(
            name,
            options,
            lambda key=key: ({key: random_like((2, 3, 4, 64, 64)).transpose(1, 2).contiguous()}, (4, 64, 64)),
        )
    speech = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 10,
        "conv_dim": [32] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "classifier_proj_size": 16,
        "apply_spec_augment": False,
    }
    for name in _AUDIO:
        builds[name] = _hf(name, speech, lambda: ({"input_values": torch.randn(2, 8000)}, None))
    builds["ASTForAudioClassification"] = _hf(
        "ASTForAudioClassification",
        {**{k: _SMALL[k] for k in _SMALL if k not in ("image_size",)}, "max_length": 128, "num_mel_bins": 64},
        lambda: ({"input_values": torch.randn(2, 128, 64)}, (64, 128)),  # it turns time and frequency itself
    )
    builds["SEWForSequenceClassification"] = _hf(
        "SEWForSequenceClassification",
        {**speech, "conv_dim": [32] * 13, "squeeze_factor": 2},
        lambda: ({"input_values": torch.randn(2, 16000)}, None),
    )
    builds["WhisperForAudioClassification"] = _hf(
        "WhisperForAudioClassification",
        {
            "num_labels": 10,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 40,
            "max_source_positions": 100,
            "classifier_proj_size": 16,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "use_weighted_layer_sum": False,
        },
        lambda: ({"input_features": torch.randn(2, 40, 200)}, None),
    )
    return builds


def _hf(name: str, options: dict[str, Any], inputs: Callable[[], tuple[Any, tuple[int, ...] | None]]) -> Build:
    def build() -> tuple[nn.Module, Any, tuple[int, ...] | None]:
        import transformers

        cls = getattr(transformers, name)
        model = cls(cls.config_class(**options))
        example, size = inputs()
        return model, example, size

    return build


# --- MONAI ----------------------------------------------------------------------------------------------


def monai_builds() -> dict[str, Build]:
    """Classifiers of MONAI for volumes and pictures, or none where it is not installed. Its vision transformer needs
    einops too.
    """
    try:
        from monai.networks import nets
    except ImportError:
        return {}
    size, picture = (48, 64, 64), (64, 96)
    deep: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1}
    flat: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1}

    def volume(make: Callable[[], nn.Module]) -> Build:
        return lambda: (make(), random_like((2, 1, *size)), size)

    def plane(make: Callable[[], nn.Module]) -> Build:
        return lambda: (make(), random_like((2, 1, *picture)), picture)

    builds = {
        "DenseNet121 3-D": volume(lambda: nets.DenseNet121(out_channels=10, **deep)),
        "SEResNet50 3-D": volume(lambda: nets.SEResNet50(num_classes=10, **deep)),
        "SEResNext50 3-D": volume(lambda: nets.SEResNext50(num_classes=10, **deep)),
        "EfficientNetBN 3-D": volume(
            lambda: nets.EfficientNetBN("efficientnet-b0", num_classes=10, pretrained=False, **deep)
        ),
        "resnet18 3-D": volume(lambda: nets.resnet18(spatial_dims=3, n_input_channels=1, num_classes=10)),
        "resnet50 3-D": volume(lambda: nets.resnet50(spatial_dims=3, n_input_channels=1, num_classes=10)),
        "Classifier 3-D": volume(lambda: nets.Classifier((1, *size), 10, (4, 8, 16), (2, 2, 2))),
        "Regressor 3-D": volume(lambda: nets.Regressor((1, *size), (3,), (4, 8, 16), (2, 2, 2))),
        "DenseNet121 2-D": plane(lambda: nets.DenseNet121(out_channels=10, **flat)),
        "SEResNet50 2-D": plane(lambda: nets.SEResNet50(num_classes=10, **flat)),
        "EfficientNetBN 2-D": plane(
            lambda: nets.EfficientNetBN("efficientnet-b0", num_classes=10, pretrained=False, **flat)
        ),
        "resnet18 2-D": plane(lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=10)),
        "Discriminator 2-D": plane(lambda: nets.Discriminator((1, *picture), (4, 8, 16), (2, 2, 2))),
    }
    if find_spec("einops") is not None:
        options: dict[str, Any] = {"hidden_size": 48, "mlp_dim": 96, "num_layers": 3, "num_heads": 4}
        builds["ViT 3-D"] = volume(
            lambda: nets.ViT(1, size, (16, 16, 16), classification=True, num_classes=10, **options)
        )
    return builds


# --- hand-written oddities --------------------------------------------------------------------------------


def stem(out: int = 16, rank: int = 2, inplace: bool = False) -> nn.Sequential:
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    first = 1 if rank == 3 else 3
    return nn.Sequential(conv(first, 8, 3, 2, 1), nn.ReLU(inplace), conv(8, out, 3, 2, 1), nn.ReLU(inplace))


class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = (
            stem(),
            nn.Sequential(nn.Flatten(), nn.Linear(16 * 8 * 6, 32), nn.ReLU(), nn.Linear(32, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class MaxPoolHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).amax((2, 3)))


class FunctionalEverything(nn.Module):
    """No modules but one: weights as parameters, everything else functional."""

    def __init__(self) -> None:
        super().__init__()
        self.body = stem()
        self.w, self.v = nn.Parameter(torch.randn(16, 16, 3, 3) * 0.1), nn.Parameter(torch.randn(10, 16) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(F.conv2d(self.body(x), self.w, padding=1))
        return y.mean((2, 3)) @ self.v.t()


class InPlaceAfter(nn.Module):
    """An in-place activation right after the last module, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.fc = nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.body(x)), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1))


class InstanceNormed(nn.Module):
    """An instance norm folds the batch into the channels while it works."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.PReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 8 * 6, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ViewInPlace(nn.Module):
    """Writes into a view of the map before pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).clone()
        y[:, :, 0].mul_(0.5)
        return self.fc(y.mean((2, 3)))


class HybridTokens(nn.Module):
    """A convolutional body, then tokens with a class token that alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.token = stem(), nn.Parameter(torch.randn(1, 1, 16))
        self.blocks, self.fc = nn.Sequential(Block(16), Block(16)), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        return self.fc(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))[:, 0])


class AttentionPool(nn.Module):
    """A learned query attends the map."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.query = stem(), nn.Parameter(torch.randn(1, 1, 16))
        self.attention, self.fc = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        return self.fc(
            self.attention(self.query.expand(x.shape[0], -1, -1), tokens, tokens, need_weights=False)[0][:, 0]
        )


class ClipPool(nn.Module):
    """Attention pooling as in CLIP: the mean as query, keys and values from one layer, the map handed to several
    layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body, self.q, self.kv, self.fc = stem(), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        k, v = self.kv(tokens).chunk(2, -1)
        return self.fc(F.scaled_dot_product_attention(self.q(tokens)[:, :1], k, v)[:, 0])


class LatentPool(nn.Module):
    """A learned query attends keys and values that one layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.query, self.kv = stem(), nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 32)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(self.body(x).flatten(2).transpose(1, 2)).chunk(2, -1)
        return self.fc(F.scaled_dot_product_attention(self.query.expand(x.shape[0], -1, -1), k, v)[:, 0])


class ClassToken(nn.Module):
    """A tiny vision transformer with class and register tokens before or after a grid that is not square."""

    def __init__(self, extra: int = 1, after: bool = False, dim: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.patch, self.extra = nn.Conv2d(3, dim, 4, 4), nn.Parameter(torch.randn(1, extra, dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm, self.head, self.after = nn.LayerNorm(dim), nn.Linear(dim, 10), after

    def forward(self, x: Tensor) -> Tensor:
        tokens, extra = self.patch(x).flatten(2).transpose(1, 2), self.extra.expand(x.shape[0], -1, -1)
        tokens = torch.cat([tokens, extra] if self.after else [extra, tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, -1 if self.after else 0])


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class EncoderLayers(nn.Module):
    """nn.TransformerEncoder, sequence first, without and with its fused path."""

    def __init__(self, batch_first: bool = False, class_token: bool = False) -> None:
        super().__init__()
        self.patch, self.batch_first = nn.Conv2d(3, 16, 4, 4), batch_first
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first), 2)
        self.head, self.extra = nn.Linear(16, 10), nn.Parameter(torch.randn(1, 1, 16)) if class_token else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2)
        if self.extra is not None:
            tokens = torch.cat([self.extra.expand(x.shape[0], -1, -1), tokens.transpose(1, 2)], 1)
            return self.head(self.encoder(tokens)[:, 0])
        tokens = self.encoder(tokens.transpose(1, 2) if self.batch_first else tokens.permute(2, 0, 1))
        return self.head(tokens.mean(1 if self.batch_first else 0))


class FramesInBatch(nn.Module):
    """A 2-D network over the frames of a clip (N, T, 3, H, W), then a mean or a GRU over time."""

    def __init__(self, recurrent: bool = False) -> None:
        super().__init__()
        self.body, self.fc = stem(), nn.Linear(16, 10)
        self.gru = nn.GRU(16, 16, batch_first=True) if recurrent else None

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        y = self.body(x.flatten(0, 1)).mean((2, 3)).view(n, t, -1)
        return self.fc(y.mean(1) if self.gru is None else self.gru(y)[0][:, -1])


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(rank=1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(2))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(rank=3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3, 4)))


class DictOut(nn.Module):
    """Keyword inputs, a dict of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.age, self.gender = stem(), nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, *, image: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        y = self.body(image * scale).mean((2, 3))
        return {"age": self.age(y), "gender": self.gender(y)}


class KeywordInside(nn.Module):
    """Hands the map on by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 3, 4, 4) * 0.1)
        self.pool = Pool()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(features=F.conv2d(x, self.weight, stride=4)))


class Pool(nn.Module):
    def forward(self, *, features: Tensor) -> Tensor:
        return features.mean((2, 3))


class TwoInputs(nn.Module):
    """A picture and a signal that meet as vectors: one block each."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes, self.ears, self.fc = stem(), stem(rank=1), nn.Linear(32, 10)

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        return self.fc(torch.cat([self.eyes(image).mean((2, 3)), self.ears(sound).mean(2)], 1))


class MultiScale(nn.Module):
    """The head sees two stages side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = stem(), nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.fc(torch.cat([y.mean((2, 3)), self.second(y).mean((2, 3))], 1))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 16)
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(F.gelu(self.mix(self.patch(x).permute(0, 2, 3, 1))))
        return self.fc(y.mean((1, 2)))


class SharedBody(nn.Module):
    """One body runs twice in a pass, on the picture and on its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last, self.fc = stem(), nn.Conv2d(32, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.body(x), self.body(x.flip(-1)).flip(-1)], 1)
        return self.fc(self.last(y).relu().mean((2, 3)))


class Regression(nn.Module):
    """One number per sample, of shape (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))[:, 0]


class LoRA(nn.Module):
    """A linear layer with a low-rank adapter beside it, as PEFT puts it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base, self.down, self.up = (
            base,
            nn.Linear(base.in_features, rank, False),
            nn.Linear(rank, base.out_features, False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class AdaptedViT(ClassToken):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.mlp[0] = LoRA(block.mlp[0])
        self.head = LoRA(self.head)


class Branches(nn.Module):
    """Two token branches from the picture on, which exchange class tokens, as in CrossViT: no single map that
    everything passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(3, 16, 8, 8)
        self.extra = nn.Parameter(torch.randn(2, 1, 1, 16))
        self.stages = nn.Sequential(Exchange(), Exchange())
        self.heads = nn.ModuleList(nn.Linear(16, 10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            torch.cat([extra.expand(x.shape[0], -1, -1), patch(x).flatten(2).transpose(1, 2)], 1)
            for patch, extra in zip((self.fine, self.coarse), self.extra, strict=True)
        ]
        return torch.stack([head(b[:, 0]) for head, b in zip(self.heads, self.stages(branches), strict=True)]).mean(0)


class Exchange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList(Block(16) for _ in range(2))
        self.other = nn.ModuleList(nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        first, second = (block(branch) for block, branch in zip(self.own, branches, strict=True))
        made = []
        for attention, mine, theirs in zip(self.other, (first, second), (second, first), strict=True):
            fused = mine[:, :1] + attention(mine[:, :1], theirs, theirs, need_weights=False)[0]
            made.append(torch.cat([fused, mine[:, 1:]], 1))
        return made


class SoftmaxOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = stem(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3))).softmax(1)


def oddities() -> dict[str, Build]:
    image, size = (lambda: random_like((2, 3, 32, 24))), (32, 24)
    clip = (2, 5, 3, 32, 24)
    return {
        "flatten and MLP head": lambda: (Flatten(), image(), size),
        "max pooling": lambda: (MaxPoolHead(), image(), size),
        "softmax at the end": lambda: (SoftmaxOut(), image(), size),
        "functional layers": lambda: (FunctionalEverything(), image(), size),
        "in-place activation after the map": lambda: (InPlaceAfter(), image(), size),
        "write into a view of the map": lambda: (ViewInPlace(), image(), size),
        "instance norm": lambda: (InstanceNormed(), image(), size),
        "hybrid, class token": lambda: (HybridTokens(), image(), size),
        "attention pooling": lambda: (AttentionPool(), image(), size),
        "attention pooling, mean as query": lambda: (ClipPool(), image(), size),
        "attention pooling, keys and values in one": lambda: (LatentPool(), image(), size),
        "class token": lambda: (ClassToken(), image(), size),
        "class and 4 registers": lambda: (ClassToken(5), image(), size),
        "class token after the grid": lambda: (ClassToken(1, after=True), image(), size),
        "LoRA adapters": lambda: (AdaptedViT(), image(), size),
        "encoder, sequence first": lambda: (EncoderLayers(), image(), size),
        "encoder, fused path": lambda: (EncoderLayers(batch_first=True), image(), size),
        "encoder, fused path, class token": lambda: (EncoderLayers(batch_first=True, class_token=True), image(), size),
        "frames in the batch": lambda: (FramesInBatch(), torch.randn(clip), (5, 32, 24)),
        "frames in the batch, GRU": lambda: (FramesInBatch(True), torch.randn(clip), (5, 32, 24)),
        "1-D signal": lambda: (Signal(), random_like((2, 3, 128)), (128,)),
        "3-D volume": lambda: (Volume(), random_like((2, 1, 16, 24, 20)), (16, 24, 20)),
        "dict of outputs, keyword input": lambda: (DictOut(), {"image": image()}, size),
        "map handed on by keyword": lambda: (KeywordInside(), image(), size),
        "two inputs": lambda: (TwoInputs(), (image(), random_like((2, 3, 128))), None),
        "branches that exchange class tokens": lambda: (Branches(), random_like((2, 3, 32, 24)), size),
        "two scales": lambda: (MultiScale(), image(), size),
        "channels last": lambda: (ChannelsLast(), image(), size),
        "shared body": lambda: (SharedBody(), image(), size),
        "regression": lambda: (Regression(), image(), size),
        "multi-output list": lambda: (
            nn.Sequential(stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
            image(),
            size,
        ),
    }
