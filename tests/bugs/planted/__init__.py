"""Bugs that the tests must notice, by what they are in."""

from planted import cache, table
from planted.bug import Bug

BUGS: list[Bug] = [*table.BUGS, *cache.BUGS]
__all__ = ["BUGS", "Bug"]
