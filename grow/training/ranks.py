"""The processes of a run, as the environment that torchrun sets describes them."""

import os
from dataclasses import dataclass

from grow.common.errors import ConfigError
from grow.training.settings import StrategySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that torchrun started."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, strategy: StrategySettings) -> "Ranks":
        """Read torchrun's variables.

        Raises:
            ConfigError: several processes were started for a strategy of one.
        """
        names = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        found = {field: int(os.environ[name]) for field, name in names.items() if name in os.environ}
        world_size = found.get("world_size", 1)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        if strategy.kind == "single" and world_size > 1:
            raise ConfigError(
                f"strategy={strategy.name} is for one process, but WORLD_SIZE={world_size}: each would train a model "
                "of its own into the same directory. Add strategy=ddp, or start without torchrun."
            )
        return cls(**found, local_world_size=local)

    @property
    def is_first(self) -> bool:
        return self.rank == 0
