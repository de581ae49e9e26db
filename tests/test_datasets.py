"""Readers of data sets against miniatures in the official layouts, and against torchvision where it reads the same."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import miniatures
from squeezecam.data.celeba import read_celeba
from squeezecam.data.cub import read_cub
from squeezecam.data.imagenet import read_imagenet
from squeezecam.data.images import find_images
from squeezecam.data.pet import read_pet
from squeezecam.data.record import DataSet
from squeezecam.data.sets import open_set
from squeezecam.data.spec import Spec, parse
from squeezecam.data.voc import CLASSES, read_voc
from squeezecam.data.voc_xml import read_xml
from squeezecam.errors import InputError, SqueezeWarning

Make = Callable[..., Path]


def colour_in(data: DataSet, index: int) -> tuple[int, int, int]:
    """Mean colour of what the record marks: by the mask where it has one, else by its first box."""
    record = data[index]
    with Image.open(record.path) as opened:
        pixels = np.asarray(opened.convert("RGB"), float)
    if record.mask is not None:
        return tuple(pixels[record.mask.read(record.labels[0])].mean(0))  # type: ignore[return-value]
    x0, y0, x1, y1 = (round(v) for v in record.boxes[0].box)
    middle = pixels[(3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4]
    return tuple(middle.reshape(-1, 3).mean(0))  # type: ignore[return-value]


def brightest(data: DataSet, index: int) -> int:
    """0 for red, 1 for green, 2 for blue: in the miniatures that is the class."""
    return int(np.argmax(colour_in(data, index)))


# --- CUB, Pet, VOC, ImageNet --------------------------------------------------------------------------


def test_cub_boxes_and_masks_lie_on_the_bird(tmp_path: Path) -> None:
    root = miniatures.cub(tmp_path)
    test, train, everything = (read_cub(root, split) for split in ("test", "train", "all"))
    assert (len(test), len(train), len(everything)) == (8, 16, 24)
    assert test.classes == ("Black footed Albatross", "Laysan Albatross")
    assert not {r.path for r in test.records} & {r.path for r in train.records}
    for i in range(len(test)):
        record = test[i]
        assert brightest(test, i) == record.labels[0]
        assert record.mask is not None
        inside = record.mask.read()
        x0, y0, x1, y1 = (int(v) for v in record.boxes[0].box)
        assert inside[y0:y1, x0:x1].sum() == inside.sum() > 0
        assert inside.any(0)[[x0, x1 - 1]].all()  # the box is the mask's own, to the pixel
    assert test.targets().tolist() == [record.labels[0] for record in test.records]


def test_cub_without_segmentations_has_boxes_only(tmp_path: Path) -> None:
    root = miniatures.cub(tmp_path)
    (tmp_path / "segmentations").rename(tmp_path / "elsewhere")
    data = read_cub(root / "CUB_200_2011")
    assert all(record.mask is None and len(record.boxes) == 1 for record in data.records)
    assert [brightest(data, i) for i in range(len(data))] == data.targets().tolist()


def test_pet_agrees_with_torchvision(tmp_path: Path) -> None:
    torchvision = _torchvision()
    root = miniatures.pet(tmp_path)
    for split in ("trainval", "test"):
        ours = read_pet(root, split)
        theirs = torchvision.datasets.OxfordIIITPet(root, split, target_types=["category", "segmentation"])
        assert len(ours) == len(theirs) == 8
        assert list(ours.classes) == theirs.classes
        for i, (picture, (label, trimap)) in enumerate(theirs):
            record = ours[i]
            assert record.labels == (label,)
            with Image.open(record.path) as opened:
                assert np.array_equal(np.asarray(opened.convert("RGB")), np.asarray(picture))
            assert record.mask is not None
            assert np.array_equal(record.mask.read(), np.asarray(trimap) == 1)
            assert brightest(ours, i) == label
        assert [len(record.boxes) for record in ours.records] == [int(split == "trainval")] * 8


def test_voc_agrees_with_torchvision(tmp_path: Path) -> None:
    torchvision = _torchvision()
    root = miniatures.voc(tmp_path)
    ours = read_voc(root, "train")
    theirs = torchvision.datasets.VOCDetection(root, "2012", "train")
    assert [str(record.path) for record in ours.records] == theirs.images
    for i in range(len(ours)):
        objects = theirs[i][1]["annotation"]["object"]
        assert [CLASSES[box.label or 0] for box in ours[i].boxes] == [o["name"] for o in objects]
        first = {key: float(value) for key, value in objects[0]["bndbox"].items()}
        box = ours[i].boxes[0].box  # edges from 0, where the file names the first and the last pixel from 1
        assert box == (first["xmin"] - 1, first["ymin"] - 1, first["xmax"], first["ymax"])


def test_voc_masks_and_boxes_go_by_class(tmp_path: Path) -> None:
    data = read_voc(miniatures.voc(tmp_path), "segmentation/val")
    cat, dog = CLASSES.index("cat"), CLASSES.index("dog")
    both = next(record for record in data.records if record.labels == (cat, dog))
    assert both.mask is not None
    cats, dogs, all_of_them = both.mask.read(cat), both.mask.read(dog), both.mask.read()
    assert cats.any()
    assert dogs.any()
    assert not (cats & dogs).any()
    assert np.array_equal(all_of_them, cats | dogs)  # and without the rim, 255
    assert both.boxes_of(cat) != both.boxes_of(dog)
    assert both.boxes_of() == both.boxes_of(cat) + both.boxes_of(dog)
    x0, _, x1, _ = both.boxes_of(cat)[0]
    columns = np.flatnonzero(cats.any(0))
    assert x0 <= columns[0] <= columns[-1] < x1
    assert data.targets()[:, [cat, dog]].sum() == sum(len(record.labels) for record in data.records)


@pytest.mark.parametrize(("folders", "labels"), [(True, "xml"), (False, "xml"), (False, "solution"), (False, "devkit")])
def test_imagenet_classes_from_every_official_source(tmp_path: Path, folders: bool, labels: str) -> None:
    if labels == "devkit":
        pytest.importorskip("scipy")
    data = read_imagenet(miniatures.imagenet(tmp_path, folders=folders, labels=labels))
    assert len(data) == 18
    assert data.classes == miniatures.WORDS
    for i in range(len(data)):
        if labels == "devkit":  # which knows no boxes
            assert not data[i].boxes
            name = int(data[i].path.stem[-8:]) - 1
            assert data[i].labels == (name % 3,)
        else:
            assert brightest(data, i) == data[i].labels[0] == data[i].boxes[0].label


def test_imagenet_training_folders_and_a_missing_mapping(tmp_path: Path) -> None:
    root = miniatures.imagenet(tmp_path)
    train = read_imagenet(root, "train")
    assert train.targets().tolist() == sorted(train.targets().tolist())
    (root / "LOC_synset_mapping.txt").unlink()
    with pytest.warns(SqueezeWarning, match="class indices count among these 3"):
        assert read_imagenet(root / "ILSVRC/Data/CLS-LOC/val").classes == miniatures.SYNSETS


def test_an_annotation_box_of_one_pixel_has_an_area(tmp_path: Path) -> None:
    miniatures.xml(tmp_path / "a.xml", [("cat", (5, 6, 5, 9))])
    assert read_xml(tmp_path / "a.xml")[0].box == (5, 6, 6, 9)
    assert read_xml(tmp_path / "a.xml", first_pixel=1)[0].box == (4, 5, 5, 9)


# --- CelebA -------------------------------------------------------------------------------------------


def test_celeba_reads_attributes_landmarks_and_parts(tmp_path: Path) -> None:
    root = miniatures.celeba(tmp_path, 20, split=(12, 16))
    parts = {split: read_celeba(root, split) for split in ("train", "valid", "test", "all")}
    assert {name: len(faces) for name, faces in parts.items()} == {"train": 12, "valid": 4, "test": 4, "all": 20}
    every, test = parts["all"], parts["test"]
    assert every.names == miniatures.ATTRIBUTES
    assert np.array_equal(every.attributes[16:], test.attributes)
    line = (root / "list_attr_celeba.txt").read_text().splitlines()[2 + 17].split()
    assert test.files[1] == line[0]
    assert test.attributes[1].tolist() == [value == "1" for value in line[1:]]
    assert test.landmarks is not None
    glasses = test.names.index("Eyeglasses")
    data = test.dataset()
    for i in range(4):  # the landmarks are those of this very picture: the left eye is black or white, as it says
        with Image.open(data[i].path) as opened:
            x, y = (int(v) for v in data[i].points[0])
            level = np.asarray(opened.convert("L"))[y - 2 : y + 3, x - 2 : x + 3].mean()
        assert (level < 60) == (glasses in data[i].labels), level
    assert data.targets().shape == (4, 40)


def test_celeba_agrees_with_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On lists whose checksums it is made to accept."""
    torchvision = _torchvision()
    root = miniatures.celeba(tmp_path / "celeba", 10, split=(5, 7))
    (root / "identity_CelebA.txt").write_text("".join(f"{i + 1:06d}.jpg {i}\n" for i in range(10)))
    rows = "".join(f"{i + 1:06d}.jpg 1 2 3 4\n" for i in range(10))
    (root / "list_bbox_celeba.txt").write_text("10\nimage_id x_1 y_1 width height\n" + rows)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    for split in ("train", "valid", "test"):
        theirs = torchvision.datasets.CelebA(tmp_path, split, target_type=["attr", "landmarks"])
        ours = read_celeba(root, split)
        assert list(ours.files) == theirs.filename
        assert np.array_equal(ours.attributes, theirs.attr.numpy() == 1)
        assert ours.landmarks is not None
        assert np.array_equal(ours.landmarks.reshape(-1, 10), theirs.landmarks_align.numpy())
        assert ours.boxes is None  # the official boxes are of other pictures than the aligned ones


