"""Active-speaker models: is the person whose face is seen the one who is heard, frame by frame?

`LightASD` follows Liao et al., *A Light Weight Model for Active Speaker Detection*, CVPR 2023: two encoders of
factorised convolutions, their sum, a forward and a backward GRU, one linear layer. The maps that an SE block gates
are outputs of modules of their own: ``visual.block3`` (B, 128, T, 14, 14) and ``audio.block3`` (B, 128, 13, T).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam.errors import InputError, ModelError

FACE_SIZE = 112
"""Height and width in pixels of the face (and body) crops."""
MFCC_PER_FRAME = 4
"""Rows of cepstral coefficients (100 Hz) per video frame (25 Hz)."""
FEATURES = 128
"""Channels that every stream ends in."""
UNUSED_KEYS = ("lossV.FC.weight", "lossV.FC.bias")
"""Keys of the published checkpoint that only training needs: the auxiliary head on the visual stream."""

# Mean and standard deviation of gray face pixels in [0, 1], as this family of models was trained with.
_PIXEL_MEAN, _PIXEL_STD = 0.4161, 0.1688
# The published batch normalisation: eps is part of the function and must agree with the weights.
_NORM_EPS, _NORM_MOMENTUM = 1e-3, 1e-2


class FactorisedBlock(nn.Module):
    """Two paths, 3 and 5 wide, of a spatial (or frequency) and a temporal convolution, summed and mixed by a 1x1 one.

    Takes (B, C_in, T, H, W) when `video`, else (B, C_in, F, T); only the spatial axes are strided.
    """

    def __init__(self, in_channels: int, out_channels: int, *, video: bool, stride: int = 1) -> None:
        super().__init__()
        self.path3 = self._path(in_channels, out_channels, 3, video, stride)
        self.path5 = self._path(in_channels, out_channels, 5, video, stride)
        self.mix = nn.Sequential(*_convolution(out_channels, out_channels, (1, 1, 1) if video else (1, 1)))

    @staticmethod
    def _path(in_channels: int, out_channels: int, width: int, video: bool, stride: int) -> nn.Sequential:
        across = (1, width, width) if video else (width, 1)
        along = (width, 1, 1) if video else (1, width)
        step = (1, stride, stride) if video else (stride, 1)
        return nn.Sequential(
            *_convolution(in_channels, out_channels, across, step), *_convolution(out_channels, out_channels, along)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, ...), rectified, so never negative."""
        out: Tensor = self.mix(self.path3(x) + self.path5(x))
        return out


def _convolution(
    in_channels: int, out_channels: int, kernel: tuple[int, ...], stride: tuple[int, ...] | None = None
) -> list[nn.Module]:
    """Convolution that keeps the size before striding, batch normalisation, ReLU; 2-D or 3-D by the kernel's length."""
    padding = tuple(k // 2 for k in kernel)
    stride = stride or (1,) * len(kernel)
    conv: nn.Module
    norm: nn.Module
    if len(kernel) == 3:
        conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        norm = nn.BatchNorm3d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)
    else:
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
        norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)
    return [conv, norm, nn.ReLU()]


class VisualEncoder(nn.Module):
    """Gray crops (B, T, 112, 112), uint8 or float in 0..255, to features (B, T, 128).

    `block3` gives (B, 128, T, 14, 14); the maximum over its 14x14 positions is the feature. Other sizes work, in
    steps of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = FactorisedBlock(1, 32, video=True, stride=2)
        self.pool1 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.block2 = FactorisedBlock(32, 64, video=True)
        self.pool2 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.block3 = FactorisedBlock(64, FEATURES, video=True)

    def forward(self, crops: Tensor) -> Tensor:
        """Return one 128-vector per frame."""
        x = crops.to(_dtype(self)).unsqueeze(1)
        x = (x / 255 - _PIXEL_MEAN) / _PIXEL_STD
        x = self.block3(self.pool2(self.block2(self.pool1(self.block1(x)))))
        features: Tensor = x.amax(dim=(3, 4)).transpose(1, 2)
        return features


class AudioEncoder(nn.Module):
    """Cepstral coefficients (B, 4T, 13) at 100 Hz to features (B, T, 128).

    `block3` gives (B, 128, 13, T); the mean over its 13 coefficients is the feature.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1 = FactorisedBlock(1, 32, video=False)
        self.pool1 = nn.MaxPool2d((1, 3), stride=(1, 2), padding=(0, 1))
        self.block2 = FactorisedBlock(32, 64, video=False)
        self.pool2 = nn.MaxPool2d((1, 3), stride=(1, 2), padding=(0, 1))
        self.block3 = FactorisedBlock(64, FEATURES, video=False)

    def forward(self, mfcc: Tensor) -> Tensor:
        """Return one 128-vector per video frame."""
        x = mfcc.to(_dtype(self)).transpose(1, 2).unsqueeze(1)
        x = self.block3(self.pool2(self.block2(self.pool1(self.block1(x)))))
        features: Tensor = x.mean(dim=2).transpose(1, 2)
        return features


