"""Bugs that the tests must notice, by what they are in."""

from planted import cache, queues, table
from planted.bug import Bug

BUGS: list[Bug] = [*table.BUGS, *cache.BUGS, *queues.BUGS]
__all__ = ["BUGS", "Bug"]
