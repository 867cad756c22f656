from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

def pack(tokens: Sequence[int] | npt.NDArray[Any], argument: str = "tokens") -> memoryview:
    """Pack token ids into a C-contiguous buffer of uint32.

    A C-contiguous buffer of native uint32, or of int32 without negative values, is passed through
    without a copy; everything else is checked and copied.

    Parameters
    ----------
    tokens
        A sequence of ints, or a one-dimensional buffer of integers in native byte order; each value
        0 to 2**32 - 1. Bools, bytes and bytearrays are refused.
    argument
        What errors call `tokens`.

    Returns
    -------
    uint32[num_tokens]

    Raises
    ------
    TypeError
        `tokens` is no such sequence, or an item is no int; a message names the argument.
    ValueError
        A token is out of range; the message names its position, its value and what is allowed.

    Notes
    -----
    Thread safe: on a free-threaded interpreter a list is locked while it is read.
    """