class BackAndForth(nn.Module):
    """A GRU forwards in time, then a second one backwards over its output: (B, T, C) to (B, T, C), GELU after each."""

    def __init__(self, channels: int = FEATURES) -> None:
        super().__init__()
        self.forwards = nn.GRU(channels, channels, batch_first=True)
        self.backwards = nn.GRU(channels, channels, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return features that know what came before and what comes after."""
        x = F.gelu(self.forwards(x)[0]).flip(1)
        return F.gelu(self.backwards(x)[0].flip(1))


class LightASD(nn.Module):
    """Light-ASD (Liao et al., CVPR 2023), 1.02 M parameters: face crops and sound to speaking logits per frame.

    Call with `faces` (B, T, 112, 112), gray, uint8 or float in 0..255, at 25 frames a second, and `mfcc` (B, 4T, 13)
    at 100 Hz (`squeezecam.data.mfcc.mfcc`). Returns logits (B, T, 2); class 1 is "speaking". `softmax(-1)[..., 1]` is
    the probability, `speaking` the published decision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visual = VisualEncoder()
        self.audio = AudioEncoder()
        self.recurrent = BackAndForth()
        self.classifier = nn.Linear(FEATURES, 2)

    def forward(self, faces: Tensor, mfcc: Tensor) -> Tensor:
        """Return logits (B, T, 2). Raises `InputError` where shapes or lengths do not fit."""
        check_crops("faces", faces)
        check_mfcc(mfcc, faces.shape[0], faces.shape[1])
        logits: Tensor = self.classifier(self.recurrent(self.visual(faces) + self.audio(mfcc)))
        return logits


def speaking(logits: Tensor) -> Tensor:
    """Decide per frame, (..., 2) to bool (...): the speaking logit is positive.

    This is the published threshold for this family of models; ``argmax`` weighs the other logit in, and decides a
    frame in a hundred differently.
    """
    return logits[..., 1] > 0


def load_light_asd(path: str | Path) -> LightASD:
    """Return a `LightASD` in evaluation mode with the weights of a checkpoint.

    `path` is a state dict written by torch (read with ``weights_only=True``) or a ``.safetensors`` file, with the
    keys of the published checkpoint or with those of `LightASD.state_dict`. Every key is accounted for: `UNUSED_KEYS`
    may be there and are left out; any other missing, additional or misshapen entry raises `ModelError`.
    """
    model = LightASD()
    weights = rename_published(_read_weights(Path(path)))
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    if missing or surplus:
        raise ModelError(
            f"{path} does not hold Light-ASD weights: {len(missing)} keys missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}"
        )
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise ModelError(f"{path}: {key} has shape {tuple(value.shape)}; expected {tuple(expected[key].shape)}")
    model.load_state_dict(weights)
    return model.eval()


_PUBLISHED_PREFIXES = {
    "model.visualEncoder.": "visual.",
    "model.audioEncoder.": "audio.",
    "model.GRU.gru_forward.": "recurrent.forwards.",
    "model.GRU.gru_backward.": "recurrent.backwards.",
    "lossAV.FC.": "classifier.",
}
_PUBLISHED_LAYER = re.compile(r"(block\d)\.(bn_)?(?:(s|m|t)_([35])|last)\.")


def rename_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map the published checkpoint's keys to those of `LightASD`; `UNUSED_KEYS` are left out, others kept."""
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key in UNUSED_KEYS:
            continue
        prefix = next((p for p in _PUBLISHED_PREFIXES if key.startswith(p)), "")
        own = _PUBLISHED_PREFIXES.get(prefix, "") + key[len(prefix) :]
        renamed[_PUBLISHED_LAYER.sub(_own_layer, own)] = value
    return renamed


def _own_layer(match: re.Match[str]) -> str:
    """Name one layer: s (space) or m (MFCC) is the first convolution of a path, t (time) the second, `last` the mix."""
    block, norm, axis, width = match.groups()
    position = (3 if axis == "t" else 0) + (1 if norm else 0)
    return f"{block}.mix.{position}." if axis is None else f"{block}.path{width}.{position}."


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many types, by the reader and by the damage; all mean the same here
        raise ModelError(f"{path} cannot be read as weights (a state dict or .safetensors): {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ModelError(f"{path} holds {type(weights).__name__}; expected a state dict of tensors")
    return weights


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def check_crops(name: str, crops: Tensor) -> None:
    """Raise `InputError` unless `crops` are (B, T, H, W)."""
    if crops.dim() != 4 or crops.shape[1] < 1 or crops.shape[2] < 8 or crops.shape[3] < 8:
        raise InputError(
            f"{name} have shape {tuple(crops.shape)}; expected (batch, frames, {FACE_SIZE}, {FACE_SIZE}), gray, 0..255"
        )


def check_mfcc(mfcc: Tensor, batch: int, frames: int) -> None:
    """Raise `InputError` unless `mfcc` is (batch, 4 * frames, 13)."""
    expected = (batch, MFCC_PER_FRAME * frames, 13)
    if tuple(mfcc.shape) != expected:
        raise InputError(
            f"mfcc has shape {tuple(mfcc.shape)}; expected {expected}: "
            f"4 rows (100 Hz) for each of the {frames} frames (25 Hz)"
        )
