"""The C library's handling of freed memory, in processes of their own: it cannot be set back."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource
import numpy as np
from pipeline.memory import keep_freed_memory
assert keep_freed_memory()
np.ones(2**25, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**25, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """Large blocks that are freed and taken again cost no page faults once the C library keeps them."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    if "AssertionError" in run.stderr:
        pytest.skip("the C library is not glibc")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2000  # 20 blocks of 8192 pages are 164,000 otherwise
