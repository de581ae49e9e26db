"""The XML annotation form of Pascal VOC, which ILSVRC and the Pet data set have taken over."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

from squeezecam.data.pixels import display
from squeezecam.data.record import Box
from squeezecam.errors import InputError


class XmlObject(NamedTuple):
    """One ``<object>``: its class by name, its box, and whether it is marked difficult."""

    name: str
    box: Box
    difficult: bool


def read_xml(path: Path, *, first_pixel: int = 0) -> list[XmlObject]:
    """Objects of an annotation file, in its order.

    Args:
        path: the file.
        first_pixel: what the set calls the first pixel: 1 in Pascal VOC, where xmax is the last pixel of the box. Boxes
            are returned as edges, so that the whole picture is (0, 0, width, height).

    Raises:
        InputError: the file cannot be read, is no XML, or an object has no name or no box.
    """
    shown = display(path)
    try:
        root = ET.fromstring(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {shown}: {(error.strerror or str(error)).lower()}") from None
    except ET.ParseError as error:
        raise InputError(f"{shown} is no XML: {error}; expected an <annotation> in the form of Pascal VOC") from None
    found = []
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        try:
            corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            corners = [math.nan]
        if not name or not all(map(math.isfinite, corners)):
            raise InputError(
                f"{shown}: object {number} lacks a name or a bndbox with xmin, ymin, xmax, ymax in numbers"
            )
        x0, y0, x1, y1 = corners
        x0, y0 = x0 - first_pixel, y0 - first_pixel
        if x1 < x0 or y1 < y0:
            raise InputError(f"{shown}: object {number} has the box {corners}; expected xmin <= xmax and ymin <= ymax")
        box = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))  # one that starts where it ends still marks a pixel
        found.append(XmlObject(name, box, (element.findtext("difficult") or "0").strip() == "1"))
    return found
