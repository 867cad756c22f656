"""Bugs that the tests must notice, by what they are in."""

from planted import (
    bindings,
    cache,
    cluster,
    codecs,
    device,
    hashes,
    histories,
    learning,
    moving,
    parts,
    queues,
    rdma,
    remote,
    served,
    shares,
    sim,
    table,
)
from planted.bug import Bug

_AREAS = (
    hashes,
    table,
    queues,
    histories,
    learning,
    cache,
    shares,
    sim,
    bindings,
    device,
    moving,
    codecs,
    parts,
    rdma,
    remote,
    served,
    cluster,
)
BUGS: list[Bug] = [bug for area in _AREAS for bug in area.BUGS]
__all__ = ["BUGS", "Bug"]
