"""Pascal VOC (Everingham et al., IJCV 2010): labels, boxes and masks of 20 classes, several to a picture.

The official layout, under ``VOCdevkit/VOC2012`` (or any year; the folder itself, its parent and the one above serve)::

    JPEGImages/ID.jpg
    Annotations/ID.xml
    ImageSets/Main/{train,val,trainval,test}.txt           one ID a line
    ImageSets/Segmentation/{train,val,trainval}.txt        those that have masks
    SegmentationClass/ID.png                               palette: 0 background, 1 to 20 the classes, 255 the rim
"""

from __future__ import annotations

from pathlib import Path

from squeezecam.data.pixels import display
from squeezecam.data.record import DataSet, LabelledBox, MaskFile, Record, lines_of, names_in, one_of
from squeezecam.data.voc_xml import read_xml
from squeezecam.errors import InputError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""In the official order: the class of mask value ``k`` is ``CLASSES[k - 1]``."""
SPLITS = ("train", "val", "trainval", "test")


def read_voc(root: str | Path, split: str = "val") -> DataSet:
    """Read one part of Pascal VOC.

    Args:
        root: the folder of a year, or one above it (the latest year is taken).
        split: a list in ``ImageSets/Main``; with ``segmentation/`` before it, in ``ImageSets/Segmentation``: there
            every picture has a mask.

    Returns:
        Multi-label: all classes of which there is an object, as `torchvision.datasets.VOCDetection` lists them;
        objects that are marked difficult have a box as well.

    Raises:
        InputError: files that are missing, or not in the official form.
    """
    base = _year(Path(root).expanduser())
    kind, _, name = ("/" + split).rpartition("/")
    segmentation = kind.strip("/").casefold() == "segmentation"
    if kind.strip("/").casefold() not in ("", "main", "segmentation") or not name:
        raise InputError(f"split '{split}' of voc; expected one of {', '.join(SPLITS)}, or segmentation/val and so on")
    folder = "Segmentation" if segmentation else "Main"
    listing = one_of(base, [f"ImageSets/{folder}/{name}.txt"], f"list of the split '{split}'")
    masks = names_in(base / "SegmentationClass") if (base / "SegmentationClass").is_dir() else set()
    records = []
    for line in lines_of(listing):
        if not line.strip():
            continue
        key = line.split()[0]  # lists of one class have a second column, -1 to 1
        records.append(_record(base, key, f"{key}.png" in masks, segmentation))
    return DataSet("voc", Path(root), split, CLASSES, records, multilabel=True)


def _record(base: Path, key: str, masked: bool, needed: bool) -> Record:
    mask = base / "SegmentationClass" / f"{key}.png"
    if needed and not masked:
        raise InputError(f"no mask {display(mask)}, though ImageSets/Segmentation lists {key}; unpack the set again")
    note = base / "Annotations" / f"{key}.xml"
    boxes = []
    for found in read_xml(note, first_pixel=1):
        if found.name not in CLASSES:
            raise InputError(
                f"{display(note)} has an object '{found.name}', which is none of the 20 classes of the set"
            )
        boxes.append(LabelledBox(found.box, CLASSES.index(found.name)))
    labels = tuple(sorted({b.label for b in boxes if b.label is not None}))
    file = MaskFile(mask, 1, len(CLASSES), by_class=True) if masked else None
    return Record(base / "JPEGImages" / f"{key}.jpg", labels, tuple(boxes), file)


def _year(root: Path) -> Path:
    for place in (root, root / "VOCdevkit"):
        if (place / "ImageSets").is_dir():
            return place
        years = sorted(p for p in place.glob("VOC20*") if (p / "ImageSets").is_dir())
        if years:
            return years[-1]
    raise InputError(
        f"no Pascal VOC under {display(root)}: looked for ImageSets/ in it, in VOC20../ and in VOCdevkit/VOC20../; "
        "give the folder that VOCdevkit was unpacked into"
    )
