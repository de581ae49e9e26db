"""Memory that long fits keep."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from squeezecam.memory import OTHERWISE

COUNT = """
import resource
import torch
from squeezecam.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
first = faults()
kept = keep_freed()
faults()
print(int(kept), first, faults())
"""
"""Page faults of eight times 64 MiB, 131,072 pages, by and by, before and after."""


def counted(**more: str) -> list[int]:
    clean = {name: value for name, value in os.environ.items() if name not in OTHERWISE}
    found = subprocess.run([sys.executable, "-c", COUNT], env={**clean, **more}, capture_output=True, check=True)
    return [int(part) for part in found.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library here is not GNU's")
def test_what_was_freed_is_used_again() -> None:
    kept, before, after = counted()
    assert kept == 1
    assert after < before / 8


def test_who_has_a_say_in_it_is_left_alone() -> None:
    kept, *_ = counted(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == 0
