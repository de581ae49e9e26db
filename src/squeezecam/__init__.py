"""squeezecam: heatmaps that the model computes itself.

One squeeze-and-excitation block before the classifier, fitted in seconds, and every forward pass carries its own
explanation: no gradients, no change to the model. Method: Roxo, Costa, Inácio, Proença, *How to Squeeze An Explanation
Out of Your Model*, arXiv 2412.05134.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

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
    from squeezecam.anatomy import Site
    from squeezecam.attach import attach, get
    from squeezecam.block import SEBlock
    from squeezecam.evaluation import compare, evaluate
    from squeezecam.explanation import Explanation
    from squeezecam.inspection import inspect
    from squeezecam.module import Squeeze
    from squeezecam.parity import parity

__version__ = "0.1.0"

# Loaded at their first use: torch takes seconds, and the command line must answer --help and Ctrl-C before that.
_LAZY = {
    "SEBlock": "squeezecam.block",
    "Site": "squeezecam.anatomy",
    "Squeeze": "squeezecam.module",
    "attach": "squeezecam.attach",
    "get": "squeezecam.attach",
    "load": "squeezecam.adapter",
    "Explanation": "squeezecam.explanation",
    "inspect": "squeezecam.inspection",
    "compare": "squeezecam.evaluation",
    "evaluate": "squeezecam.evaluation",
    "parity": "squeezecam.parity",
    "vector": "squeezecam.vector",
    "heatmap": "squeezecam.heatmap",
}
_ROOMS = ("vector", "heatmap")
"""Those that are modules."""

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
    "parity",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name])
        return module if name in _ROOMS else getattr(module, name)
    raise AttributeError(f"module 'squeezecam' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


class _Package(ModuleType):
    """``squeezecam.attach`` stays the function when the module of that name is imported, which would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _LAZY and name not in _ROOMS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
