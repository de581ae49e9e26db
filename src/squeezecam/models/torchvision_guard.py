"""Optional packages: the import guard for torchvision, and one clear line where something is not installed.

A torchvision whose compiled operators do not load (built for CUDA beside a CPU build of PyTorch, or for another version
of it) cannot be imported at all, because it declares fake kernels for operators that never came into being. Models,
transforms and data sets need none of these operators, so the guard declares them by name and imports again.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType

import torch

from squeezecam.errors import ModelError

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SYMPTOM = "operator torchvision::nms does not exist"
_NEEDS_TORCHVISION = frozenset({"torchvision", "timm", "transformers", "pytorch_grad_cam"})
_DISTRIBUTIONS = {"pytorch_grad_cam": "grad-cam", "PIL": "pillow"}

_lock = threading.RLock()
_done = False
_library: torch.library.Library | None = None  # the declarations vanish with the object that made them


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work where only its compiled operators are at fault; call it before timm and others.

    The real import is tried first. On ``RuntimeError: operator torchvision::nms does not exist``, and on nothing else,
    the half-imported modules are forgotten, ``nms`` and ``qnms`` are declared without a kernel, and the import is tried
    again: ``torchvision.ops.nms`` and ``torchvision.io`` stay unusable, the rest works.

    Nothing happens where torchvision is healthy, not installed, or was ensured before. Several threads may call it.

    Raises:
        Exception: whatever else the import of an installed torchvision raises, unchanged.
    """
    global _done, _library
    if _done:
        return
    with _lock:
        if _done or importlib.util.find_spec("torchvision") is None:
            return
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if _SYMPTOM not in str(error):
                raise
            for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
                del sys.modules[name]
            _library = _library or _declare()
            importlib.import_module("torchvision")
        _done = True


def _declare() -> torch.library.Library:
    library: torch.library.Library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):  # somebody else's workaround may have declared one of the two
            library.define(f"{name}{_SCHEMA}")
    return library


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, after the guard where it needs torchvision.

    Args:
        package: name to import, dotted or not: ``"timm"``, ``"timm.data"``, ``"pytorch_grad_cam"``.
        extra: the extra of squeezecam that brings it: ``"vision"``, ``"hf"``, ``"peers"``, ...

    Returns:
        The imported module (the last one of a dotted name).

    Raises:
        ModelError: it is not installed (with the pip command that cures it), or it is and its import fails.
    """
    top = package.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        shown = _DISTRIBUTIONS.get(top, top)
        raise ModelError(f"{shown} is not installed: pip install 'squeezecam[{extra}]'")
    try:
        if top in _NEEDS_TORCHVISION:
            ensure_torchvision()
        return importlib.import_module(package)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        raise ModelError(
            f"{package} is installed but cannot be imported: {type(error).__name__}: {reason}; "
            f"reinstall it: pip install --force-reinstall 'squeezecam[{extra}]'"
        ) from error
