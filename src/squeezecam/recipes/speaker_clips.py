"""Tracks of AVA-ActiveSpeaker or WASD as batches: clips of like length together, varied at random for training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from squeezecam.data.ava import frame_slots
from squeezecam.data.ava_folder import AvaFolder, Track, rows_of_frames
from squeezecam.data.mfcc import ROWS_PER_FRAME, mfcc
from squeezecam.errors import InputError

BATCH_FRAMES = 2000
"""Frames in a batch, as published for Light-ASD."""
NOISE_DB = (-5.0, 5.0)
"""Level of a clip over the other voice that is mixed in."""
SMALLEST_CROP, LARGEST_TURN = 0.7, 15.0
"""Of the random crop, as a share of the side, and of the random rotation, in degrees."""

Batch = tuple[Tensor, ...]
"""``(faces, [bodies,] mfcc, speaking)``: (B, T, s, s) uint8 each, (B, 4T, 13), (B, T) int64."""


class Groups(Dataset[Batch]):
    """Batches of an `AvaFolder`: tracks of like length, as many as fit ``frames``, cut to the shortest of them.

    Takes the place of the batch: ``DataLoader(groups, batch_size=None, shuffle=True)``. A track longer than ``frames``
    is alone.

    Args:
        folder: of tracks; its ``require`` says which streams there are.
        frames: most frames in a batch; None: one whole track per batch, in the order of the annotations.
        vary: per clip, one of nothing, mirror, random crop, rotation; and for every second clip the voice of another
            clip of the batch mixed in (Tao et al., MM 2021; Liao et al., CVPR 2023).

    """

    def __init__(self, folder: AvaFolder, frames: int | None = BATCH_FRAMES, *, vary: bool = False) -> None:
        if not len(folder):
            raise InputError(f"{folder.root} holds no track of '{folder.split}'")
        if frames is not None and frames < 1:
            raise InputError(f"a batch needs at least one frame, got {frames}")
        self.folder, self.vary = folder, vary
        self.groups = [[i] for i in range(len(folder))] if frames is None else _grouped(folder, frames)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Batch:
        """The crops and the sound are read now; missing ones are an `InputError`."""
        tracks = [self.folder[i] for i in self.groups[index]]
        length = min(len(track.entity) for track in tracks)
        faces: list[Tensor] = []
        bodies: list[Tensor] = []
        sounds, spoken = [], []
        for i, track in enumerate(tracks):
            other = tracks[(i + 1 + int(torch.randint(max(1, len(tracks) - 1), ()))) % len(tracks)]
            for kept, crops in ((faces, track.faces), (bodies, track.bodies)):
                if crops is not None:
                    kept.append(varied(crops[:length]) if self.vary else crops[:length])
            sounds.append(
                _sound(track, other if self.vary and torch.rand(()) < 0.5 else None)[: ROWS_PER_FRAME * length]
            )
            spoken.append(track.speaking[:length].long())
        streams = [faces, bodies, sounds] if "body" in self.folder.require else [faces, sounds]
        return *(torch.stack(stream) for stream in streams), torch.stack(spoken)


def _grouped(folder: AvaFolder, frames: int) -> list[list[int]]:
    lengths = [len(entity) for entity in folder.entities]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups, start = [], 0
    while start < len(order):
        count = max(1, frames // lengths[order[start]])
        groups.append(order[start : start + count])
        start += count
    return groups


def varied(crops: Tensor) -> Tensor:
    """A clip ``(T, s, s)`` as it is, mirrored, cropped or turned, one of the four at random, all frames alike."""
    kind = int(torch.randint(4, ()))
    if kind == 0:
        return crops
    if kind == 1:
        return crops.flip(-1)
    if kind == 2:
        share = SMALLEST_CROP + (1 - SMALLEST_CROP) * float(torch.rand(()))
        x, y = ((1 - share) * (2 * torch.rand(2) - 1)).tolist()
        place = torch.tensor([[share, 0.0, x], [0.0, share, y]])
    else:
        angle = math.radians(LARGEST_TURN) * (2 * float(torch.rand(())) - 1)
        place = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    frames = crops[None].float()
    grid = F.affine_grid(place[None], [1, *frames.shape[1:]], align_corners=False)
    return F.grid_sample(frames, grid, align_corners=False)[0].round().clamp(0, 255).to(torch.uint8)


def _sound(track: Track, other: Track | None) -> Tensor:
    """Coefficients ``(4T, 13)``, with the voice of ``other`` mixed in."""
    assert track.mfcc is not None
    if other is None or track.audio is None or other.audio is None or other is track:
        return track.mfcc
    repeats = -(-len(track.audio) // len(other.audio))
    voice = other.audio.repeat(repeats)[: len(track.audio)]
    low, high = NOISE_DB
    level = low + (high - low) * float(torch.rand(()))
    power, noise = track.audio.square().mean(), voice.square().mean()
    factor = (power / noise.clamp_min(1e-12) * 10 ** (-level / 10)).sqrt()
    slots, fps = frame_slots(track.entity.timestamps, track.fps)
    return rows_of_frames(mfcc(track.audio + factor * voice, fps=fps), slots)
