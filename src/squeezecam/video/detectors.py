"""Face detectors from other packages, behind one function: pixels of a frame to boxes and scores.

None is a dependency of this package and none of its weights comes with it; each is imported when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezecam.errors import InputError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTALL = {
    "mtcnn": "pip install requests && pip install --no-deps facenet-pytorch  (its pins are older than it needs)",
    "yunet": "pip install opencv-python-headless, and give a model: --face-detector face_detection_yunet.onnx",
}
"""How each detector comes onto a machine."""
SMALLEST = 0.07
"""Smallest face that is looked for, as a share of the frame's shorter side."""


@dataclass(frozen=True)
class Detections:
    """Faces of one frame: boxes ``(n, 4)`` as x0, y0, x1, y1 in pixels, brow to chin, and scores ``(n,)`` in [0, 1]."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


FaceDetector = Callable[["NDArray[np.uint8]"], Detections]
"""From upright RGB pixels ``(H, W, 3)`` to the faces on them."""


def face_detector(name: str | None = None) -> FaceDetector:
    """A detector by name.

    Args:
        name: ``"mtcnn"``: MTCNN of facenet-pytorch, whose wheel holds its weights. A file ``*.onnx``: YuNet through
            OpenCV. None: mtcnn.

    Raises:
        ModelError: it is not installed (with what to install), or its model file cannot be read.
        InputError: no such name.

    """
    if name is None or name == "mtcnn":
        return _mtcnn()
    if name.lower().endswith(".onnx"):
        return _yunet(Path(name))
    raise InputError(f"no face detector '{name}': expected mtcnn, or a YuNet model as a file *.onnx")


def trimmed(boxes: NDArray[np.floating], left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    """Boxes without these shares of their width and height: detectors differ in what they take a face to be."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    cut = np.stack([left * width, top * height, -right * width, -bottom * height], 1)
    trimmed_boxes: NDArray[np.float64] = boxes + cut
    return trimmed_boxes


def _mtcnn() -> FaceDetector:
    """MTCNN (Zhang et al., 2016), boxes from the hairline to the chin: the upper third is cut off."""
    stages: Any = _module("facenet_pytorch.models.utils.detect_face", "mtcnn")
    mtcnn = _module("facenet_pytorch", "mtcnn").MTCNN
    if not _torchvision_has_nms():
        # Only where torchvision's own kernel did not load, without which the package stops.
        stages.batched_nms = _batched_nms

    @functools.lru_cache(maxsize=2)
    def net(size: tuple[int, int]) -> Any:
        return mtcnn(keep_all=True, device="cpu", min_face_size=max(20, round(SMALLEST * min(size))))

    def detect(pixels: NDArray[np.uint8]) -> Detections:
        from PIL import Image

        boxes, scores = net(pixels.shape[:2]).detect(Image.fromarray(pixels))
        if boxes is None:
            return Detections(np.zeros((0, 4)), np.zeros(0))
        return Detections(trimmed(np.array(boxes, float), 0, 1 / 3, 0, 0), np.asarray(scores, float))

    return detect


def _yunet(file: Path) -> FaceDetector:
    """YuNet (Wu et al., 2023) through OpenCV, boxes from forehead to chin."""
    cv2 = _module("cv2", "yunet")
    if not hasattr(cv2, "FaceDetectorYN"):
        raise ModelError(f"OpenCV {cv2.__version__} has no FaceDetectorYN: {INSTALL['yunet']}")
    if not file.is_file():
        raise ModelError(f"no face detector at {file}: --face-detector takes a YuNet model as .onnx")
    try:
        net = cv2.FaceDetectorYN.create(str(file), "", (320, 320), 0.6)
    except cv2.error as error:
        raise ModelError(f"{file} cannot be read as a YuNet model: {' '.join(str(error).split())[:200]}") from None

    def detect(pixels: NDArray[np.uint8]) -> Detections:
        net.setInputSize((pixels.shape[1], pixels.shape[0]))
        try:
            faces = net.detect(np.ascontiguousarray(pixels[:, :, ::-1]))[1]
        except cv2.error as error:
            raise ModelError(f"{file} does not work as a YuNet model: {' '.join(str(error).split())[:200]}") from None
        rows = np.zeros((0, 15)) if faces is None else np.asarray(faces, float)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
        return Detections(trimmed(boxes, 0, 0.25, 0, 0), rows[:, -1])

    return detect


def _module(name: str, detector: str) -> ModuleType:
    import importlib

    from squeezecam.models.torchvision_guard import ensure_torchvision

    try:
        if name.startswith("facenet_pytorch"):
            ensure_torchvision()
        return importlib.import_module(name)
    except Exception as error:  # whatever the import of somebody else's package comes to
        raise ModelError(
            f"the face detector {detector} cannot be loaded ({type(error).__name__}: {error}): {INSTALL[detector]}; or "
            "give the faces yourself: --tracks FILE.csv"
        ) from None


def _torchvision_has_nms() -> bool:
    import torch

    return bool(
        hasattr(torch.ops.torchvision, "nms")
        and torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU")
    )


def _batched_nms(boxes: Any, scores: Any, groups: Any, threshold: float) -> Any:
    """Indices of the boxes that no better one of their group overlaps by more than ``threshold``, best first."""
    import torch

    order, kept = scores.argsort(descending=True), []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        size = torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        shared = size.clamp_min(0).prod(1)
        overlap = shared / (area[best] + area[rest] - shared)
        order = rest[(overlap <= threshold) | (groups[rest] != groups[best])]
    return torch.stack(kept) if kept else order
