"""Memory of the process: how the C library handles what tensors free.

Nothing here knows of tensors.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, as in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep the memory that is freed; does nothing where the C library is not glibc.

    glibc gives large blocks back to the system at once and gets them again page by page: at a crop of 256 that was a
    fifth of a training step's processor time on two cores of a virtual machine. The process stays as large as it
    was at its largest.

    Returns:
        Whether the C library has taken it.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1))
