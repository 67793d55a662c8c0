"""Memory of the process: how the C library handles what tensors free.

Nothing here knows of tensors.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt, as in glibc's malloc.h
_USUAL_MMAP_MAX = 65536
_NEVER = -1
_SMALL, _LARGE, _LARGEST = 1 << 16, 1 << 18, 1 << 25  # the last is the most that glibc takes


def keep_freed_memory() -> bool:
    """Let the process keep the memory that is freed; does nothing where the C library is not glibc.

    glibc gives large blocks back to the system at once and gets them again page by page: at a crop of 256 that was a
    fifth of a training step's processor time on two cores of a virtual machine. The process stays as large as it
    was at its largest.

    Returns:
        Whether the C library has taken it.
    """
    return _set_malloc({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})


def keep_all_but_the_largest() -> bool:
    """Let the process keep what is freed, but for blocks of 32 MiB and more: the middle between the other two.

    Such blocks are few, and where none of their size is free they would make the heap larger, holes or not.

    Returns:
        Whether the C library has taken it.
    """
    return _set_malloc({_MMAP_MAX: _USUAL_MMAP_MAX, _MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: _NEVER})


def return_freed_memory(smallest: int = _LARGE) -> bool:
    """Let large blocks go back to the system once they are freed; the opposite of the first.

    By default glibc raises the size from which it does so to up to 32 MiB, and keeps what is smaller in a heap with
    holes, as aligned blocks of one size do not fit where another was. The process then takes what its tensors take
    and little more, but gets every block anew, page by page.

    Args:
        smallest: bytes of a block that goes back.

    Returns:
        Whether the C library has taken it.
    """
    return _set_malloc({_MMAP_MAX: _USUAL_MMAP_MAX, _MMAP_THRESHOLD: smallest, _TRIM_THRESHOLD: smallest})


def return_weights() -> bool:
    """Before a network is loaded: also the weights of small layers go back when they are folded into others.

    Else the heap has holes where they were: of HRNet-OCR, 190 MB beside weights of 290.

    Returns:
        Whether the C library has taken it.
    """
    return return_freed_memory(_SMALL)


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
