"""The picture of a study: a dot per seed with paired lines, and the differences with interval and margin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from squeezecam.parity.result import ArmResult, ParityResult
from squeezecam.render.parts import LARGE, NORMAL, PAPER, RULE, SMALL, canvas, framed, row, stack
from squeezecam.render.text import GRAY, INK, draw_text, line_height, text_block, text_width, wrap

HEIGHT, STEP, LEFT = 260, 150, 64
PLAIN, CLEAR, BAND = (96, 125, 167), (176, 190, 210), (226, 236, 226)
WORDS = {"not worse": (52, 122, 72), "worse": (196, 60, 44), "undecided": (150, 120, 40)}


def draw(result: ParityResult) -> Image.Image:
    """One row per start: on the left every run, on the right the differences to the first arm."""
    score = "accuracy in points" if result.unit == "points" else f"error in {result.unit}, lower is better"
    blocks: list[Image.Image] = []
    for start in result.runs:
        arms = [arm for arm in result.arms if arm.start == start and arm.scores]
        if not arms:
            continue
        arms.sort(key=lambda arm: arm.arm not in result.controls)  # what is not paired stands apart, on the left
        right = [arm for arm in arms if arm.difference is not None]
        parts = [_panel(f"{start}: {score}", _runs(arms, result.controls), len(arms) * STEP + LEFT)]
        if right:
            title = f"difference to '{next(iter(result.labels.values()))}' in {result.unit}, + is better"
            parts.append(_panel(title, _differences(right, result.margin), len(right) * STEP + LEFT))
        blocks.append(row(parts, gap=32))
    width = max((block.width for block in blocks), default=400)
    head = text_block(f"Parity with and without the block, {len(result.seeds)} seeds", width, LARGE)
    foot = text_block(
        "Left: a dot per seed, a line joins runs of the same seed (same initial weights, batches and augmentation), "
        "the bar is the mean. Right: mean of the paired differences, with the 95 % interval of the paired t over the "
        f"seeds; the green band is the margin of {result.margin:.3g} {result.unit}: an interval that stays above "
        "its lower edge shows that nothing beyond the margin is lost.",
        width, SMALL, fill=GRAY, max_lines=4,
    )  # fmt: skip
    return framed(stack([head, *blocks, foot], gap=18), 18)


def _panel(title: str, image: Image.Image, width: int) -> Image.Image:
    return stack([text_block(title, width, NORMAL), image], gap=6)


class _Axis:
    """A vertical axis over ``values``, with round ticks."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        span = (high - low) or max(abs(high), 1.0) * 0.1
        self.low, self.high = low - 0.08 * span, high + 0.08 * span
        raw = (self.high - self.low) / 5
        base = 10 ** math.floor(math.log10(raw))
        self.step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw)
        self.digits = max(0, -math.floor(math.log10(self.step)))

    def y(self, value: float) -> int:
        """Pixels from the top."""
        return round((self.high - value) / (self.high - self.low) * (HEIGHT - 1))

    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step)
        return [self.step * k for k in range(first, math.floor(self.high / self.step) + 1)]


def _frame(axis: _Axis, labels: Sequence[str], signed: bool) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    lines = 3
    image = canvas(LEFT + STEP * len(labels), HEIGHT + 8 + lines * line_height(SMALL))
    pen = ImageDraw.Draw(image)
    for value in axis.ticks():
        text = f"{value:+.{axis.digits}f}" if signed and abs(value) > 1e-12 else f"{value:.{axis.digits}f}"
        y = axis.y(value)
        pen.line((LEFT, y, image.width, y), fill=(238, 239, 241))
        at = (LEFT - 8 - text_width(text, SMALL), min(max(0, y - line_height(SMALL) // 2), HEIGHT - line_height(SMALL)))
        draw_text(pen, at, text, SMALL, GRAY)
    pen.line((LEFT, 0, LEFT, HEIGHT), fill=RULE)
    for number, label in enumerate(labels):
        for line, words in enumerate(wrap(label, STEP - 12, SMALL, lines)):
            left = _centre(number) - text_width(words, SMALL) // 2
            draw_text(pen, (left, HEIGHT + 8 + line * line_height(SMALL)), words, SMALL, INK)
    return image, pen


def _centre(number: int) -> int:
    return LEFT + number * STEP + STEP // 2


def _runs(arms: Sequence[ArmResult], controls: Sequence[str]) -> Image.Image:
    axis = _Axis([value for arm in arms for value in arm.scores])
    image, pen = _frame(axis, [arm.label for arm in arms], signed=False)
    for number, (arm, following) in enumerate(itertools.pairwise(arms)):
        if arm.arm in controls or following.arm in controls:
            continue
        there = dict(zip(following.seeds, following.scores, strict=True))
        for seed, value in zip(arm.seeds, arm.scores, strict=True):
            if seed in there:
                ends = (_centre(number), axis.y(value), _centre(number + 1), axis.y(there[seed]))
                pen.line(ends, fill=CLEAR)
    for number, arm in enumerate(arms):
        x = _centre(number)
        pen.line((x - 22, axis.y(arm.mean), x + 22, axis.y(arm.mean)), fill=INK, width=2)
        for value in arm.scores:
            y = axis.y(value)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=PLAIN, outline=PAPER)
    return image


def _differences(arms: Sequence[ArmResult], margin: float) -> Image.Image:
    found = [arm.difference for arm in arms if arm.difference is not None]
    axis = _Axis([0.0, margin, -margin, *(d.low for d in found), *(d.high for d in found)])
    image, pen = _frame(axis, [_with_verdict(arm) for arm in arms], signed=True)
    pen.rectangle((LEFT + 1, axis.y(margin), image.width, axis.y(-margin)), fill=BAND)
    pen.line((LEFT, axis.y(0), image.width, axis.y(0)), fill=GRAY)
    for number, arm in enumerate(arms):
        if arm.difference is None or arm.verdict is None:
            continue
        x, colour = _centre(number), WORDS[arm.verdict.word]
        low, high, y = axis.y(arm.difference.low), axis.y(arm.difference.high), axis.y(arm.difference.mean)
        pen.line((x, high, x, low), fill=colour, width=3)
        for end in (low, high):
            pen.line((x - 8, end, x + 8, end), fill=colour, width=3)
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=PAPER)
    return image


def _with_verdict(arm: ArmResult) -> str:
    assert arm.verdict is not None
    needed = f", about {arm.verdict.needed} seeds needed" if arm.verdict.needed else ""
    return f"{arm.label}: {arm.verdict.word}{needed}"
