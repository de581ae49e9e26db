"""Writing files: whole or not at all, with one clear line when it cannot be done."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from squeezecam.errors import InputError
from squeezecam.wording import shortened

if TYPE_CHECKING:
    from PIL import Image

PathLike = str | os.PathLike[str]

_PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); it takes the name ``path`` when the block ends well.

    On any exception, an interrupt included, the temporary file is removed and an older ``path`` stays as it was.
    For writers that want a file name; `atomic_write` gives an open handle. A symbolic link stays a link (its target is
    replaced), and a device or pipe (``/dev/stdout``) is written directly.

    Raises:
        InputError: the file cannot be written (no such folder, no permission, disk full, read-only, a folder there).
    """
    target = file_target(path)
    if _is_special(target):
        with _clear_errors(target, target):
            yield target
        return
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"cannot write {target}: the file is read-only")  # a rename would not ask
    temporary = _temporary_beside(target)
    with _clear_errors(target, temporary):
        try:
            # Created here, not by the writer: an unwritable folder then fails before the work, and never overwrites.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Yield a binary handle; what is written to it becomes the file ``path`` when the block ends well.

    See `atomic_path` for what happens otherwise, and for errors.
    """
    # The handle closes, hence is flushed, before the rename: a full disk shows in time.
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        yield handle


def write_bytes(path: PathLike, data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically and return the path."""
    with atomic_write(path) as handle:
        handle.write(data)
    return Path(path)


def write_text(path: PathLike, text: str) -> Path:
    r"""Write ``text`` as UTF-8 with ``\n`` line ends; characters that UTF-8 cannot hold are written as ``?``."""
    return write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: PathLike, value: object) -> Path:
    """Write ``value`` as JSON (UTF-8, indented). Arrays and tensors become lists, NaN and infinities ``null``.

    Raises:
        InputError: something in ``value`` has no JSON form, or the file cannot be written.
    """
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: PathLike, arrays: Mapping[str, Any]) -> Path:
    """Write named arrays (NumPy, CPU tensors, numbers) as a compressed ``.npz``; equal arrays give equal bytes.

    Raises:
        InputError: an array of Python objects (reading it back would need unpickling), or the file cannot be written.
    """
    import numpy as np

    with atomic_write(path) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in arrays.items():
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
            if array.dtype.hasobject:
                raise InputError(
                    f"cannot write {name!r} to {os.fspath(path)}: an array of Python objects; give numbers or text"
                )
            # The fixed date of ZipInfo (1980) is what makes the bytes reproducible.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return Path(path)


def write_picture(path: PathLike, picture: Image.Image) -> Path:
    """Write a picture in the format that the suffix names: ``.png`` (the choice for maps), ``.jpg`` or ``.webp``."""
    suffix = Path(path).suffix.lower()
    if suffix not in _PICTURE_FORMATS:
        raise InputError(
            f"cannot write a picture to {os.fspath(path)}: its name must end in one of {', '.join(_PICTURE_FORMATS)}"
        )
    # Encoded in memory first: Pillow turns a full disk into "encoder error -2", a plain write says what is wrong.
    encoded = io.BytesIO()
    # PNG at level 1: a tenth larger than at Pillow's 6, but the encoder, not the model, would take most of the time.
    settings = {"compress_level": 1} if suffix == ".png" else {"quality": 92}
    picture.save(encoded, _PICTURE_FORMATS[suffix], **settings)
    return write_bytes(path, encoded.getvalue())


def output_folder(path: PathLike) -> Path:
    """Create the folder ``path`` (and its parents) where missing, try that it can be written to, and return it.

    Raises:
        InputError: a file is in the way, or the folder cannot be created or written to.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried, not asked: permission bits say little about read-only mounts, quotas and access lists.
        probe = folder / f".write-test-{secrets.token_hex(4)}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
    except FileExistsError:
        raise InputError(f"cannot use {folder} as output folder: a file has that name; give another") from None
    except NotADirectoryError:
        raise InputError(f"cannot create the output folder {folder}: a part of the path is a file") from None
    except OSError as error:
        raise InputError(f"cannot write to the output folder {folder}: {_reason(error)}") from None
    return folder


def plain(value: object) -> Any:
    """Turn ``value`` into what JSON can hold: dict, list, str, int, float, bool, None.

    Raises:
        InputError: something in it has no such form.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, tensors
        return plain(value.tolist())
    raise InputError(f"cannot write a {type(value).__name__} as JSON; give numbers, text, lists or dicts")


def file_target(path: PathLike) -> Path:
    """The file that a name stands for, links followed.

    Raises:
        InputError: a folder has that name, or the name is longer than the file system allows.
    """
    given = Path(path).expanduser()
    try:
        folder = given.is_dir()
    except OSError as error:  # a name that is longer than the file system allows
        raise InputError(f"cannot write {shortened(str(given), 100)}: {_reason(error)}") from None
    if folder:
        raise InputError(f"cannot write {given}: it is a folder; give a file name in it")
    return Path(os.path.realpath(given))


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()


def _temporary_beside(target: Path) -> Path:
    # The suffix stays last (writers choose the format by it); the stem is cut so that the name stays within 255 bytes.
    stem = target.stem.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    return target.with_name(f".{stem}.{secrets.token_hex(6)}.part{target.suffix}")


@contextlib.contextmanager
def _clear_errors(target: Path, temporary: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) not in (str(temporary), str(target)):
            raise  # about another file, which the caller was reading meanwhile
        if isinstance(error, FileNotFoundError):
            raise InputError(f"cannot write {target}: the folder {target.parent} does not exist") from None
        if isinstance(error, NotADirectoryError):
            raise InputError(f"cannot write {target}: {target.parent} is not a folder") from None
        raise InputError(f"cannot write {target}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
