"""Freed memory stays with the process, where the C library can do so."""

import platform
import subprocess
import sys

import pytest

from vanilla_transformer.training.memory import keep_freed_memory

COUNT_PAGE_FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from vanilla_transformer.training.memory import keep_freed_memory
    assert keep_freed_memory()
for update in range(12):
    if update == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)  # 40 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the option")
def test_an_update_reuses_the_memory_of_the_one_before():
    faults = {}
    for choice in ("keep", "return"):
        command = [sys.executable, "-c", COUNT_PAGE_FAULTS, choice]
        faults[choice] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["return"] / 2


def test_other_c_libraries_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
