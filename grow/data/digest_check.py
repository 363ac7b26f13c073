"""Compares the shards of a run with their digests while it trains, so that damaged data ends the run."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from grow.common.errors import DataError
from grow.data.manifest import Shard
from grow.data.shards import TokenShards

WAITED_FOR_BYTES = 128 * 2**20  # well under a second; as little is compared before the first step
_LOWEST_PRIORITY = 19


class DigestCheck:
    """Reads shards once, in a thread that only gets what the training leaves of the processors.

    Args:
        shards: Opened shards.
        chosen: Those of them to compare, in this order.
    """

    def __init__(self, shards: TokenShards, chosen: Sequence[Shard]) -> None:
        self._shards, self._chosen = shards, chosen
        self._compared = 0
        self._stopped = threading.Event()
        self.failure: str | None = None
        """What is wrong with the first damaged shard; None while none was found."""

    @property
    def left(self) -> int:
        """Number of shards that were not compared yet."""
        return len(self._chosen) - self._compared

    def start(self) -> None:
        """Start to compare; where the shards are small, wait until that is done."""
        thread = threading.Thread(target=self._compare, name="shard digests", daemon=True)
        thread.start()
        if sum(map(self._shards.bytes_of, self._chosen)) <= WAITED_FOR_BYTES:
            thread.join()

    def stop(self) -> None:
        """Compare no further shards."""
        self._stopped.set()

    def _compare(self) -> None:
        with suppress(OSError):  # Linux has priorities of single threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        for shard in self._chosen:
            if self._stopped.is_set():
                return
            try:
                self._shards.check(shard)
            except DataError as error:
                self.failure = str(error)
                return
            self._compared += 1
