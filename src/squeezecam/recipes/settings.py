"""How a recipe trains, and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to train and what to look at.

    Attributes:
        epochs, batch_size, rate: of AdamW with a cosine schedule.
        baseline: train the same model without the block as well.
        sample: only so many pictures of each part, drawn with ``seed``.
        maps: at most so many test pictures of each class whose maps are measured; 0: none.
        methods: whose maps; None: squeezecam's own and the peers that are installed. Controls are always added.
        flip: mirror training pictures at random.
        workers: processes that read pictures.
        seed: of the new layer, the order, the draws.
    """

    epochs: int = 5
    batch_size: int = 64
    rate: float = 1e-3
    baseline: bool = True
    sample: int | None = None
    maps: int = 100
    methods: str | None = None
    flip: bool = True
    workers: int = 0
    seed: int = 0
