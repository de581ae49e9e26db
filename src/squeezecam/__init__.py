"""squeezecam: heatmaps that the model computes itself.

One squeeze-and-excitation block before the classifier, fitted in seconds, and every forward pass carries its own
explanation: no gradients, no change to the model. Method: Roxo, Costa, Inácio, Proença, *How to Squeeze An Explanation
Out of Your Model*, arXiv 2412.05134.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from squeezecam.anatomy import Site
from squeezecam.attach import Squeeze, attach, get
from squeezecam.block import SEBlock
from squeezecam.errors import (
    AdapterError,
    FitError,
    InputError,
    ModelError,
    SiteError,
    SqueezeError,
    SqueezeWarning,
)

if TYPE_CHECKING:
    from squeezecam.adapter import load
    from squeezecam.evaluation import compare, evaluate
    from squeezecam.explanation import Explanation
    from squeezecam.inspection import inspect

__version__ = "0.1.0"

_LAZY = {
    "load": "squeezecam.adapter",
    "Explanation": "squeezecam.explanation",
    "inspect": "squeezecam.inspection",
    "compare": "squeezecam.evaluation",
    "evaluate": "squeezecam.evaluation",
    "vector": "squeezecam.vector",
    "heatmap": "squeezecam.heatmap",
}

__all__ = [
    "AdapterError",
    "Explanation",
    "FitError",
    "InputError",
    "ModelError",
    "SEBlock",
    "Site",
    "SiteError",
    "Squeeze",
    "SqueezeError",
    "SqueezeWarning",
    "attach",
    "compare",
    "evaluate",
    "get",
    "inspect",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name])
        return module if module.__name__.endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module 'squeezecam' has no attribute '{name}'")