def test_celeba_csv_mirror_is_the_same_set(tmp_path: Path) -> None:
    root = miniatures.celeba(tmp_path, 12, split=(6, 9))
    official = read_celeba(root, "valid")
    for name in ("list_attr_celeba", "list_landmarks_align_celeba", "list_eval_partition"):
        lines = (root / f"{name}.txt").read_text().splitlines()
        head = "partition" if name == "list_eval_partition" else ",".join(lines[1].split())
        rows = lines if name == "list_eval_partition" else lines[2:]
        (root / f"{name}.csv").write_text("\n".join([f"image_id,{head}", *(",".join(row.split()) for row in rows)]))
        (root / f"{name}.txt").unlink()
    (root / "img_align_celeba").rename(root / "pictures")
    (root / "img_align_celeba").mkdir()
    (root / "pictures").rename(root / "img_align_celeba/img_align_celeba")  # as the mirror is packed
    mirrored = read_celeba(root, "valid")
    assert mirrored.files == official.files
    assert np.array_equal(mirrored.attributes, official.attributes)
    assert mirrored.landmarks is not None
    assert np.array_equal(mirrored.landmarks, official.landmarks)


def test_celeba_in_the_wild_has_the_faces_boxes(tmp_path: Path) -> None:
    root = miniatures.celeba(tmp_path, 6, split=(2, 4))
    (root / "img_align_celeba").rename(root / "img_celeba")
    (root / "list_landmarks_align_celeba.txt").rename(root / "list_landmarks_celeba.txt")
    rows = [f"{i + 1:06d}.jpg {10 * i} 20 30 40" for i in range(6)]
    (root / "list_bbox_celeba.txt").write_text("6\nimage_id x_1 y_1 width height\n" + "\n".join(rows))
    faces = read_celeba(root, "test")
    assert not faces.aligned
    assert faces.boxes is not None
    assert faces.boxes.tolist() == [[40, 20, 70, 60], [50, 20, 80, 60]]
    assert faces.landmarks is not None


