"""Numbers and names in sentences."""

from __future__ import annotations


def number_of(count: int, noun: str) -> str:
    """``1 frame``, ``2 frames``: for nouns whose plural ends in s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def shortened(text: str, most: int) -> str:
    """``text`` in at most ``most`` letters; what is too long loses its middle, because names end in numbers."""
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[-end:]}"
