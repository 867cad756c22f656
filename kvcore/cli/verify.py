"""`kvcore replay --verify-bytes`: the same replay with bytes, each checked as it is handed out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import click
from rich.markup import escape

from kvcore import HostSlab, KVCache, Namespace
from kvcore.cli import InputError
from kvcore.cli.output import console, new_table
from kvcore.sim import Capacity, Trace
from kvcore.stores import open_store
from kvcore.verify import VerifyResult, WrongBytesError, verify

_FINGERPRINT = Namespace("kvcore replay").fingerprint


def replay_with_bytes(
    traces: Iterable[Trace],
    policies: Sequence[str],
    capacities: Sequence[Capacity],
    block_bytes: int,
    store_url: str | None,
) -> list[dict[str, object]]:
    """Replays all, one after the other, and prints what was found where; the rows of a report."""
    if block_bytes % 64 != 0:
        raise InputError(f"--block-bytes must be a multiple of 64, got {block_bytes}")
    rows = []
    table = new_table(f"bytes verified, blocks of {block_bytes:,}")
    for heading in ("trace", "policy", "capacity"):
        table.add_column(heading, no_wrap=True)
    for heading in ("blocks\nasked for", "from\nslab", "from\nstore", "corrupt", "bytes\nchecked"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trace in traces:
        for policy in policies:
            for capacity in capacities:
                num_blocks = capacity.blocks(trace.num_unique_blocks)
                found, corrupt = _verify(trace, policy, num_blocks, block_bytes, store_url)
                rows.append(
                    {"trace": trace.name, "policy": policy, "capacity": capacity.text}
                    | asdict(found)
                    | {"corrupt": corrupt}
                )
                table.add_row(
                    escape(trace.name),
                    policy,
                    capacity.text,
                    f"{found.blocks:,}",
                    f"{found.host_blocks:,}",
                    f"{found.store_blocks:,}",
                    f"{corrupt:,}",
                    f"{found.checked_bytes:,}",
                )
    console().print(table)
    return rows


def _verify(
    trace: Trace, policy: str, num_blocks: int, block_bytes: int, store_url: str | None
) -> tuple[VerifyResult, int]:
    try:
        slab = HostSlab(num_blocks, block_bytes)
        store = None if store_url is None else open_store(store_url, _FINGERPRINT, block_bytes)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    try:
        with KVCache(slab, store, policy=policy) as cache:
            found = verify(trace, cache)
        stats = cache.stats().store
    except WrongBytesError as error:
        raise click.ClickException(str(error)) from None
    finally:
        if store is not None:
            store.close()
    return found, 0 if stats is None else stats.corrupt
