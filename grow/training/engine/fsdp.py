"""PyTorch's fully_shard (FSDP2) through Lightning's model-parallel strategy."""

from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from grow.families.build import decoder_blocks
from grow.training.step.module import PretrainModule


class FullyShardedStrategy(ModelParallelStrategy):
    """Runs each step through the module's own forward, whose hooks gather the weights outside the decoder blocks.

    Args:
        ranks: Number of processes to shard over.
        environment: Cluster environment that names the processes.
    """

    def __init__(self, ranks: int, environment: ClusterEnvironment) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)
        self.cluster_environment = environment

    def training_step(self, *args: Any) -> Tensor:
        """Run the module's training step; Lightning calls this for each micro-batch."""
        return self._through_forward("training_step", *args)

    def validation_step(self, *args: Any) -> None:
        """Run the module's validation step, then free the gathered weights: no backward pass follows to do it."""
        self._through_forward("validation_step", *args)
        assert isinstance(self.lightning_module, FSDPModule)
        self.lightning_module.reshard()

    def _through_forward(self, method: str, *args: Any) -> Any:
        assert self.model is not None and self.lightning_module is not None
        return self._forward_redirection(self.model, self.lightning_module, method, *args)


def shard_fully(module: PretrainModule) -> None:
    """Shard each decoder block by itself, and the rest of the module as one unit that stays gathered for the step."""
    assert module.device_mesh is not None  # the strategy has set it
    mesh = module.device_mesh["data_parallel"]
    for block in decoder_blocks(module.model)[1]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