def test_celeba_only_some_attributes_are_renumbered(tmp_path: Path) -> None:
    data = open_set(f"celeba:{miniatures.celeba(tmp_path, 12, split=(0, 0))}")
    few = data.only(["smiling", "Young", "wearing hat"])
    assert few.classes == ("Smiling", "Young", "Wearing_Hat")
    assert few.placed == {0, 2}  # age has no place
    columns = [data.classes.index(name) for name in few.classes]
    assert torch.equal(few.targets(), data.targets()[:, columns])
    for whole, part in zip(data.records, few.records, strict=True):
        for ours, theirs in zip((0, 2), (columns[0], columns[2]), strict=True):
            assert part.boxes_of(ours) == whole.boxes_of(theirs)
    with pytest.raises(InputError, match="no class 'Tall'"):
        data.only(["Tall"])


def _cut(root: Path) -> None:
    path = root / "list_attr_celeba.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-2]))


def _swap(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "list_attr_celeba.txt").unlink(), r"no list_attr_celeba.txt of CelebA under .*looked"),
        (lambda root: (root / "list_eval_partition.txt").unlink(), r"no list_eval_partition.txt of CelebA"),
        (lambda root: (root / "img_align_celeba").rename(root / "x"), r"no pictures under .*unpack img_align_celeba"),
        (_cut, r"announces 6 faces and has 4: cut short"),
        (_swap("list_attr_celeba.txt", "6\n", "six\n"), r"list_attr_celeba.txt, line 1: 'six'; expected '202599'"),
        (_swap("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  7"), r"of 000003.jpg is 7; expected -1 or 1"),
        (_swap("list_attr_celeba.txt", "000002.jpg", "000002.jpg 1"), r"line 4: 41 values; expected 'a file name"),
        (_swap("list_landmarks_align_celeba.txt", "000006.jpg", "000009.jpg"), r"no row for 000006.jpg"),
        (_swap("list_eval_partition.txt", "000001.jpg 0", "000001.jpg 5"), r"000001.jpg into part '5'; expected 0, 1"),
    ],
)  # fmt: skip
def test_celeba_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    root = miniatures.celeba(tmp_path, 6, split=(2, 4))
    path = root / "list_attr_celeba.txt"  # a row whose first value is known
    lines = path.read_text().splitlines()
    lines[4] = lines[4].split()[0] + " -1 " + " ".join(lines[4].split()[2:])
    path.write_text("\n".join(lines))
    damage(root)
    with pytest.raises(InputError, match=said) as error:
        read_celeba(root, "test")
    assert "\n" not in str(error.value)


