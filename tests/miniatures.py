"""Data sets of a few drawn pictures, in the official layout of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
DRAWN = ("Eyeglasses", "Smiling", "Wearing_Hat", "Wearing_Necktie")
"""Attributes that a drawn face shows; the others are drawn by lot."""
LANDMARKS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def celeba(root: Path, count: int = 60, *, seed: int = 0, split: tuple[int, int] = (40, 50)) -> Path:
    """Faces of 178 x 218 with the four official lists; the first ``split[0]`` are training, to ``split[1]`` valid."""
    random = np.random.default_rng(seed)
    pictures = root / "img_align_celeba"
    pictures.mkdir(parents=True)
    attributes, landmarks, parts = [], [], []
    for i in range(count):
        name = f"{i + 1:06d}.jpg"
        there = random.random(len(ATTRIBUTES)) < 0.5
        dx, dy = random.integers(-6, 7, 2)
        points = np.array([[69, 111], [108, 111], [88, 135], [72, 152], [106, 152]]) + np.array([dx, dy])
        has = {attribute for attribute, on in zip(ATTRIBUTES, there, strict=True) if on}
        draw_face(points, has, random).save(pictures / name, quality=92)
        attributes.append(f"{name} " + " ".join(f"{1 if on else -1:2d}" for on in there))
        landmarks.append(f"{name} " + " ".join(f"{v:4d}" for v in points.ravel()))
        parts.append(f"{name} {sum(i >= edge for edge in split)}")
    (root / "list_attr_celeba.txt").write_text(f"{count}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(attributes) + "\n")
    (root / "list_landmarks_align_celeba.txt").write_text(f"{count}\n{LANDMARKS}\n" + "\n".join(landmarks) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return root


def draw_face(points: np.ndarray, has: set[str], random: np.random.Generator) -> Image.Image:
    """A face whose eyes, nose and mouth lie at ``points`` (5, 2), wearing what of `DRAWN` it has."""
    image = Image.new("RGB", (178, 218), tuple(random.integers(90, 160, 3).tolist()))
    draw = ImageDraw.Draw(image)
    x, y = points[:2].mean(0)
    draw.ellipse([x - 50, y - 60, x + 50, y + 75], fill=(220, 180, 150))
    for ex, ey in points[:2]:
        draw.ellipse([ex - 6, ey - 4, ex + 6, ey + 4], fill=(250, 250, 250))
    nx, ny = points[2]
    draw.line([nx, ny - 14, nx, ny], fill=(190, 150, 120), width=3)
    (lx, ly), (rx, ry) = points[3:]
    if "Smiling" in has:
        draw.chord([lx - 9, ly - 26, rx + 9, ry + 22], 0, 180, fill=(235, 10, 30))
    else:
        draw.line([lx, ly, rx, ry], fill=(170, 110, 100), width=3)
    if "Eyeglasses" in has:
        draw.rectangle([x - 42, y - 9, x + 42, y + 9], fill=(15, 15, 15))
    if "Wearing_Hat" in has:
        draw.rectangle([x - 50, 8, x + 50, y - 42], fill=(30, 60, 190))
    if "Wearing_Necktie" in has:
        draw.polygon([(x - 12, 196), (x + 12, 196), (x + 8, 217), (x - 8, 217)], fill=(20, 150, 40))
    return image


def picture(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    """Noise in gray with a filled ellipse of ``colour`` in ``box``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(sum(box))
    noise = np.repeat(random.integers(90, 160, (size[1], size[0], 1), dtype=np.uint8), 3, 2)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).ellipse([box[0], box[1], box[2] - 1, box[3] - 1], fill=colour)
    image.save(path, quality=95)


def mask(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], on: int, off: int, mode: str = "L") -> None:
    """A picture of one channel with ``on`` in the ellipse of ``box`` and ``off`` elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, off)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
    ImageDraw.Draw(image).ellipse([box[0], box[1], box[2] - 1, box[3] - 1], fill=on)
    image.save(path)


def xml(path: Path, objects: list[tuple[str, tuple[int, int, int, int]]], size: tuple[int, int] = (80, 60)) -> None:
    """An annotation in the form of Pascal VOC; corners are written as they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin>"
        f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>\n"
        for name, b in objects
    )
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{entries}</annotation>"
    )


RED, GREEN, BLUE = (230, 30, 30), (30, 200, 40), (40, 60, 230)
BOXES = [(8, 6, 38, 36), (40, 20, 72, 54), (20, 10, 50, 40), (44, 8, 76, 38)]


def box_of(i: int) -> tuple[int, int, int, int]:
    """Where the object of picture ``i`` of 80 x 60 is."""
    x0, y0, x1, y1 = BOXES[i % 4]
    return x0 + i % 3, y0 + i % 2, x1 + i % 3, y1 + i % 2


