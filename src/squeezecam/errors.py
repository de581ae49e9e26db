"""Typed errors: each says what was given, what was expected and what to try."""

from __future__ import annotations


class SqueezeError(Exception):
    """Base of everything that squeezecam raises on purpose."""


class SiteError(SqueezeError):
    """No usable place for a block: the model has no spatial map, or the named place does not exist or does not fit."""


class InputError(SqueezeError, ValueError):
    """An argument, an image or a file that cannot be used as given."""


class FitError(SqueezeError):
    """A fit that cannot start or cannot go on: no batches, no finite features, labels that do not fit the task."""


class AdapterError(SqueezeError):
    """An adapter file that is damaged, or that belongs to another model."""


class ModelError(SqueezeError):
    """A ``--model`` string, a factory or a weights file that does not give a usable model."""


class SqueezeWarning(UserWarning):
    """Something works, but not as the user may think."""


MODEL_FAILED = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What somebody else's model raises on an input that it does not take."""
