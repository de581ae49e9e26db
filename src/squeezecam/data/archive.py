"""Pictures in an ``.npz`` archive, read without unpickling anything."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from squeezecam.data.pixels import DEFAULT_MAX_PIXELS, WHITE, display, refuse_large, to_rgb
from squeezecam.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Header = tuple[tuple[int, ...], np.dtype[Any]]


class Archive:
    """The pictures of one ``.npz``: described from its headers at once, the pixels read when the first is asked for.

    ``images`` has the shape (N, H, W), (N, H, W, 1), (N, H, W, 3) or, with transparency, (N, H, W, 4), and is uint8,
    uint16 (65535 is white), bool, or floating point within [0, 1]. ``labels``, optional, has the shape (N,): whole
    numbers or text.

    Attributes:
        targets: the labels, one per picture; all None where the archive has none.

    Raises:
        InputError: no such arrays, other shapes or types, pictures too large, or a damaged archive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_pixels: int | None = DEFAULT_MAX_PIXELS,
        background: tuple[int, int, int] = WHITE,
    ) -> None:
        self.path, self.background = Path(path), background
        self._name = display(path)
        self._lock = threading.Lock()
        self._images: Array | None = None
        headers = _read_headers(self.path)
        if "images" not in headers:
            there = ", ".join(sorted(headers)) or "nothing"
            raise InputError(f"{self._name} holds no array named 'images' (it holds: {there})")
        shape, dtype = headers["images"]
        what = f"'images' in {self._name}"
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
            raise InputError(
                f"{what} has the shape {shape}; expected (N, H, W) or (N, H, W, C) with C = 1, 3 or 4, last"
            )
        if 0 in shape:
            raise InputError(f"{what} is empty: shape {shape}")
        if dtype not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f":
            raise InputError(f"{what} is {dtype}; expected uint8, uint16, bool, or floating point in [0, 1]")
        refuse_large(f"each of {what}", shape[2], shape[1], max_pixels)
        self._count = shape[0]
        self.targets = self._read_targets(headers)

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> Image.Image:
        """Picture number ``index`` as RGB.

        Raises:
            InputError: the array is damaged, or floating point outside [0, 1] or not finite.
        """
        picture = self._all()[index]
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[:, :, 0]
        if picture.dtype == np.bool_:
            picture = picture.astype(np.uint8) * 255
        elif picture.dtype == np.uint16:
            picture = np.rint(picture / 257.0).astype(np.uint8)
        elif picture.dtype.kind == "f":
            if not np.isfinite(picture).all():
                raise InputError(f"picture {index} of 'images' in {self._name} has NaN or infinity in it")
            picture = np.rint(picture.astype(np.float64) * 255).astype(np.uint8)
        return to_rgb(Image.fromarray(np.ascontiguousarray(picture)), self.background)

    def _read_targets(self, headers: dict[str, Header]) -> list[int | str | None]:
        if "labels" not in headers:
            return [None] * self._count
        shape, dtype = headers["labels"]
        if shape not in ((self._count,), (self._count, 1)) or dtype.kind not in "iubU":
            raise InputError(
                f"'labels' in {self._name} is {dtype} of shape {shape}; "
                f"expected whole numbers or text of shape ({self._count},), one per picture"
            )
        labels = _load(self.path, "labels").reshape(-1).tolist()
        return [label if isinstance(label, str) else int(label) for label in labels]

    def _all(self) -> Array:
        with self._lock:
            if self._images is None:
                images = _load(self.path, "images")
                if images.dtype.kind == "f":
                    finite = images[np.isfinite(images)]
                    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
                    if low < 0 or high > 1:
                        raise InputError(
                            f"'images' in {self._name} has values from {low:.4g} to {high:.4g}; pictures in floating "
                            "point must lie in [0, 1]: neither normalised nor up to 255"
                        )
                self._images = images
            return self._images


def _read_headers(path: Path) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        first = np.lib.format.read_magic(file) == (1, 0)
                        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                        shape, _, dtype = read(file)
                        headers[member.removesuffix(".npy")] = (tuple(shape), dtype)
    except Exception as error:  # zip and header errors are of many types
        raise InputError(f"cannot read {display(path)} as an .npz archive: {_cause(error)}") from None
    return headers


def _load(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except Exception as error:  # damaged archives, too little memory
        raise InputError(f"cannot read {key!r} from {display(path)}: {_cause(error)}") from None


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
