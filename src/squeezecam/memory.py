"""Memory that is kept for the next batch: a good part of the time of a pass on a CPU can go into getting it again."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from ``malloc.h`` of the GNU C library."""
LARGEST = 2**31 - 1
"""Bytes, the most that they take."""
OTHERWISE = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which the user has a say in the same."""


def keep_freed() -> bool:
    """Have the C library keep what this process frees, instead of giving it back to the system; True if it does.

    By default the GNU library maps every block of some MiB and more anew and unmaps it when it is freed, and the system
    clears each page of it again: activations of a batch are such blocks. For the whole process and its whole life, so
    this is for commands, not for the library. Nothing is done without that library, or where the user has set one of
    :data:`OTHERWISE`.
    """
    if any(name in os.environ for name in OTHERWISE):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - others have mallopt with other numbers
        return all(library.mallopt(which, LARGEST) == 1 for which in (MMAP_THRESHOLD, TRIM_THRESHOLD))
    except (AttributeError, OSError, TypeError):  # another C library; another system
        return False
