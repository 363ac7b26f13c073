"""DeepSpeed's ZeRO through Lightning's strategy: its configuration, a CPU where Lightning wants CUDA."""

import os
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from grow.training.plan import Plan

_BUCKET_ELEMENTS = 200_000_000  # reduced or gathered at a time: large enough to fill a network


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, on any device, in a process group that exists already."""

    @property
    def root_device(self) -> torch.device:
        """DeepSpeed wants an index, which Lightning's CPU device lacks."""
        return torch.device("cpu", 0) if self._on_cpu else super().root_device

    @property
    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    def setup_environment(self) -> None:
        if self._on_cpu:
            DDPStrategy.setup_environment(self)  # Lightning's own raises on anything but CUDA
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if not self._on_cpu:
            super().setup_distributed()
            return
        import deepspeed

        # An operator for inference, which would otherwise be compiled here for minutes; gloo does the work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def build_zero(plan: Plan, device: torch.device, parameters: int, environment: ClusterEnvironment) -> ZeroStrategy:
    """The strategy for zero1, zero2 or zero3.

    Args:
        plan: kind and batch.
        device: of this rank.
        parameters: of the model; bounds the size of the communication buckets.
        environment: the processes.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    bucket = min(_BUCKET_ELEMENTS, parameters)
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
