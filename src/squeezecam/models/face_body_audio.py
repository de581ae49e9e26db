"""A three-stream active-speaker model: face, body and audio, concatenated, with self-attention over time.

`FaceBodyAudioASD` is compact, in the manner of Roxo et al., *BIAS: A Body-based Interpretable Active Speaker
Approach*, arXiv 2412.05150, with the encoders of Light-ASD. The maps that an SE block gates are outputs of modules of
their own: ``face.block3`` and ``body.block3`` (B, 128, T, 14, 14), ``audio.block3`` (B, 128, 13, T) and ``fusion``
(B, T, 384).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam.errors import InputError
from squeezecam.models.light_asd import (
    FEATURES,
    MFCC_PER_FRAME,
    AudioEncoder,
    VisualEncoder,
    check_crops,
    check_mfcc,
)


class Concatenation(nn.Module):
    """Joins streams of equal length on the channel axis; a module, so that its output can be named and gated."""

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        """Return (B, T, sum of channels)."""
        return torch.cat(tuple(streams), dim=-1)


class TemporalAttention(nn.Module):
    """One post-norm transformer layer over time, (B, T, C) to (B, T, C).

    No position code: the encoders carry the local order.
    """

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.project = nn.Linear(channels, 3 * channels)
        self.join = nn.Linear(channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * channels, channels)
        )
        self.norm2 = nn.LayerNorm(channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return features in which every frame has seen the whole clip."""
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.project(x).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        x = self.norm1(x + self.drop(self.join(seen.transpose(1, 2).flatten(2))))
        out: Tensor = self.norm2(x + self.drop(self.feed(x)))
        return out


class FaceBodyAudioASD(nn.Module):
    """Face, body and audio, 128 channels each, concatenated in that order; self-attention over time; linear(384, 2).

    The fusion and the classifier are those of BIAS (Roxo et al., arXiv 2412.05150); the encoders are those of
    Light-ASD, so that the model trains on modest hardware. A stream that is missing enters the fusion as zeros.
    """

    streams = ("face", "body", "audio")

    def __init__(self, *, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.face = VisualEncoder()
        self.body = VisualEncoder()
        self.audio = AudioEncoder()
        self.fusion = Concatenation()
        self.attention = TemporalAttention(len(self.streams) * FEATURES, heads, dropout)
        self.classifier = nn.Linear(len(self.streams) * FEATURES, 2)

    def forward(
        self,
        faces: Tensor | None = None,
        bodies: Tensor | None = None,
        mfcc: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, T, 2), class 1 "speaking".

        `faces`, `bodies` (B, T, 112, 112) and `mfcc` (B, 4T, 13) as for `LightASD`; at least one must be given.
        `present` (B, 3), bool, says per sample which of face, body and audio there is, for batches in which some miss
        a stream.
        """
        batch, frames = self._extent(faces, bodies, mfcc)
        given = (
            None if faces is None else self.face(faces),
            None if bodies is None else self.body(bodies),
            None if mfcc is None else self.audio(mfcc),
        )
        like = next(f for f in given if f is not None)
        features = [like.new_zeros(batch, frames, FEATURES) if f is None else f for f in given]
        if present is not None:
            if tuple(present.shape) != (batch, len(self.streams)):
                raise InputError(f"present has shape {tuple(present.shape)}; expected ({batch}, {len(self.streams)})")
            # where, not a product: whatever stands in for a missing stream may hold NaN
            features = [torch.where(present[:, i, None, None].bool(), f, 0.0) for i, f in enumerate(features)]
        logits: Tensor = self.classifier(self.attention(self.fusion(features)))
        return logits

    @staticmethod
    def _extent(faces: Tensor | None, bodies: Tensor | None, mfcc: Tensor | None) -> tuple[int, int]:
        """Check the streams that are there against each other; return batch size and number of frames."""
        extents: dict[str, tuple[int, int]] = {}
        for name, crops in (("faces", faces), ("bodies", bodies)):
            if crops is not None:
                check_crops(name, crops)
                extents[name] = (crops.shape[0], crops.shape[1])
        if not extents and mfcc is None:
            raise InputError("no stream was given; expected at least one of faces, bodies and mfcc")
        # pairwise, not by a set: under export the sizes are symbols, which do not hash
        if len(extents) == 2 and extents["faces"] != extents["bodies"]:
            raise InputError(f"streams differ in (batch, frames): {extents}; give crops of the same frames")
        batch, frames = next(iter(extents.values())) if extents else _extent_of_mfcc(mfcc)
        if mfcc is not None:
            check_mfcc(mfcc, batch, frames)
        return batch, frames


def _extent_of_mfcc(mfcc: Tensor | None) -> tuple[int, int]:
    if mfcc is None or mfcc.dim() != 3 or mfcc.shape[1] == 0 or mfcc.shape[1] % MFCC_PER_FRAME:
        raise InputError(
            f"mfcc has shape {None if mfcc is None else tuple(mfcc.shape)}; expected (batch, 4 x frames, 13)"
        )
    return mfcc.shape[0], mfcc.shape[1] // MFCC_PER_FRAME
