"""From sound to the cepstral coefficients that active-speaker models take: WAV reading, resampling, MFCC, alignment.

The coefficients are those of Davis and Mermelstein (1980) in the conventions of the python_speech_features package,
which the models of this family were trained on: no window function, power spectrum over NFFT, triangular mel filters
on whole FFT bins, orthonormal cosine transform, liftering, and the log energy in place of the zeroth coefficient.
"""

from __future__ import annotations

import io
import math
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from squeezecam.errors import InputError

SAMPLE_RATE = 16_000
"""Samples per second that `mfcc` is meant for."""
ROWS_PER_FRAME = 4
"""Rows of coefficients per video frame, at any frame rate: the window and the step scale with it."""

# Smallest number that a logarithm is taken of, as in the reference implementation.
_EPS = float(np.finfo(np.float64).eps)


def mfcc(
    samples: Tensor | NDArray[np.generic],
    *,
    fps: float = 25.0,
    sample_rate: int = SAMPLE_RATE,
    coefficients: int = 13,
    filters: int = 26,
    lifter: int = 22,
    pre_emphasis: float = 0.97,
) -> Tensor:
    """Return mel-frequency cepstral coefficients, (..., rows, coefficients), float32.

    `samples` (..., n): int16 as stored, or floating point in [-1, 1]. The window is ``0.025 * 25 / fps`` seconds and
    the step ``0.010 * 25 / fps``, so that four rows belong to each video frame: 25 ms and 10 ms at 25 frames a
    second. NFFT is the smallest power of two that holds the window (512 at 25 frames a second). Computed in float64.
    """
    x = _full_scale(samples)
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps is {fps}; expected a positive number of frames a second")
    if not 1 <= coefficients <= filters:
        raise InputError(f"{coefficients} coefficients from {filters} filters; expected at most one per filter")
    seconds = 0.025 * 25 / fps
    length, step = _round_half_up(seconds * sample_rate), _round_half_up(0.010 * 25 / fps * sample_rate)
    if step < 1:
        raise InputError(f"fps {fps} leaves no sample per step at {sample_rate} Hz")
    nfft = 1 << max(0, math.ceil(math.log2(seconds * sample_rate)))

    x = torch.cat((x[..., :1], x[..., 1:] - pre_emphasis * x[..., :-1]), dim=-1)
    rows = 1 + max(0, math.ceil((x.shape[-1] - length) / step))
    x = F.pad(x, (0, max(0, (rows - 1) * step + length - x.shape[-1])))
    # a window longer by rounding than NFFT is cut by the transform, as in the reference
    power = torch.fft.rfft(x.unfold(-1, length, step)[..., :rows, :], n=nfft).abs().square() / nfft
    energy = _positive(power.sum(dim=-1))
    bank = torch.from_numpy(_mel_bank(filters, nfft, sample_rate)).to(x.device)
    cosines = torch.from_numpy(_cosines(coefficients, filters)).to(x.device)
    cepstrum = _positive(power @ bank.T).log() @ cosines.T
    order = torch.arange(coefficients, dtype=torch.float64, device=x.device)
    if lifter > 0:
        cepstrum = cepstrum * (1 + lifter / 2 * torch.sin(math.pi * order / lifter))
    return torch.cat((energy.log().unsqueeze(-1), cepstrum[..., 1:]), dim=-1).to(torch.float32)


def align(coefficients: Tensor, frames: int) -> Tensor:
    """Return exactly four rows per video frame, (..., 4 * frames, C), from (..., rows, C) that begin with the first.

    Surplus rows are cut. Missing rows at the end are filled by starting over from the first row, which is what the
    models were trained with (a cut of the sound to the last frame's beginning leaves the last frame short of a few
    rows).
    """
    rows, wanted = coefficients.shape[-2], ROWS_PER_FRAME * frames
    if frames < 1 or rows < 1:
        raise InputError(f"{rows} rows of coefficients for {frames} frames; expected at least one of each")
    if rows >= wanted:
        return coefficients[..., :wanted, :]
    return coefficients[..., torch.arange(wanted, device=coefficients.device) % rows, :]


