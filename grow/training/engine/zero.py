"""DeepSpeed's ZeRO through Lightning's strategy: its configuration, and support for CPUs, which Lightning lacks."""

import os
import warnings
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor

from grow.training.plan import Plan
from grow.training.settings import ZERO_BUCKET_ELEMENTS
from grow.training.step.module import PretrainModule


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, on any device, in a process group that exists already."""

    @property
    def root_device(self) -> torch.device:
        """Device with an index, which DeepSpeed needs and Lightning's CPU device lacks."""
        return torch.device("cpu", 0) if self._on_cpu else super().root_device

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    def setup_environment(self) -> None:
        """Set up the accelerator and the processes. Lightning calls this first."""
        if self._on_cpu:
            DDPStrategy.setup_environment(self)  # DeepSpeedStrategy's raises on anything but CUDA
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Join DeepSpeed to the process group. `setup_environment` calls this."""
        if not self._on_cpu:
            super().setup_distributed()
            return
        import deepspeed

        # An operator for inference, whose compilation would take minutes here; gloo is used instead.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def init_deepspeed(self) -> None:
        """Start the engine. Lightning calls this during setup."""
        super().init_deepspeed()
        if self.zero_stage_3:  # the loss reads the head's weight, which ZeRO-3 gathers only for the head's own forward
            import deepspeed

            module = self.lightning_module
            assert isinstance(module, PretrainModule)
            deepspeed.zero.register_external_parameter(module, module.model.get_output_embeddings().weight)

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the backward pass without DeepSpeed dividing the loss by the number of accumulated micro-batches.

        Lightning has divided it already. Divided twice, gradients would be too small by that factor: Adam hides
        that, but clipping would never happen.
        """
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)


def build_zero(plan: Plan, device: torch.device, parameters: int, environment: ClusterEnvironment) -> ZeroStrategy:
    """Build the strategy for zero1, zero2 or zero3.

    Args:
        plan: Kind of the strategy, and the batch.
        device: Device of this rank.
        parameters: Number of parameters of the model; bounds the size of the communication buckets.
        environment: Cluster environment that names the processes.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="torch.distributed"
    )  # about calls that DeepSpeed makes
    bucket = min(ZERO_BUCKET_ELEMENTS, parameters)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.batch.micro_batch,
        "zero_optimization": {
            "stage": int(plan.strategy.kind.removeprefix("zero")),
            "overlap_comm": device.type == "cuda",
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,  # torch's AdamW, as under every other strategy
        "zero_force_ds_cpu_optimizer": False,
        "data_types": {"grad_accum_dtype": "fp32"},
    }
    backend = "nccl" if device.type == "cuda" else "gloo"
    return ZeroStrategy(config=config, cluster_environment=environment, process_group_backend=backend)
