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

RETURNING = """
import sys
from pathlib import Path
import numpy as np
from pipeline.memory import keep_freed_memory, return_freed_memory, trim_memory
keep_freed_memory()  # as after a training in the same process
assert return_freed_memory()
trim_memory()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
blocks = [np.ones(10**6, np.uint8) for _ in range(100)]
held = resident()
del blocks[:-1]  # what is left lies behind them
print(held - before, resident() - before)
"""


def run_script(script: str) -> list[int]:
    """The numbers that a script prints, in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False, timeout=600
    )
    if "AssertionError" in run.stderr:
        pytest.skip("the C library is not glibc")
    assert run.returncode == 0, run.stderr
    return [int(number) for number in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """Large blocks that are freed and taken again cost no page faults once the C library keeps them."""
    (faults,) = run_script(SCRIPT)
    assert faults < 2000  # 20 blocks of 8192 pages are 164,000 otherwise


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Blocks that are freed are no longer resident, even before one that is kept, once the C library returns them."""
    held, left = run_script(RETURNING)
    assert held > 95e6
    assert left < 10e6