def resample(samples: Tensor, source: int, target: int = SAMPLE_RATE, *, zero_crossings: int = 24) -> Tensor:
    """Return `samples` (..., n), floating point, at another rate: (..., ceil(n * target / source)), same dtype.

    A polyphase filter bank: a sinc with `zero_crossings` on either side under a Kaiser window (beta 9), its cutoff at
    0.95 of the lower of the two Nyquist frequencies, each phase scaled to unit gain at zero frequency. Outside the
    signal there is silence.
    """
    if source < 1 or target < 1:
        raise InputError(f"cannot resample from {source} Hz to {target} Hz; expected positive rates")
    if not samples.is_floating_point() or samples.dim() < 1:
        raise InputError(f"resample takes floating-point samples (..., n); got {samples.dtype} {tuple(samples.shape)}")
    if source == target or samples.shape[-1] == 0:
        return samples
    common = math.gcd(source, target)
    up, down = target // common, source // common
    bank = torch.from_numpy(_sinc_bank(up, down, zero_crossings)).to(samples.device)
    before = bank.shape[1] // 2 - 1  # taps before the middle one: see _sinc_bank
    padded = F.pad(samples.to(torch.float64), (before, before + 1))
    length = -(-samples.shape[-1] * up // down)
    taps = torch.arange(bank.shape[1], device=samples.device)
    pieces = []
    # in pieces: the gathered samples take as many numbers as there are taps for each one that comes out
    for start in range(0, length, 1 << 15):
        n = torch.arange(start, min(start + (1 << 15), length), device=samples.device)
        nearest = n * down // up
        pieces.append((padded[..., nearest[:, None] + taps] * bank[n * down % up]).sum(dim=-1))
    return torch.cat(pieces, dim=-1).to(samples.dtype)


def read_wav(path: str | Path, *, sample_rate: int | None = SAMPLE_RATE) -> tuple[Tensor, int]:
    """Return the samples of a PCM WAV file, mono, float32 in [-1, 1], shape (n,), and their rate in Hz.

    8, 16, 24 and 32 bits; channels are averaged; resampled to `sample_rate` unless that is None. Raises `InputError`
    for what is not PCM.
    """
    path = Path(path)
    try:
        with wave.open(io.BytesIO(_as_plain_pcm(path.read_bytes()))) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (wave.Error, EOFError) as error:
        raise InputError(
            f"{path} is not a PCM WAV file ({str(error) or 'it ends too early'}); convert it to 16-bit PCM"
        ) from error
    if width not in (1, 2, 3, 4) or channels < 1 or rate < 1:
        raise InputError(f"{path} has {channels} channels of {8 * width} bits at {rate} Hz; expected 8 to 32 bits")
    values = _pcm_to_float(raw[: len(raw) // (width * channels) * width * channels], width)
    mono = torch.from_numpy(values.reshape(-1, channels).mean(axis=1))
    if sample_rate is not None:
        mono, rate = resample(mono, rate, sample_rate), sample_rate
    return mono.to(torch.float32), rate


def _pcm_to_float(raw: bytes, width: int) -> NDArray[np.float64]:
    """Decode little-endian samples, (n,), to [-1, 1): unsigned where 8 bits wide, else signed."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        # as the upper three bytes of 32-bit numbers, so that the sign comes by itself
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        raw, width = wide.tobytes(), 4
    return np.frombuffer(raw, f"<i{width}").astype(np.float64) / float(1 << (8 * width - 1))


def _as_plain_pcm(content: bytes) -> bytes:
    """Rewrite the extensible PCM header, which `wave` does not know before Python 3.12, as the plain one."""
    at = content.find(b"fmt ", 12, 4096)
    extensible, pcm = b"\xfe\xff", b"\x01\x00"
    if at < 0 or content[at + 8 : at + 10] != extensible or content[at + 32 : at + 34] != pcm:
        return content
    return content[: at + 8] + pcm + content[at + 10 :]


def _full_scale(samples: Tensor | NDArray[np.generic]) -> Tensor:
    """Return float64 samples on the scale of 16-bit integers, which the log energies of the training data stand on."""
    x = samples if isinstance(samples, Tensor) else torch.from_numpy(np.ascontiguousarray(samples))
    if x.dim() < 1 or x.shape[-1] == 0:
        raise InputError(f"samples have shape {tuple(x.shape)}; expected (..., n) with at least one sample")
    if x.dtype == torch.int16:
        return x.to(torch.float64)
    if x.is_floating_point():
        return x.to(torch.float64) * 32768
    raise InputError(f"samples are {x.dtype}; expected int16, or floating point in [-1, 1]")


def _positive(x: Tensor) -> Tensor:
    return torch.where(x == 0, _EPS, x)


def _round_half_up(x: float) -> int:
    return math.floor(x + 0.5)


@lru_cache(maxsize=16)
def _mel_bank(filters: int, nfft: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangles (filters, nfft / 2 + 1), evenly spaced in mel up to the Nyquist frequency, corners on whole bins."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, filters + 2) / 2595) - 1)
    corner = np.floor((nfft + 1) * hertz / sample_rate)
    bins = np.arange(nfft // 2 + 1)
    low, middle, high = corner[:-2, None], corner[1:-1, None], corner[2:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # a triangle without width has no bins on that side
        rising = np.where((bins >= low) & (bins < middle), (bins - low) / (middle - low), 0.0)
        falling = np.where((bins >= middle) & (bins < high), (high - bins) / (high - middle), 0.0)
    return np.asarray(rising + falling, np.float64)


@lru_cache(maxsize=16)
def _cosines(coefficients: int, filters: int) -> NDArray[np.float64]:
    """Rows of the orthonormal cosine transform of type II, (coefficients, filters)."""
    k, n = np.arange(coefficients)[:, None], np.arange(filters)
    rows = np.cos(np.pi * k * (2 * n + 1) / (2 * filters)) * math.sqrt(2 / filters)
    rows[0] /= math.sqrt(2)
    return np.asarray(rows, np.float64)


@lru_cache(maxsize=8)
def _sinc_bank(up: int, down: int, zero_crossings: int) -> NDArray[np.float64]:
    """Filters (up, taps): row p interpolates at p / up of a sample after the middle tap."""
    cutoff = 0.95 * min(1.0, up / down)
    half = math.ceil(zero_crossings / cutoff)
    distance = np.arange(-half, half + 2) - np.arange(up)[:, None] / up
    inside = (1 - (distance / (half + 1)) ** 2).clip(min=0)
    bank = np.sinc(distance * cutoff) * np.i0(9.0 * np.sqrt(inside))
    return np.asarray(bank / bank.sum(axis=1, keepdims=True), np.float64)