def test_celeba_pictures_that_are_not_there_are_left_out_aloud(tmp_path: Path) -> None:
    root = miniatures.celeba(tmp_path, 6, split=(2, 2))
    (root / "img_align_celeba/000004.jpg").unlink()
    with pytest.warns(SqueezeWarning, match="1 of 4 pictures"):
        faces = read_celeba(root, "test")
    assert faces.files == ("000003.jpg", "000005.jpg", "000006.jpg")
    for file in (root / "img_align_celeba").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="none of the 4 pictures"):
        read_celeba(root, "test")


@pytest.mark.parametrize(
    ("make", "read", "damage", "said"),
    [
        (miniatures.cub, read_cub, "CUB_200_2011/bounding_boxes.txt", r"no row for image 1 of images.txt"),
        (miniatures.cub, read_cub, "CUB_200_2011/images.txt", r"images.txt is empty"),
        (miniatures.pet, read_pet, "oxford-iiit-pet/annotations/test.txt", r"test.txt is empty"),
        (miniatures.voc, read_voc, "VOCdevkit/VOC2012/Annotations/2008_000000.xml", r"2008_000000.xml is no XML"),
        (miniatures.voc, read_voc, "VOCdevkit/VOC2012/ImageSets/Main/val.txt", r"val.txt is empty"),
        (miniatures.imagenet, read_imagenet, "LOC_synset_mapping.txt", r"LOC_synset_mapping.txt is empty"),
    ],
)  # fmt: skip
def test_damaged_lists_are_named(
    tmp_path: Path, make: Make, read: Callable[..., DataSet], damage: str, said: str
) -> None:
    root = make(tmp_path)
    text = "2 1 2 3 4\n" if "bounding" in damage else ""
    (root / damage).write_text(text)
    with pytest.raises(InputError, match=said):
        read(root)


@pytest.mark.parametrize("read", [read_cub, read_pet, read_voc, read_imagenet, read_celeba])
def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path, read: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=str(tmp_path)) as error:
        read(tmp_path)
    assert "expected" in str(error.value) or "looked for" in str(error.value)
    with pytest.raises(InputError):
        read(tmp_path, "holiday")


# --- by name ------------------------------------------------------------------------------------------


def test_a_name_before_a_colon_is_a_data_set_and_a_path_is_not(tmp_path: Path) -> None:
    assert parse("cub:some/where") == Spec("cub", None, Path("some/where"))
    assert parse("VOC@segmentation/val:/data/voc") == Spec("voc", "segmentation/val", Path("/data/voc"))
    for path in ("C:/photos", "photos/*.jpg", "notes:today.jpg", "a/cub:b"):
        assert parse(path) is None
    with contextlib.chdir(tmp_path):
        (tmp_path / "cub:x").touch()
        assert parse("cub:x") is None  # there is such a file
    with pytest.raises(InputError, match="no data set 'cup'; expected celeba, cub"):
        parse("cup:folder")
    with pytest.raises(InputError, match="no data set 'coco'"):
        parse("coco@val:folder")


def test_pictures_of_a_set_by_name_with_the_part_for_the_purpose(tmp_path: Path) -> None:
    spec = f"cub:{miniatures.cub(tmp_path)}"
    shown, fitted = find_images(spec), find_images([spec], fitting=True)
    assert (len(shown), len(fitted)) == (8, 16)
    assert {s.path for s in find_images(f"cub@train:{tmp_path}")} == {s.path for s in fitted}
    assert [source.target for source in shown] == open_set(spec).targets().tolist()
    assert shown[0].read().size == (80, 60)


def _torchvision():  # type: ignore[no-untyped-def]
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from squeezecam.models.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    import torchvision.datasets

    return torchvision
