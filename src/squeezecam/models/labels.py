"""Class labels: files of names, and what to call a class that has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from squeezecam.errors import InputError
from squeezecam.wording import number_of

Labels: TypeAlias = "tuple[str, ...] | dict[str, tuple[str, ...]]"
"""Names by class index; for a model with several outputs a dict of these by output."""

_LARGEST_INDEX = 1_000_000  # a stray number used as a key must not fill the memory with placeholders


def read_labels(path: Path) -> Labels:
    """Class labels from a file.

    Text (UTF-8): one name per line, the first is class 0; blank lines at the end are ignored. JSON: a list of names, a
    dict index -> name (also ``{"0": ["n01440764", "tench"]}``, of which the last is the name) or name -> index, or for
    several outputs a dict output -> any of these. Indices that a dict leaves out are called ``class <index>``.

    Raises:
        InputError: the file cannot be read or is none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"labels file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"labels file {path} is not UTF-8 text: one name per line, or JSON, is expected") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            parsed = json.loads(text)
        except ValueError as error:
            if path.suffix.lower() == ".json":
                raise InputError(f"labels file {path} is not valid JSON: {error}") from error
        else:
            return as_labels(parsed, f"labels file {path}")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise InputError(f"labels file {path} is empty: one name per line, or JSON, is expected")
    if "" in lines:
        raise InputError(f"labels file {path}: line {lines.index('') + 1} is blank; every class needs a name")
    return tuple(lines)


def as_labels(value: Any, origin: str) -> Labels:
    """``value`` (what JSON or a ``LABELS`` in a model's file holds) as labels.

    Raises:
        InputError: naming ``origin``, if it is neither a list of names nor one of the dicts of `read_labels`.
    """
    if isinstance(value, Mapping) and value and all(_is_group(item) for item in value.values()):
        keys = [str(key) for key in value]
        if not all(key.isdecimal() for key in keys):
            return {
                key: _names(item, f"{origin}, output {key!r}") for key, item in zip(keys, value.values(), strict=True)
            }
    return _names(value, origin)


def label_of(labels: Labels | None, index: int, output: str | None = None) -> str:
    """The name of class ``index``, or ``class <index>`` where there is none.

    Args:
        labels: of a model, or None.
        index: class index, 0 or more.
        output: which of several outputs; needed only where ``labels`` is a dict.
    """
    names = labels.get(output or "", ()) if isinstance(labels, dict) else labels or ()
    return names[index] if 0 <= index < len(names) else f"class {index}"


def other_count(labels: Labels | None, output: str, classes: int) -> str:
    """What is to be said where there are more or fewer names than an output has classes; else empty."""
    names = labels.get(output) if isinstance(labels, dict) else labels
    if names is None or classes < 2 or len(names) == classes:
        return ""
    return (
        f"{number_of(len(names), 'class name')} for the {classes} classes of output '{output}': the names may be those "
        "of another model"
    )


def _is_group(value: Any) -> bool:
    return isinstance(value, (Mapping, Sequence)) and not isinstance(value, str)


def _names(value: Any, origin: str) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return _from_dict(value, origin)
    if isinstance(value, Sequence) and not isinstance(value, str) and value and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise InputError(f"{origin}: a list of names or a dict index -> name is expected, not {_shown(value)}")


def _from_dict(value: Mapping[Any, Any], origin: str) -> tuple[str, ...]:
    if value and all(isinstance(v, int) and not isinstance(v, bool) for v in value.values()):
        value = {index: name for name, index in value.items()}
    names: dict[int, str] = {}
    for key, item in value.items():
        name = item[-1] if isinstance(item, Sequence) and not isinstance(item, str) and item else item
        if not str(key).isdecimal() or not isinstance(name, str) or int(key) > _LARGEST_INDEX:
            raise InputError(f"{origin}: an entry index -> name is expected, not {_shown(key)} -> {_shown(item)}")
        names[int(key)] = name
    if not names:
        raise InputError(f"{origin}: it holds no names")
    return tuple(names.get(index, f"class {index}") for index in range(max(names) + 1))


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
