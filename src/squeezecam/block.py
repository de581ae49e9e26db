"""The squeeze-and-excitation block: any rank, any channel axis, per sample."""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezecam.errors import InputError

IDENTITY_GATE = 0.5
"""Gate of a block whose second layer is zero: ``sigmoid(0)``. Features are scaled by ``s / IDENTITY_GATE``."""


class SEBlock(nn.Module):
    """One squeeze-and-excitation block without biases.

    ``z = mean over positions of u``, ``s = sigmoid(W2 relu(W1 z))`` and ``x = (s / 0.5) u`` (Hu, Shen, Sun,
    *Squeeze-and-Excitation Networks*, CVPR 2018, equations 2 to 4; Roxo et al., arXiv 2412.05134). The division by 0.5
    is ours: with the second layer at zero, as it is when new, the block is the identity to the bit and still has a
    gradient. The *SE vector* that is reported stays ``s``.

    Args:
        channels: number of channels C of the feature map.
        reduction: C divided by the hidden width, which is at least 1. The published value is 16.
        hidden: the hidden width itself; overrides ``reduction``.
        channel_axis: axis of the channels in ``features``. Axis 0 is the batch; all others are positions.

    Raises:
        InputError: a number below 1; in use, features that do not have the channels on that axis.

    """

    _left_start: tuple[int, int] | None = None
    """Address and version of the second layer's weight when it was last seen to have left its start."""

    def __init__(self, channels: int, reduction: int = 16, *, hidden: int | None = None, channel_axis: int = 1) -> None:
        super().__init__()
        if channels < 1:
            raise InputError(f"an SE block needs at least one channel, got channels={channels}")
        if reduction < 1 or (hidden is not None and hidden < 1):
            raise InputError(f"reduction and hidden must be at least 1, got reduction={reduction}, hidden={hidden}")
        self.channels = channels
        self.hidden = hidden if hidden is not None else max(1, channels // reduction)
        self.channel_axis = channel_axis
        self.reduce = nn.Linear(channels, self.hidden, bias=False)
        self.expand = nn.Linear(self.hidden, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the identity start.

        Squeezed vectors of rectified maps all point much the same way, and a hidden unit that is silent for one is
        silent for all: a narrow block could be dead for good. So the second unit starts as the opposite of the first
        (a single one with positive weights), and one of them is alive whatever comes.
        """
        nn.init.kaiming_uniform_(self.reduce.weight, a=math.sqrt(5))
        nn.init.zeros_(self.expand.weight)
        with torch.no_grad():
            if self.hidden == 1:
                self.reduce.weight.abs_()
            else:
                self.reduce.weight[1] = -self.reduce.weight[0]

    def squeeze(self, features: Tensor) -> Tensor:
        """Mean over all positions of each sample: ``(N, ..., C, ...)`` to ``(N, C)``, in at least float32."""
        axis = self.channel_axis % max(features.ndim, 1)
        if features.ndim < 2 or axis == 0 or features.shape[axis] != self.channels:
            raise InputError(
                f"features of shape {tuple(features.shape)} do not have {self.channels} channels "
                f"on axis {self.channel_axis}"
            )
        return squeeze_positions(features.movedim(axis, 1))

    def logits(self, squeezed: Tensor) -> Tensor:
        """``W2 relu(W1 z)`` for vectors ``(N, C)``, in at least float32 also under autocast and in a half block."""
        first, second = self.reduce.weight, self.expand.weight
        dtype = torch.promote_types(first.dtype, torch.float32)  # half would drown the narrow gates
        with full_precision(squeezed.device):
            hidden = torch.relu(F.linear(squeezed.to(dtype), first.to(dtype)))
            return F.linear(hidden, second.to(dtype))

    def gates(self, squeezed: Tensor) -> Tensor:
        """The SE vector ``s`` in (0, 1) for squeezed vectors ``(N, C)``."""
        return torch.sigmoid(self.logits(squeezed))

    def scale(self, features: Tensor, gates: Tensor) -> Tensor:
        """Features times ``s / 0.5``, in the features' own dtype."""
        shape = [1] * features.ndim
        shape[0], shape[self.channel_axis % features.ndim] = gates.shape
        return features * (gates / IDENTITY_GATE).to(features.dtype).view(shape)

    def forward(self, features: Tensor) -> Tensor:
        """Scale ``features`` by their own gates; the shape is kept."""
        return self.scale(features, self.gates(self.squeeze(features)))

    @property
    def fitted(self) -> bool:
        """Whether the second layer has left its zero start.

        Reads one number from the device, once: that a weight has left it is remembered until somebody writes to it.
        """
        weight = self.expand.weight
        if weight.is_inference():  # nobody counts what is written to it
            return bool(weight.ne(0).any())
        state = (weight.data_ptr(), weight._version)
        if self._left_start != state:
            self._left_start = state if bool(weight.detach().ne(0).any()) else None
        return self._left_start is not None

    def extra_repr(self) -> str:
        """Channels, hidden width and where the channels are."""
        return f"channels={self.channels}, hidden={self.hidden}, channel_axis={self.channel_axis}"


def squeeze_positions(features: Tensor) -> Tensor:
    """Mean over the positions of canonical features ``(N, C, *S)``: ``(N, C)`` in at least float32."""
    flat = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)
    dtype = torch.promote_types(features.dtype, torch.float32)
    return flat.mean(dim=2, dtype=dtype)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """No autocast on ``device`` while the block runs: what is computed in float32 stays in float32."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
