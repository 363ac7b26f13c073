"""Runs tasks in processes that end with the process that started them, and tell it how far they are."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from queue import Empty
from typing import Any

from grow.common.child_process import ends_with
from grow.common.errors import DataError
from grow.common.work_bar import WorkBar

_SECONDS_BETWEEN_REPORTS = 0.5
_of_worker: dict[str, Any] = {}  # queue of reports, and event that stops


class _Stopped(Exception):
    """Another worker failed, or the user interrupted."""


def run_in_workers(function: Callable[..., None], arguments: Sequence[Any], workers: int, bar: WorkBar) -> None:
    """Call a function of the top level with each argument and a `Report`, in processes; the first error stops all.

    Raises:
        DataError: a worker was killed.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    context = get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    start = (os.getpid(), reports, stop)
    with ProcessPoolExecutor(workers, context, _begin, start) as pool:
        running = {pool.submit(_call, function, argument) for argument in arguments}
        try:
            while running:
                done, running = wait(running, timeout=_SECONDS_BETWEEN_REPORTS, return_when=FIRST_COMPLETED)
                _show(reports, bar)
                for each in done:
                    _result(each)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _show(reports, bar)


def _result(future: "Future[None]") -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise DataError(
            "a worker was killed, perhaps for its memory. Finished tasks are kept: start the same command again, with "
            "fewer workers where memory is short."
        ) from None


def _show(reports: Any, bar: WorkBar) -> None:
    while True:
        try:
            bar.add(*reports.get_nowait())
        except Empty:
            return


def _begin(parent: int, reports: Any, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and stops the workers
    if (follow := ends_with(parent, signal.SIGKILL)) is not None:
        follow()
    _of_worker.update(reports=reports, stop=stop)


def _call(function: Callable[..., None], argument: Any) -> None:
    sums, said = [0, 0, 0], time.monotonic()

    def report(*counts: int) -> None:
        nonlocal said
        sums[:] = [sum(pair) for pair in zip(sums, counts, strict=True)]
        if time.monotonic() - said >= _SECONDS_BETWEEN_REPORTS:
            flush()

    def flush() -> None:
        nonlocal said
        if _of_worker["stop"].is_set():
            raise _Stopped
        _of_worker["reports"].put(tuple(sums))
        sums[:], said = [0, 0, 0], time.monotonic()

    function(argument, report)
    flush()
