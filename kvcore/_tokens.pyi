from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

def pack(tokens: Sequence[int] | npt.NDArray[Any], argument: str = "tokens") -> memoryview: ...
