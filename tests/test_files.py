"""Files are written whole or not at all, and failures are one clear line."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from squeezecam import files
from squeezecam.errors import InputError


def test_written_whole_and_nothing_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with files.atomic_write(target) as handle:
        handle.write(b"half")
        assert not target.exists()
        assert [file.suffix for file in tmp_path.iterdir()] == [".bin"]  # in the same folder, same suffix
        handle.write(b" and half")
    assert target.read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_leaves_the_old_file_and_no_rest(tmp_path: Path, exception: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with files.atomic_write(target) as handle:
            handle.write(b"new, but")
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_that_is_too_long_is_one_short_line(tmp_path: Path) -> None:
    for write in (files.write_text, lambda path, text: files.file_target(path)):
        with pytest.raises(InputError, match=r"cannot write .*\.\.\..*: file name too long") as raised:
            write(tmp_path / ("x" * 300), "")
        assert len(str(raised.value)) < 200


def test_permissions_follow_the_umask_or_the_file_that_was_there(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    files.write_text(tmp_path / "new", "y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_long_name_is_written(tmp_path: Path) -> None:
    name = "ä" * 120 + ".txt"  # 244 bytes: the temporary name must not be longer than the system allows
    files.write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="cannot write /dev/full: no space left on device"):
        files.write_text("/dev/full", "x" * 100_000)


def test_a_full_disk_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.bin: no space left"),
        files.atomic_write(tmp_path / "a.bin"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_missing_folder_file_as_folder_and_folder_as_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        files.write_text(tmp_path / "nowhere" / "a.txt", "x")
    with pytest.raises(InputError, match="file is not a folder"):
        files.write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(InputError, match="it is a folder"):
        files.write_text(tmp_path, "x")


def test_no_permission_and_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Through the system call: whoever runs the tests as root may write everywhere.
    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="permission denied"):
        files.write_text(tmp_path / "a", "x")
    with pytest.raises(InputError, match=r"cannot write to the output folder .*: permission denied"):
        files.output_folder(tmp_path)
    monkeypatch.undo()
    (tmp_path / "locked").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="read-only"):
        files.write_text(tmp_path / "locked", "new")
    assert (tmp_path / "locked").read_text() == "old"


def test_an_error_about_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "a"):
        os.stat(tmp_path / "something else")


def test_output_folder_is_made_checked_and_left_empty(tmp_path: Path) -> None:
    made = files.output_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert os.listdir(made) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file has that name"):
        files.output_folder(tmp_path / "file")
    with pytest.raises(InputError, match="part of the path is a file"):
        files.output_folder(tmp_path / "file" / "deeper")


def test_json_holds_what_measurements_hold(tmp_path: Path) -> None:
    value = {
        "f": np.float32(0.5), "i": np.int64(3), "nan": float("nan"), "inf": [np.inf], "array": np.eye(2),
        "tensor": torch.arange(2), "path": tmp_path, "set": {1}, "text": "Fußgänger", 4: True,
    }  # fmt: skip
    read = json.loads(files.write_json(tmp_path / "a.json", value).read_text("utf-8"))
    assert read == {
        "f": 0.5, "i": 3, "nan": None, "inf": [None], "array": [[1.0, 0.0], [0.0, 1.0]],
        "tensor": [0, 1], "path": str(tmp_path), "set": [1], "text": "Fußgänger", "4": True,
    }  # fmt: skip
    with pytest.raises(InputError, match="cannot write a object as JSON"):
        files.write_json(tmp_path / "b.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]


def test_npz_round_trip_is_reproducible_and_refuses_objects(tmp_path: Path) -> None:
    arrays = {"file": np.arange(6).reshape(2, 3), "map": torch.ones(2, requires_grad=True), "n": 3}
    first = files.write_npz(tmp_path / "a.npz", arrays).read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["file"], [[0, 1, 2], [3, 4, 5]])
        np.testing.assert_array_equal(read["map"], [1, 1])
        assert read["n"] == 3
    assert files.write_npz(tmp_path / "b.npz", arrays).read_bytes() == first
    with pytest.raises(InputError, match="Python objects"):
        files.write_npz(tmp_path / "c.npz", {"x": np.array([object()])})
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


def test_pictures_by_suffix(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    files.write_picture(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as read:
        assert read.format == "PNG"
        assert read.getpixel((2, 1)) == (10, 20, 30)
    files.write_picture(tmp_path / "a.JPG", picture)
    with Image.open(tmp_path / "a.JPG") as read:
        assert read.format == "JPEG"
    with pytest.raises(InputError, match=r"must end in one of \.png"):
        files.write_picture(tmp_path / "a.txt", picture)
