"""A bar on a terminal while a stored model computes the logits by which a growth is proved: one step a layer."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from grow.common.console import TableConsole
from grow.common.printed import printable
from grow.families.build import decoder_blocks


@contextmanager
def proof_bar(directory: Path, model: PreTrainedModel) -> Iterator[None]:
    """Show how many layers a model has computed, for the length of a block with one forward pass."""
    _, layers = decoder_blocks(model)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = TableConsole(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(printable(f"prove {directory.name}"), total=len(layers))
        hooks = [layer.register_forward_hook(lambda *_: bar.advance(task)) for layer in layers]
        yield
        for hook in hooks:
            hook.remove()
