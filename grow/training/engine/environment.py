"""Lightning's cluster environment of a run: its processes were started from outside, by torchrun or srun."""

import os

from lightning.fabric.plugins import ClusterEnvironment

from grow.distributed.ranks import Ranks


class StartedOutside(ClusterEnvironment):
    """Tells Lightning what `Ranks` found, so that it neither starts processes nor detects a cluster itself."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """Always True: Lightning starts no processes."""
        return True

    @property
    def main_address(self) -> str:
        """Host name or address of rank 0."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Port on which the ranks meet."""
        return int(os.environ.get("MASTER_PORT", "29500"))

    @staticmethod
    def detect() -> bool:
        """Return True: this environment is chosen explicitly."""
        return True

    def world_size(self) -> int:
        """Return the number of processes."""
        return self._ranks.world_size

    def set_world_size(self, size: int) -> None:
        """Do nothing: the started processes decide. Lightning calls this."""

    def global_rank(self) -> int:
        """Return this process's rank among all."""
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the started processes decide. Lightning calls this."""

    def local_rank(self) -> int:
        """Return this process's rank on its machine."""
        return self._ranks.local_rank

    def node_rank(self) -> int:
        """Return the number of this process's machine."""
        return self._ranks.rank // self._ranks.local_world_size
