"""Tables as plain text, Markdown and CSV, from rows of dicts."""

from __future__ import annotations

import csv
import io
import math
import numbers
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
MISSING = "-"


def text_table(
    rows: Sequence[Row], columns: Sequence[str] | None = None, *, formats: Mapping[str, str] | None = None
) -> str:
    """A table for the terminal: columns in line, numbers to the right, a rule below the head; no line end at the end.

    Args:
        rows: one dict per row; a key that a row lacks, and None, are shown as ``-``.
        columns: which, in which order; None: all keys in the order of their first appearance.
        formats: a format specification per column, such as ``{"drop": ".3f"}``; other floats get four digits.
    """
    names, cells, right = _cells(rows, columns, formats)
    widths = [max(_width(line[i]) for line in (names, *cells)) for i in range(len(names))]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(_padded(text, width, side) for text, width, side in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(
    rows: Sequence[Row], columns: Sequence[str] | None = None, *, formats: Mapping[str, str] | None = None
) -> str:
    """A Markdown table (GitHub's pipes); arguments as in `text_table`."""
    names, cells, right = _cells(rows, columns, formats)
    rule = ["---:" if side else "---" for side in right]
    escaped = [[text.replace("\\", "\\\\").replace("|", "\\|") for text in line] for line in (names, *cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))


def csv_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """CSV (RFC 4180, but with line feeds) with a head; floats in full precision, an empty field for None."""
    names = _names(rows, columns)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for entry in rows:
        writer.writerow(["" if entry.get(name) is None else entry[name] for name in names])
    return buffer.getvalue()


def _names(rows: Sequence[Row], columns: Sequence[str] | None) -> list[str]:
    return list(columns) if columns is not None else list(dict.fromkeys(key for entry in rows for key in entry))


def _cells(
    rows: Sequence[Row], columns: Sequence[str] | None, formats: Mapping[str, str] | None
) -> tuple[list[str], list[list[str]], list[bool]]:
    names = _names(rows, columns)
    cells = [[_cell(entry.get(name), (formats or {}).get(name)) for name in names] for entry in rows]
    right = []
    for name in names:
        values = [entry[name] for entry in rows if entry.get(name) is not None]
        right.append(bool(values) and all(_is_number(value) for value in values))
    return [" ".join(name.split()) for name in names], cells, right


def _cell(value: Any, specification: str | None) -> str:
    if value is None:
        return MISSING
    if _is_number(value):
        if specification is not None:
            return format(value, specification)
        if not isinstance(value, numbers.Integral):
            return f"{float(value):.4g}" if math.isfinite(value) else str(float(value))
    return " ".join(str(value).split())  # a line break would break the table


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _width(text: str) -> int:
    """Cells of a terminal: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
