"""Memory of the process: how the C library handles what tensors free.

Nothing here knows of tensors.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt, as in glibc's malloc.h
_USUAL_MMAP_MAX = 65536
_LARGE = 1 << 18


def keep_freed_memory() -> bool:
    """Let the process keep the memory that is freed; does nothing where the C library is not glibc.

    glibc gives large blocks back to the system at once and gets them again page by page: at a crop of 256 that was a
    fifth of a training step's processor time on two cores of a virtual machine. The process stays as large as it
    was at its largest.

    Returns:
        Whether the C library has taken it.
    """
    return _set_malloc({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


def return_freed_memory() -> bool:
    """Let large blocks, of 256 KiB and more, go back to the system once they are freed; the opposite of the above.

    By default glibc raises the size from which it does so to up to 32 MiB, and keeps what is smaller in a heap with
    holes, as aligned blocks of one size do not fit where another was. The process then takes what its tensors take
    and little more, but gets every block anew, page by page. On a virtual machine with two threads
    (`benchmarks/memory_plan.py --size 1280x720 --malloc ...`):

    | DeepLabV3+ (tf_efficientnet_lite0), 1280x720, scales 0.5 1 2 | peak | wall | processor |
    |---|---|---|---|
    | this way | 1253 MB | 4.5 s | 8.6 s |
    | by default | 1431 MB | 3.6 s | 6.8 s |
    | `keep_freed_memory` | 1955 MB | 2.5 s | 5.0 s |

    Returns:
        Whether the C library has taken it.
    """
    return _set_malloc({_MMAP_MAX: _USUAL_MMAP_MAX, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: _LARGE})


def trim_memory() -> None:
    """Give back to the system now what is free; does nothing where the C library is not glibc."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _set_malloc(options: dict[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return all(library.mallopt(option, value) for option, value in options.items())
