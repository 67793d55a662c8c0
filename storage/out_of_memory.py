"""Which errors say that memory did not suffice, whoever raises them: Python, torch's allocators, or CUDA's libraries.

What is done then is decided elsewhere.
"""

_TEXTS = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory"),
    # of cuBLAS and cuDNN, as torch hands them on; what cannot be initialised has as a rule no room to be
    *("ALLOC_FAILED", "ALLOCATION_FAILED", "STATUS_NOT_INITIALIZED"),
    # of torch, where cuDNN had no room to work in, whatever algorithm it tried
    "unable to find an engine to execute this computation",
    # of torch's kernels, some of which count with 32 bits: fewer images, or tiles, are within that
    "less than INT_MAX elements",
)
"""In messages of torch's allocators, of the system, and of CUDA's libraries where they want room of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the device's or the host's, did not suffice.

    torch's own kind is known by its name, as nothing here needs torch; on the CPU it has none and is told by its text.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