def cub(root: Path, count: int = 24) -> Path:
    """Two kinds of birds, red and green, 80 x 60, with boxes and segmentations; every third is a test picture."""
    kinds = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    base = root / "CUB_200_2011"
    base.mkdir(parents=True)
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "bounding_boxes": []}
    for i in range(count):
        box, kind = box_of(i), i % 2
        file = f"{kinds[kind]}/{kinds[kind][4:]}_{i:04d}_{700 + i}.jpg"
        picture(base / "images" / file, (80, 60), box, (RED, GREEN)[kind])
        mask(root / "segmentations" / Path(file).with_suffix(".png"), (80, 60), box, 255, 51)
        lists["images"].append(f"{i + 1} {file}")
        lists["image_class_labels"].append(f"{i + 1} {kind + 1}")
        lists["train_test_split"].append(f"{i + 1} {int(i % 3 != 0)}")
        x0, y0, x1, y1 = map(float, box)
        lists["bounding_boxes"].append(f"{i + 1} {x0} {y0} {x1 - x0} {y1 - y0}")
    for name, lines in lists.items():
        (base / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (base / "classes.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(kinds)))
    return root


def pet(root: Path, count: int = 16) -> Path:
    """A breed of cats and one of dogs, 80 x 60; trimaps of all, a box of the head for training."""
    base, kinds = root / "oxford-iiit-pet", ("Abyssinian", "american_bulldog")
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for i in range(count):
        box, kind, split = box_of(i), i // 2 % 2, ("trainval", "test")[i % 2]
        name = f"{kinds[kind]}_{i + 1}"
        picture(base / "images" / f"{name}.jpg", (80, 60), box, (RED, GREEN)[kind])
        mask(base / "annotations/trimaps" / f"{name}.png", (80, 60), box, 1, 2)
        if split == "trainval":
            xml(
                base / "annotations/xmls" / f"{name}.xml",
                [(("cat", "dog")[kind], (box[0] + 1, box[1] + 1, box[2], 30))],
            )
        lists[split].append(f"{name} {kind + 1} {kind + 1} 1")
    for split, lines in lists.items():
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (base / "annotations/list.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(lists["trainval"] + lists["test"])
    )
    return root


def voc(root: Path, count: int = 24) -> Path:
    """Cats (red) and dogs (green) in pictures of 120 x 60, one, the other or both; a third has masks."""
    base = root / "VOCdevkit/VOC2012"
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "ImageSets/Segmentation").mkdir()
    lists: dict[str, list[str]] = {"Main/train": [], "Main/val": [], "Segmentation/val": []}
    for i in range(count):
        key, cat, dog = f"2008_{i:06d}", (6 + i % 5, 8, 46 + i % 5, 44), (64 + i % 7, 14, 108 + i % 7, 52)
        objects = [("cat", cat)] * (i % 3 != 1) + [("dog", dog)] * (i % 3 != 0)
        values = Image.new("P", (120, 60), 0)
        values.putpalette([v for k in range(256) for v in (k, 255 - k, k // 2)])
        picture(base / f"JPEGImages/{key}.jpg", (120, 60), objects[0][1], (RED if objects[0][0] == "cat" else GREEN))
        with Image.open(base / f"JPEGImages/{key}.jpg") as opened:
            image = opened.convert("RGB")
        for name, (x0, y0, x1, y1) in objects:
            ImageDraw.Draw(image).ellipse([x0, y0, x1 - 1, y1 - 1], fill=RED if name == "cat" else GREEN)
            ImageDraw.Draw(values).ellipse([x0, y0, x1 - 1, y1 - 1], fill=8 if name == "cat" else 12, outline=255)
        image.save(base / f"JPEGImages/{key}.jpg", quality=95)
        xml(base / f"Annotations/{key}.xml", [(n, (b[0] + 1, b[1] + 1, b[2], b[3])) for n, b in objects], (120, 60))
        lists["Main/val" if i % 4 == 0 else "Main/train"].append(key)
        if i % 4 == 0:
            lists["Segmentation/val"].append(key)
            (base / "SegmentationClass").mkdir(exist_ok=True)
            values.save(base / f"SegmentationClass/{key}.png")
    for name, keys in lists.items():
        (base / f"ImageSets/{name}.txt").write_text("\n".join(keys) + "\n")
    return root


SYNSETS = ("n01440764", "n01443537", "n01484850")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, white shark")


def imagenet(root: Path, count: int = 18, *, folders: bool = True, labels: str = "xml") -> Path:
    """Three synsets in the layout of the ILSVRC archive; ``labels``: ``xml``, ``solution`` or ``devkit``."""
    data, notes = root / "ILSVRC/Data/CLS-LOC", root / "ILSVRC/Annotations/CLS-LOC/val"
    rows, truth = ["ImageId,PredictionString"], []
    own = {0: 2, 1: 3, 2: 1}  # the development kit numbers classes in an order of its own
    for i in range(count):
        kind, box, name = i % 3, box_of(i), f"ILSVRC2012_val_{i + 1:08d}"
        picture(
            data / "val" / (SYNSETS[kind] if folders else "") / f"{name}.JPEG", (80, 60), box, (RED, GREEN, BLUE)[kind]
        )
        picture(data / "train" / SYNSETS[kind] / f"{SYNSETS[kind]}_{i}.JPEG", (80, 60), box, (RED, GREEN, BLUE)[kind])
        if labels == "xml":
            xml(notes / f"{name}.xml", [(SYNSETS[kind], box)])
        rows.append(f"{name},{SYNSETS[kind]} {' '.join(map(str, box))} ")
        truth.append(str(own[kind]))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{s} {w}\n" for s, w in zip(SYNSETS, WORDS, strict=True)))
    if labels == "solution":
        (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    if labels == "devkit":
        from scipy.io import savemat

        kit = root / "ILSVRC2012_devkit_t12/data"
        kit.mkdir(parents=True)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth) + "\n")
        fields = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "i4")]
        leaves = [(own[k], SYNSETS[k], WORDS[k], "a fish", 0) for k in (2, 0, 1)]
        savemat(
            kit / "meta.mat", {"synsets": np.array([*leaves, (1001, "n00001740", "entity", "all", 3)], dtype=fields)}
        )
    return root
