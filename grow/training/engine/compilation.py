"""torch.compile of the model, and its warm-up before the run's clock starts."""

from collections.abc import Iterable

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grow.data.data_module import TokenDataModule
from grow.families.build import decoder_blocks
from grow.training.plan import Batch
from grow.training.step.module import PretrainModule


def compile_in_place(model: PreTrainedModel, mode: str) -> None:
    """Compile for fixed shapes: nothing, each decoder block, or the whole model without its head.

    Args:
        model: Model whose parameters keep their names.
        mode: One of none, block and model.
    """
    parts: dict[str, Iterable[nn.Module]] = {
        "none": (),
        "block": decoder_blocks(model)[1],
        "model": (model.base_model,),
    }
    for part in parts[mode]:
        part.compile(dynamic=False)


def warm_up(trainer: L.Trainer, module: PretrainModule, data: TokenDataModule, sizes: Batch) -> None:
    """Compile what training and validation run, at every shape of theirs; the gradients are thrown away.

    DeepSpeed would reduce a gradient that is accumulated, and count a forward pass through its engine as the first
    step's. So under ZeRO the engine is passed by, and the gradient of one parameter is computed without accumulating
    it: the lowest one, whose gradient comes through all blocks.
    """
    batch = torch.zeros(sizes.micro_batch, sizes.sequence_length + 1, dtype=torch.int64, device=module.device)
    with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
        if module.engine is None:
            loss = trainer.strategy.training_step(batch, 0)
            assert isinstance(loss, Tensor)
            loss.backward()
        else:
            loss = module.training_step(batch, 0)
            torch.autograd.grad(loss, next(each for each in module.parameters() if each.requires_grad))
    trainer.optimizers[0].zero_grad()
    module.mean_loss()
    module.mean_taught()
    module.routing_row()
    shapes = {len(batch): batch for batch in data.val_dataloader()}
    module.validation_losses(shapes.values(), passes=2)  # whole batches, and the smaller last one
