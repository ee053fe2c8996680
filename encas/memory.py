"""How the C library hands memory back, which decides how fast networks run on a CPU."""

import ctypes

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for the next allocation, and say whether the C library can do so.

    Torch frees each layer's activations, tens of megabytes, and glibc returns them to the system, which
    clears every page before it gives them out again for the next layer: 74 instead of 46 ms a sample for
    EfficientNet-Lite1 at batch 64. The process then keeps the most that it ever had; call this in programs,
    not in libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
