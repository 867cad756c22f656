"""Replays many (trace, policy, capacity) in parallel processes."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from kvcore.sim.optimum import OPTIMUM, optimum
from kvcore.sim.replay import Capacity, ReplayResult, replay
from kvcore.sim.trace import Trace


def sweep(
    traces: Iterable[Trace],
    policies: Sequence[str],
    capacities: Sequence[Capacity],
    jobs: int,
    on_result: Callable[[ReplayResult], None] = lambda result: None,
) -> list[ReplayResult]:
    """Replay every trace with every policy at every capacity.

    Traces are taken one by one and laid into a temporary directory, which the processes map into
    memory; it is removed at the end, also after an interrupt. Call it from the main thread.

    Parameters
    ----------
    traces : may be a generator that reads them
    policies : names of policies of `PrefixCache`; "opt" is the offline optimum
    capacities : capacities to try
    jobs : number of processes; 1 replays in this one
    on_result : called in this process after each replay, in the order in which they end

    Returns
    -------
    list[ReplayResult]
        Ordered by trace, then policy, then capacity.

    Raises
    ------
    concurrent.futures.process.BrokenProcessPool
        If a process died, for want of memory for instance.
    """
    with tempfile.TemporaryDirectory(prefix="kvcore-replay-") as root:
        directories = list(_save(traces, Path(root)))
        tasks = [(d, p, c) for d in directories for p in policies for c in capacities]
        if jobs == 1 or len(tasks) == 1:
            results = []
            for task in tasks:
                results.append(_replay_saved(*task))
                on_result(results[-1])
            return results
        with _processes(min(jobs, len(tasks))) as pool:
            with _signals_deferred():
                futures = [pool.submit(_replay_saved, *task) for task in tasks]
            for future in as_completed(futures):
                on_result(future.result())
        return [future.result() for future in futures]


def _replay_saved(directory: Path, policy: str, capacity: Capacity) -> ReplayResult:
    trace = Trace.load(directory)
    return optimum(trace, capacity) if policy == OPTIMUM else replay(trace, policy, capacity)


def _save(traces: Iterable[Trace], root: Path) -> Iterator[Path]:
    for number, trace in enumerate(traces):
        directory = root / str(number)
        directory.mkdir()
        trace.save(directory)
        yield directory


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that, left by an error or an interrupt, stops its processes instead of waiting."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        count,
        # fork is unsafe beside threads, such as that of a progress bar.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.pthread_sigmask,
        initargs=(signal.SIG_UNBLOCK, {signal.SIGTERM}),
    )
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while processes start, so that none is left half started.

    The processes inherit the mask: on a terminal Ctrl-C then reaches this one alone, which stops
    the others without a traceback from each. The mask would not do here, since a signal may come
    by any thread, such as one of NumPy's.
    """
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(n, lambda number, frame: caught.append(number)) for n in numbers]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        for late in caught:
            signal.raise_signal(late)
