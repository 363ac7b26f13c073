"""PyTorch's fully_shard (FSDP2) through Lightning's model-parallel strategy."""

from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from grow.training.step.module import PretrainModule


class FullyShardedStrategy(ModelParallelStrategy):
    """Calls the module as a module, so that what is around the blocks is gathered too.

    Args:
        ranks: processes to shard over.
        environment: the processes.
    """

    def __init__(self, ranks: int, environment: ClusterEnvironment) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)
        self.cluster_environment = environment

    def training_step(self, *args: Any) -> Tensor:
        return self._forward_redirection(self.model, self.lightning_module, "training_step", *args)

    def validation_step(self, *args: Any) -> None:
        self._forward_redirection(self.model, self.lightning_module, "validation_step", *args)
        self.lightning_module.reshard()  # no backward pass follows that would do it


def shard_fully(module: PretrainModule) -> None:
    """Each decoder block is gathered for itself, what is around them for the whole step."""
    mesh = module.device_mesh["data_parallel"]
    for block in module.model.get_decoder().layers:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
