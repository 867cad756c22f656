"""Clusters: which servers there are, and which of them has what."""

from kvcore.cluster.aibrix import AibrixSource
from kvcore.cluster.members import ClusterError, Members, Server, SlotRange
from kvcore.cluster.plan import Move, Plan, plan_change, shares
from kvcore.cluster.sources import DnsSource, Source, StaticSource
from kvcore.cluster.watcher import Watcher

__all__ = [
    "AibrixSource",
    "ClusterError",
    "DnsSource",
    "Members",
    "Move",
    "Plan",
    "Server",
    "SlotRange",
    "Source",
    "StaticSource",
    "Watcher",
    "plan_change",
    "shares",
]
