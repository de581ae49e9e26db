"""Pack the handwritten digits of scikit-learn into the asset that the demo draws its pictures from.

Every fifth sprite of each class goes to the test split, so the two splits share no sprite and both hold all classes.
Run from the repository root: ``python scripts/pack_sprites.py``.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).resolve().parents[1] / "src" / "squeezecam" / "assets"
TEST_EVERY = 5


def split_by_class(labels: np.ndarray, every: int) -> np.ndarray:
    """Return a bool array that is True for every ``every``-th sprite of each class."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[::every]] = True
    return test


def main() -> None:
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "digits.npz")
    out: Path = parser.parse_args().out

    digits = load_digits()
    sprites = digits.images.astype(np.uint8)  # 0..16, as published
    labels = digits.target.astype(np.uint8)
    _, first = np.unique(sprites.reshape(len(sprites), -1), axis=0, return_index=True)
    keep = np.sort(first)  # a sprite that occurs twice could end up on both sides of the split
    sprites, labels = sprites[keep], labels[keep]
    test = split_by_class(labels, TEST_EVERY)

    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        train_sprites=sprites[~test],
        train_labels=labels[~test],
        test_sprites=sprites[test],
        test_labels=labels[test],
    )
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(packed.getvalue())
    os.replace(temporary, out)
    print(f"{(~test).sum()} train and {test.sum()} test sprites, {len(packed.getvalue()):,} bytes: {out}")


if __name__ == "__main__":
    main()
