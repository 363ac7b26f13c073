"""The processes of a run as Lightning wants to see them: started from outside, whoever started them."""

import os

from lightning.fabric.plugins import ClusterEnvironment

from grow.distributed.ranks import Ranks


class StartedOutside(ClusterEnvironment):
    """Tells Lightning what `Ranks` found, so that it neither starts processes nor guesses at the cluster."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "29500"))

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return self._ranks.world_size

    def set_world_size(self, size: int) -> None:
        """Nothing: it is what was started."""

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: it is what was started."""

    def local_rank(self) -> int:
        return self._ranks.local_rank

    def node_rank(self) -> int:
        return self._ranks.rank // self._ranks.local_world_size
