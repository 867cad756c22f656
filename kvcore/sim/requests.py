"""The requests of a trace as an engine would tell them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kvcore._core import RequestInfo
from kvcore.hashing import BlockHasher
from kvcore.sim.trace import Trace


def requests_of(trace: Trace) -> Iterator[tuple[npt.NDArray[np.uint8], RequestInfo, int]]:
    """Each request's block hashes ``uint8[n, 16]``, what is told about it, and its output tokens.

    In order; a fresh `RequestInfo` each, so one pass is one run of an engine.
    """
    # A block id stands for one token: equal hashes are equal chains of ids, so equal prefixes.
    hash_chain = BlockHasher(1, "xxh3_128").hash
    block_ids = trace.block_ids
    offsets = trace.offsets.tolist()
    kinds = [trace.kinds[kind] for kind in trace.kind.tolist()]
    sessions = [str(session) if session >= 0 else "" for session in trace.session.tolist()]
    for begin, end, arrival_us, output_tokens, session, kind in zip(
        offsets[:-1],
        offsets[1:],
        trace.arrival_us.tolist(),
        trace.output_tokens.tolist(),
        sessions,
        kinds,
        strict=True,
    ):
        request = RequestInfo(session=session, kind=kind, arrival_us=arrival_us)
        yield hash_chain(block_ids[begin:end]), request, output_tokens
