"""Bugs that the tests must notice, by what they are in."""

from planted import cache, histories, learning, queues, table
from planted.bug import Bug

BUGS: list[Bug] = [*table.BUGS, *cache.BUGS, *queues.BUGS, *histories.BUGS, *learning.BUGS]
__all__ = ["BUGS", "Bug"]
