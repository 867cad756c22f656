"""What tests ask of the batches of any store."""

from __future__ import annotations

import os
import time

import numpy as np
from models.chains import Hashes

from kvcore.stores import Batch, Outcome

WAIT_S = 30.0


def outcomes(batch: Batch) -> list[Outcome]:
    batch.wait()
    return [Outcome(outcome) for outcome in batch.outcomes.tolist()]


def wait_quiet(batch: Batch) -> None:
    until = time.monotonic() + WAIT_S
    while not batch.is_quiet():
        assert time.monotonic() < until
        time.sleep(0.001)


def chain(num_blocks: int) -> Hashes:
    """Hashes that nobody else has."""
    return np.frombuffer(os.urandom(16 * num_blocks), np.uint8).reshape(-1, 16).copy()
