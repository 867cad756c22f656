"""Work on traces in parallel processes."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kvcore.sim.trace import Trace

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_traces(
    work: Callable[[Trace, Item], Result],
    traces: Iterable[Trace],
    items: Callable[[Trace], Iterable[Item]],
    jobs: int,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """`work(trace, item)` for all items of each trace, in the order of traces and items.

    Traces are taken one by one and laid into a temporary directory, which the processes map into
    memory; it is removed at the end, also after an interrupt. Call it from the main thread.

    Parameters
    ----------
    work : a function of a module
    traces : may be a generator that reads them
    items : what to do with a trace
    jobs : number of processes; 1 works in this one
    on_result : called in this process with each result, in the order in which they come

    Raises
    ------
    concurrent.futures.process.BrokenProcessPool
        If a process died, for want of memory for instance.
    """
    with tempfile.TemporaryDirectory(prefix="kvcore-replay-") as root:
        tasks = []
        for number, trace in enumerate(traces):
            directory = Path(root, str(number))
            directory.mkdir()
            trace.save(directory)
            tasks += [(directory, item) for item in items(trace)]
        if jobs == 1 or len(tasks) <= 1:
            results = []
            for directory, item in tasks:
                results.append(_work_on_saved(work, directory, item))
                on_result(results[-1])
            return results
        with _processes(min(jobs, len(tasks))) as pool:
            with _signals_deferred():
                futures = [
                    pool.submit(_work_on_saved, work, directory, item) for directory, item in tasks
                ]
            for future in as_completed(futures):
                on_result(future.result())
        return [future.result() for future in futures]


def _work_on_saved(work: Callable[[Trace, Item], Result], directory: Path, item: Item) -> Result:
    return work(Trace.load(directory), item)


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
